"""Runs a .tflite in a process of its own: `python worker.py REQUEST.json ARRAYS.npz RESULT.npz`.

A file of its own that imports numpy and a runtime, nothing of edgekit: it also runs in environments that have no more.
"""

import json
import os
import re
import sys
import tempfile
import time
from typing import Any

import numpy as np

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:
    from tflite_runtime.interpreter import Interpreter

LONGEST_MEASUREMENT_SECONDS = 2.0
ARENA_BYTES = 64 << 20
"""That TFLite Micro may take here; how much of it a file uses is told."""
SIZES = (16, 256, 1024, 16000)
"""To try for dimensions of any size, such as a recording's samples."""


class Micro:
    """TFLite Micro, as microcontrollers have it, behind the interface of the others: one graph, one input, one output.

    Args:
        model_path: the file.
        num_threads: one.
    """

    def __init__(self, model_path: str, num_threads: int = 1) -> None:
        from tflite_micro.python.tflite_micro import runtime

        self._inner = runtime.Interpreter.from_file(model_path, arena_size=ARENA_BYTES)

    def allocate_tensors(self) -> None:
        """Do nothing: it has."""

    def get_input_details(self) -> list[Any]:
        """Return what the input is."""
        return [_as_others(self._inner.get_input_details(0))]

    def get_output_details(self) -> list[Any]:
        """Return what the output is."""
        return [_as_others(self._inner.get_output_details(0))]

    def set_tensor(self, index: int, values: Any) -> None:
        """Give it the input."""
        self._inner.set_input(values, 0)

    def get_tensor(self, index: int) -> Any:
        """Return the output."""
        return self._inner.get_output(0)

    def invoke(self) -> None:
        """Run it."""
        self._inner.invoke()

    def arena(self) -> int:
        """Return the bytes of its arena that the file uses: it prints them alone."""
        with tempfile.TemporaryFile() as said:
            kept = os.dup(2)
            os.dup2(said.fileno(), 2)
            try:
                self._inner.print_allocations()
            finally:
                os.dup2(kept, 2)
                os.close(kept)
            said.seek(0)
            found = re.search(rb"Arena allocation total (\d+) bytes", said.read())
        if found is None:
            raise RuntimeError("TFLite Micro does not tell the size of its arena")
        return int(found[1])


def _as_others(detail: Any) -> Any:
    scales, zeros = (detail["quantization_parameters"][key] for key in ("scales", "zero_points"))
    one = (float(scales[0]), int(zeros[0])) if len(scales) else (0.0, 0)
    return {"index": 0, "shape": detail["shape"], "dtype": detail["dtype"], "quantization": one}


def encoded(values: Any, detail: Any) -> Any:
    """Bring float values into a tensor's number format."""
    if detail["dtype"] == np.float32 or not np.issubdtype(values.dtype, np.floating):
        return values.astype(detail["dtype"])
    scale, zero = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    return np.clip(np.round(values / (scale or 1.0)) + zero, limits.min, limits.max).astype(detail["dtype"])


def decoded(values: Any, detail: Any) -> Any:
    """Bring a tensor's values back to float."""
    if np.issubdtype(values.dtype, np.floating):
        return values.astype(np.float32)
    scale, zero = detail["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale or 1.0)


def measured(interpreter: Any, request: Any) -> Any:
    """Return how long each of some runs took, on one thread, after some that do not count."""
    for _ in range(request["warm_up"]):
        interpreter.invoke()
    taken: list[float] = []
    end = time.perf_counter() + LONGEST_MEASUREMENT_SECONDS
    while len(taken) < request["runs"] and (not taken or time.perf_counter() < end):
        start = time.perf_counter()
        interpreter.invoke()
        taken.append(time.perf_counter() - start)
    return np.array(taken)


def classify(model: str, request: Any, arrays: Any) -> dict[str, Any]:
    """Run each example through the file's first graph; measure the latency of a run on one thread."""
    micro = request["runtime"] == "tflite-micro"
    interpreter = (Micro if micro else Interpreter)(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    (source,), target = interpreter.get_input_details(), interpreter.get_output_details()[0]
    scores = []
    for example in arrays["x"]:
        interpreter.set_tensor(source["index"], encoded(example[None], source))
        interpreter.invoke()
        scores.append(decoded(interpreter.get_tensor(target["index"]), target)[0])
    told = {"scores": np.stack(scores), "seconds": measured(interpreter, request)}
    return {**told, "arena": np.array(interpreter.arena())} if micro else told


def call(model: str, request: Any, arrays: Any) -> dict[str, Any]:
    """Call signatures, one after the other, with the inputs `NUMBER/NAME`; give their outputs likewise.

    With `same` all are called with the first one's inputs, for the seconds alone that each took.
    """
    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    results, seconds, same = {}, [], request.get("same", False)
    for number, signature in enumerate(request["signatures"]):
        prefix = "0/" if same else f"{number}/"
        inputs = {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
        run = interpreter.get_signature_runner(signature)
        start = time.perf_counter()
        outputs = run(**inputs)
        seconds.append(time.perf_counter() - start)
        if not same:
            results.update({prefix + name: np.array(output) for name, output in outputs.items()})
    return {"seconds": np.array(seconds)} if same else results


def stream(model: str, request: Any, arrays: Any) -> dict[str, Any]:
    """Give a step the frames of each sequence, and its own state again; give the scores after the last frame."""
    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    step = interpreter.get_signature_runner(request["signature"])
    width = step.get_input_details()["state"]["shape"]
    scores, seconds = [], []
    for sequence in arrays["x"]:
        state = np.zeros(width, np.float32)
        for frame in sequence:
            start = time.perf_counter()
            outputs = step(frame=frame[None], state=state)
            seconds.append(time.perf_counter() - start)
            state = np.array(outputs["state"])
        scores.append(np.array(outputs["scores"])[0])
    return {"scores": np.stack(scores), "seconds": np.array(seconds)}


def probe(model: str, request: Any, arrays: Any) -> dict[str, Any]:
    """Run a file of any kind once, on the same random numbers wherever it runs.

    Dimensions of any size are given the first of SIZES with which it runs; a batch is 1.
    """
    first = Interpreter(model_path=model, num_threads=1)
    free = {one["index"]: one["shape_signature"].tolist() for one in first.get_input_details()}
    if not any(-1 in shape for shape in free.values()):
        return probed(first, request, 0)
    problem: Exception = RuntimeError("no size fits")
    for size in SIZES:
        interpreter = Interpreter(model_path=model, num_threads=1)
        try:
            for index, shape in free.items():
                batched = len(shape) > 1  # then the first is the batch
                sizes = [max(1, one) if one != -1 or (batched and i == 0) else size for i, one in enumerate(shape)]
                interpreter.resize_tensor_input(index, sizes)
            return probed(interpreter, request, size)
        except (RuntimeError, ValueError) as error:
            problem = error
    raise problem


def probed(interpreter: Any, request: Any, size: int) -> dict[str, Any]:
    """Run a file once on random numbers; `size` is told."""
    interpreter.allocate_tensors()
    rng = np.random.RandomState(0)
    for detail in interpreter.get_input_details():
        values = np.array(rng.rand(*detail["shape"]), np.float32)
        floating = np.issubdtype(detail["dtype"], np.floating)
        whole = np.array(rng.randint(0, 2 if detail["dtype"] == np.bool_ else 100, detail["shape"]))
        interpreter.set_tensor(detail["index"], (values if floating else whole).astype(detail["dtype"]))
    interpreter.invoke()
    details = interpreter.get_output_details()
    outputs = [decoded(interpreter.get_tensor(detail["index"]), detail) for detail in details]
    scores = np.concatenate([output.ravel() for output in outputs])
    return {"scores": scores, "seconds": measured(interpreter, request), "size": np.array(size)}


def main(request_path: str, arrays_path: str, result_path: str) -> None:
    """Do what the request asks."""
    with open(request_path) as file:
        request = json.load(file)
    with np.load(arrays_path) as file:
        arrays = dict(file)
    work = {"classify": classify, "call": call, "probe": probe, "stream": stream}[request["work"]]
    np.savez(result_path, **work(request["model"], request, arrays))


if __name__ == "__main__":
    main(*sys.argv[1:])
