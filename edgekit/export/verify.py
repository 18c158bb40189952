"""Run a .tflite in the runtimes that devices have, in a process of its own: a bad graph may abort it, or never end."""

import json
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Array
from edgekit.data.federated import Floats
from edgekit.errors import ExportError
from edgekit.export import runtimes

TIME_LIMIT_SECONDS = 300
WARM_UP, RUNS = 20, 200
WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Latency:
    """How long one inference takes, on one thread, batch 1, in microseconds.

    Attributes:
        warm_up: runs before, which do not count.
        runs: that count.
        mean: over the runs.
        median: over the runs.
        min: over the runs.
        max: over the runs.
    """

    warm_up: int
    runs: int
    mean: float
    median: float
    min: float
    max: float


@dataclass(frozen=True)
class Ran:
    """What a runtime gave.

    Attributes:
        scores: (examples, classes), as floats; of a probe, all outputs in a row.
        latency: of one inference.
        size: that a probe gave to dimensions of any size; None where there are none.
        arena: bytes that TFLite Micro took for tensors and what it keeps beside, on this 64-bit machine with its
            reference kernels; None of other runtimes.
    """

    scores: Floats
    latency: Latency
    size: int | None = None
    arena: int | None = None


def run_examples(content: bytes, examples: Floats, runtime: str = "ai-edge-litert") -> Ran:
    """Run each example through a file with one input and one output, and measure the latency.

    Args:
        content: the .tflite file.
        examples: as the file takes them, (examples, ...), float32; integer inputs are quantised by their scale.
        runtime: one of `runtimes.NAMES`.

    Raises:
        ExportError: the runtime is missing, refused the file, crashed, or took longer than the time limit.
    """
    return _ran(_work(content, {"work": "classify", "warm_up": WARM_UP, "runs": RUNS}, {"x": examples}, runtime))


def probe(content: bytes, runtime: str) -> Ran:
    """Run a file of any kind on random numbers, the same in every runtime.

    Raises:
        ExportError: as `run_examples`.
    """
    return _ran(_work(content, {"work": "probe", "warm_up": WARM_UP, "runs": RUNS}, {}, runtime))


def call(
    content: bytes, calls: Sequence[tuple[str, dict[str, Array]]], runtime: str = "ai-edge-litert"
) -> list[dict[str, Array]]:
    """Call signatures by name, each with its inputs; return each one's outputs.

    Raises:
        ExportError: as `run_examples`.
    """
    arrays = {f"{number}/{name}": array for number, (_, inputs) in enumerate(calls) for name, array in inputs.items()}
    result = _work(content, {"work": "call", "signatures": [name for name, _ in calls]}, arrays, runtime)
    prefixes = [f"{number}/" for number in range(len(calls))]
    return [{k.removeprefix(p): array for k, array in result.items() if k.startswith(p)} for p in prefixes]


def stream(content: bytes, signature: str, x: Floats, runtime: str = "ai-edge-litert") -> Ran:
    """Give a signature the frames of sequences, (n, time, features), one by one; return the scores after the last.

    Raises:
        ExportError: as `run_examples`.
    """
    return _ran(_work(content, {"work": "stream", "signature": signature}, {"x": x}, runtime))


def timed(content: bytes, signature: str, inputs: dict[str, Array], runtime: str = "ai-edge-litert") -> Latency:
    """Return how long one call of a signature takes.

    Raises:
        ExportError: as `run_examples`.
    """
    request = {"work": "call", "signatures": [signature] * (WARM_UP + RUNS), "same": True}
    result = _work(content, request, {f"0/{name}": array for name, array in inputs.items()}, runtime)
    return _latency(result["seconds"][WARM_UP:])


def _ran(result: dict[str, Array]) -> Ran:
    size = int(result["size"]) if "size" in result else 0
    arena = int(result["arena"]) if "arena" in result else None
    return Ran(result["scores"], _latency(result["seconds"]), size or None, arena)


def _latency(seconds: Array) -> Latency:
    taken = np.round(seconds * 1e6, 1)
    figures = {name: round(float(getattr(np, name)(taken)), 1) for name in ("mean", "median", "min", "max")}
    return Latency(WARM_UP, len(taken), **figures)


def _work(content: bytes, request: dict[str, Any], arrays: dict[str, Array], runtime: str) -> dict[str, Array]:
    python = runtimes.executable(runtime)
    if runtime == runtimes.MICRO and request["work"] != "classify":
        raise ExportError(f"{runtime} runs files of one input and one output on examples alone: take another runtime")
    with tempfile.TemporaryDirectory() as place:
        model, asked, inputs, outputs = (
            Path(place) / name for name in ("model.tflite", "request.json", "arrays.npz", "result.npz")
        )
        model.write_bytes(content)
        asked.write_text(json.dumps({**request, "model": str(model), "runtime": runtime}))
        np.savez(inputs, **arrays)  # type: ignore[arg-type]
        command = [python, "-I", str(WORKER), str(asked), str(inputs), str(outputs)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise ExportError(f"{runtime} did not finish within {TIME_LIMIT_SECONDS} s") from None
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if done.returncode < 0:
            raise ExportError(f"{runtime} was killed by signal {-done.returncode} while it ran the file: {last}")
        if runtime == runtimes.MICRO and (lacking := re.search(r"builtin opcode '(\w+)'", done.stderr)):
            raise ExportError(f"{runtime} cannot run the file: it has no kernel for {lacking[1]}")
        if done.returncode or not outputs.exists():
            raise ExportError(f"{runtime} cannot run the file: {last}")
        with np.load(outputs) as found:
            return dict(found)
