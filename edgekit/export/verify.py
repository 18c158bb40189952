"""Run a .tflite in the runtime that devices have, in a process of its own: a bad graph may abort it."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgekit.data.federated import Floats
from edgekit.errors import ExportError

TIME_LIMIT_SECONDS = 300


def run_in_litert(content: bytes, examples: Floats) -> Floats:
    """Return the scores that LiteRT gives, (examples, classes).

    Args:
        content: the .tflite file.
        examples: as the file takes them, (examples, ...), float32.

    Raises:
        ExportError: the runtime refused the file, crashed, or took longer than the time limit.
    """
    with tempfile.TemporaryDirectory() as place:
        model, inputs, outputs = (Path(place) / name for name in ("model.tflite", "inputs.npy", "outputs.npy"))
        model.write_bytes(content)
        np.save(inputs, examples)
        command = [sys.executable, "-m", "edgekit.export.litert_process", str(model), str(inputs), str(outputs)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise ExportError(f"LiteRT did not finish within {TIME_LIMIT_SECONDS} s") from None
        if done.returncode < 0:
            raise ExportError(f"LiteRT was killed by signal {-done.returncode} while it ran the file")
        if done.returncode or not outputs.exists():
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ExportError(f"LiteRT cannot run the file: {last[0]}")
        scores: Floats = np.load(outputs)
    return scores


def runtime_name() -> str:
    """Return the runtime's name and version."""
    from importlib.metadata import version

    return f"ai-edge-litert {version('ai-edge-litert')}"
