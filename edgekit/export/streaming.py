"""A network of sequences as a .tflite that takes a frame at a time: state in, state out."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.arrays import Array
from edgekit.data import Examples
from edgekit.errors import ExportError
from edgekit.export import runtimes
from edgekit.export.convert import OUTPUT, to_signatures
from edgekit.export.metadata import STREAM, add_metadata
from edgekit.export.tflite import LARGEST_FLOAT32_ERROR, own_scores
from edgekit.export.verify import stream
from edgekit.models.norm import fold_weight_standardisation
from edgekit.models.sequence import SequenceNetwork
from edgekit.runfolder import write_whole

FILE = "stream.tflite"
SIGNATURE, FRAME, STATE = "step", "frame", "state"
CHECKED = 64
"""Sequences that the file is held against torch with."""


class _Step(nn.Module):
    """A step whose states lie in one row."""

    def __init__(self, model: SequenceNetwork) -> None:
        super().__init__()
        self.model, self.shapes = model, model.states()

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        parts = inputs[STATE].split([math.prod(shape) for shape in self.shapes], -1)
        states = tuple(part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True))
        scores, states = self.model.step(inputs[FRAME], states)
        return {OUTPUT: scores, STATE: torch.cat([state.flatten(1) for state in states], -1)}


def as_frames(x: Array, given: int) -> Array:
    """Return examples (n, ..., time) as frames (n, time, numbers of a frame); of tokens, one number."""
    return np.ascontiguousarray(x.reshape(len(x), given, -1).transpose(0, 2, 1))


def to_stream(model: SequenceNetwork) -> bytes:
    """Convert a network of sequences to a float32 .tflite with the signature `step(frame, state) -> scores, state`.

    A device begins with a state of zeros and calls it with each frame; the scores are for what was seen so far.

    Raises:
        ExportError: an operator cannot be converted.
    """
    step = _Step(fold_weight_standardisation(copy.deepcopy(model)).eval())  # type: ignore[arg-type]
    width = sum(math.prod(shape) for shape in step.shapes)
    sample = {FRAME: torch.zeros(1, model.frames.given), STATE: torch.zeros(1, width)}
    return to_signatures({SIGNATURE: (step, sample)}, FILE)


def write_stream(
    model: SequenceNetwork, test: Examples, folder: Path, card: dict[str, Any], claimed: list[str]
) -> dict[str, Any]:
    """Write `folder/stream.tflite`, held against the whole network on whole sequences in each runtime.

    Args:
        model: the trained network.
        test: to measure with.
        folder: where the file goes.
        card: facts for the metadata.
        claimed: runtimes that it shall run in.

    Returns:
        `path`, `bytes`, `frames` of a sequence, numbers of a `frame` and of the `state`, the largest `max_error` to
        torch relative to the largest score, and in each runtime the median `latency_us` of a frame.

    Raises:
        ExportError: it cannot be converted, or a runtime gives other scores than torch.
    """
    runtimes.check(claimed)
    content = to_stream(model)
    x = test.x[:CHECKED]
    expected = own_scores(model, x)
    largest = max(1.0, float(np.abs(expected).max()))
    worst, latency = 0.0, {}
    for runtime in claimed:
        ran = stream(content, SIGNATURE, as_frames(x, model.frames.given), runtime)
        error = float(np.abs(ran.scores - expected).max()) / largest
        if not error <= LARGEST_FLOAT32_ERROR:
            raise ExportError(f"in {runtime} {FILE} differs from torch by {error:.2g} after the last frame")
        worst = max(worst, error)
        latency[runtimes.label(runtime)] = ran.latency.median
    states = sum(math.prod(shape) for shape in model.states())
    facts = {"kind": STREAM, "signatures": [SIGNATURE], "frames": model.frames.time, "state": states}
    write_whole(folder / FILE, add_metadata(content, {**facts, **card}))
    return {
        "path": str(Path(folder.name) / FILE),
        "bytes": (folder / FILE).stat().st_size,
        "frames": model.frames.time,
        "frame": model.frames.given,
        "state": states,
        "max_error": float(f"{worst:.3g}"),
        "latency_us": latency,
    }
