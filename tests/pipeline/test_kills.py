"""Runs that are killed in the stages after training: gone on with, they end as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

SMALL = (
    "model.name=mlp", "model.arguments={}", "data.clients=4", "federation.rounds=2", "training.epochs=1",
    "privacy.unit=none", "export.tolerance=0.9", "spiking.steps=4",
)  # fmt: skip
PROGRAM = [sys.executable, "-P", "-m", "edgekit.cli"]


def _result(folder):
    """Return what a run's result says, without what its clock says."""
    found = json.loads((folder / "result.json").read_text())
    for facts in found["tflite"].values():
        del facts["latency_us"]
    return {key: value for key, value in found.items() if key != "seconds"}


@pytest.mark.long
def test_a_run_that_is_killed_in_any_stage_ends_the_same(tmp_path):
    whole = tmp_path / "whole"
    subprocess.run([*PROGRAM, "run", *SMALL, "--out", str(whole)], check=True, capture_output=True, cwd=tmp_path)
    for stage in ("Making and checking", "Making and running", "Writing the report"):
        folder, log = tmp_path / stage.split()[-1], tmp_path / "log"
        with open(log, "wb") as file:
            run = subprocess.Popen(
                [*PROGRAM, "run", *SMALL, "--out", str(folder)], stdout=file, stderr=file, cwd=tmp_path,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
            while stage not in log.read_text() and run.poll() is None:
                time.sleep(0.01)
            time.sleep(0.3)
            os.kill(run.pid, signal.SIGKILL)
            run.wait()
        subprocess.run([*PROGRAM, "resume", str(folder)], check=True, capture_output=True, cwd=tmp_path)
        assert _result(folder) == _result(whole), stage
