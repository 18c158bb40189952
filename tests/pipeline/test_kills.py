"""Runs that are killed in the stages after training: gone on with, they end as if nothing had been."""

import json
import os
import random
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


def _without_seconds(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def killed_at_random(tmp_path, keys, kills):
    """Kill a run in training so many times, each time gone on with; return how often that was in a round."""
    command = [
        *PROGRAM,
        "run",
        *SMALL,
        'export.presets=["float32"]',
        "spiking.enabled=false",
        "federation.rounds=60",
        *keys,
        "--out",
    ]
    whole, folder, rng, found = tmp_path / "whole", tmp_path / "killed", random.Random(0), 0
    subprocess.run([*command, str(whole)], check=True, capture_output=True, cwd=tmp_path)
    resume = [*PROGRAM, "resume", str(folder)]
    for _kill in range(kills):
        begun = len(_without_seconds(folder)) if folder.exists() else 0
        run = subprocess.Popen(
            resume if folder.exists() else [*command, str(folder)], cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        lines = folder / "metrics.jsonl"
        while run.poll() is None and (not lines.exists() or lines.read_bytes().count(b"\n") <= begun):
            time.sleep(0.002)
        time.sleep(rng.random() * 0.06)
        found += run.poll() is None
        run.kill()
        run.wait()
        if len(_without_seconds(folder)) >= 60:
            break
    subprocess.run(resume, check=True, capture_output=True, cwd=tmp_path)
    assert _without_seconds(folder) == _without_seconds(whole)
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    ("trainer", "more"),
    [
        ("client-major", "federation.algorithm=scaffold"),
        ("client-major", "privacy.unit=example"),
        ("cohort", "federation.algorithm=scaffold"),
        ("cohort", "training.workers=2"),
    ],
)
def test_a_run_that_is_killed_at_random_in_training_ends_with_the_same_bits(trainer, more, tmp_path):
    assert killed_at_random(tmp_path, (f"training.trainer={trainer}", more), 4) >= 3
