"""Latencies from another device: a command of the user's runs a candidate's file there, and prints what it took."""

import json
import math
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError

FILE = "{file}"
"""In a command, the place of the file's path."""
SECONDS = 600.0
TIMES = 2
"""That a file is run; the faster counts, since other work only slows a device."""


def latency_us(command: str, content: bytes) -> float:
    """Return microseconds of an inference, as a command tells.

    Args:
        command: for the shell; `{file}` stands for the file.
        content: of the file.

    Raises:
        EdgekitError: it fails, takes too long, or prints no latency.
    """
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "candidate.tflite"
        path.write_bytes(content)
        return min(_once(command.replace(FILE, shlex.quote(str(path)))) for _ in range(TIMES))


def _once(command: str) -> float:
    try:
        done = subprocess.run(command, shell=True, capture_output=True, timeout=SECONDS, text=True, errors="replace")
    except subprocess.TimeoutExpired:
        raise EdgekitError(f"--measure: no answer within {SECONDS:g} s") from None
    if done.returncode:
        told = " ".join(done.stderr.split())[-200:] or "it printed nothing"
        raise EdgekitError(f"--measure: the command ended with {done.returncode}: {told}")
    found = told_in(done.stdout)
    if found is None:
        printed = " ".join(done.stdout.split())[:80] or "nothing"
        raise EdgekitError(
            f"--measure: it printed {printed!r}; microseconds were expected, or what edgekit inspect --check --json "
            "prints"
        )
    return found


def told_in(text: str) -> float | None:
    """Return the microseconds that a text tells: a number, or JSON with `latency_us`; None if none."""
    try:
        told = json.loads(text)
    except ValueError:
        return None
    found = told if isinstance(told, int | float) else _inside(told)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < math.inf:
        return None
    return float(found)


def _inside(told: Any) -> Any:
    """Return the first `latency_us` of nested facts: a number, or the least of a distribution."""
    if not isinstance(told, dict):
        return None
    if "latency_us" in told:
        found = told["latency_us"]
        return found.get("min") if isinstance(found, dict) else found
    return next((one for one in map(_inside, told.values()) if one is not None), None)
