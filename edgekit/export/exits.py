"""A network with early exits as one .tflite whose signatures a device calls until it is sure."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.arrays import Array
from edgekit.data import Examples
from edgekit.errors import ExportError
from edgekit.export import runtimes
from edgekit.export.convert import OUTPUT, device_shape, input_name, to_signatures
from edgekit.export.group_norm import with_fast_group_norms
from edgekit.export.metadata import EXITS, add_metadata
from edgekit.export.quantise import quantise
from edgekit.export.ranges import Inputs
from edgekit.export.tflite import LARGEST_FLOAT32_ERROR, as_device
from edgekit.export.verify import call, timed
from edgekit.models.any_layout import AnyLayout
from edgekit.models.cost import macs
from edgekit.models.norm import fold_weight_standardisation
from edgekit.runfolder import write_whole

FILE, INTEGERS = "exits.tflite", "exits-int8.tflite"
MAP = "map"
AFFORDABLE_LOSS = 0.002
"""Share of the server's own examples that leaving early may answer otherwise than the whole network."""
SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Thresholds to try, as quantiles of the first exit's confidence."""
CHECKED = 16
"""Examples that the file is held against torch with."""


@dataclass(frozen=True)
class Stopped:
    """What a threshold does to examples.

    Attributes:
        threshold: chance of the likeliest class from which on an answer is taken.
        accuracy: of the answers.
        macs: mean multiply-adds until one is taken.
        shares: of the examples that leave at each exit.
    """

    threshold: float
    accuracy: float
    macs: float
    shares: tuple[float, ...]


def has_exits(model: nn.Module) -> bool:
    """Whether a network is one of stages with an answer each."""
    stages = getattr(model, "stages", None)
    return isinstance(stages, nn.ModuleList) and all(hasattr(stage, "answer") for stage in stages)


@torch.no_grad()
def answers(model: nn.Module, x: Array) -> Array:
    """Return all exits' scores, (examples, exits, classes)."""
    held = torch.from_numpy(x)
    found = []
    for stage in model.eval().stages:  # type: ignore[union-attr]
        scores, held = stage(held)
        found.append(scores.numpy())
    return np.stack(found, 1)


def stopped(scores: Array, labels: Array, threshold: float, costs: Array) -> Stopped:
    """Take the first answer of which the likeliest class has this chance, at the latest the last.

    Args:
        scores: (examples, exits, classes).
        labels: classes, (examples,).
        threshold: the chance.
        costs: multiply-adds until each exit, (exits,).
    """
    sure = confidence(scores) >= threshold
    sure[:, -1] = True
    when = sure.argmax(1)
    right = scores[np.arange(len(scores)), when].argmax(1) == labels
    shares = np.bincount(when, minlength=scores.shape[1]) / len(scores)
    return Stopped(threshold, float(right.mean()), float(costs[when].mean()), tuple(round(float(s), 6) for s in shares))


def confidence(scores: Array) -> Array:
    """Return the likeliest class's chance, (examples, exits): scores (examples, exits, classes)."""
    chances = np.exp(scores - scores.max(-1, keepdims=True))
    found: Array = 1 / chances.sum(-1)
    return found


def candidates(scores: Array) -> list[float]:
    """Return thresholds to try, ascending; the last lets nothing leave early."""
    first = confidence(scores)[:, 0]
    return [*sorted({float(np.quantile(first, share)) for share in SHARES}), 1.01]


def write_exits(
    model: nn.Module,
    shape: tuple[int, ...],
    test: Examples,
    own: Examples,
    folder: Path,
    card: dict[str, Any],
    claimed: list[str],
    integers: bool = False,
) -> dict[str, Any]:
    """Write `folder/exits.tflite`, checked in each runtime; return what leaving early gives.

    Args:
        model: the trained network.
        shape: of one example.
        test: to measure with.
        own: the server's own examples, by which thresholds are chosen, and ranges of integers.
        folder: where the files go.
        card: facts for the metadata.
        claimed: runtimes that they shall run in.
        integers: whether to write `exits-int8.tflite` too, with a threshold of its own.

    Returns:
        The `threshold`, and of test examples `accuracy`, `mean_macs`, the `shares` of examples that leave at each exit,
        `macs` until each exit, and in each runtime `latency_us` of each stage and the mean until an answer is taken;
        a `curve` over thresholds. The same of the integers' file under `int8`.

    Raises:
        ExportError: it cannot be converted, or a runtime gives other scores than torch.
    """
    runtimes.check(claimed)
    stages = [with_fast_group_norms(fold_weight_standardisation(copy.deepcopy(one))).eval() for one in model.stages]  # type: ignore[union-attr]
    shapes = _shapes(model, shape)
    costs = np.cumsum([macs(stage, size) for stage, size in zip(model.stages, shapes, strict=True)])  # type: ignore[arg-type]
    scores, chosen_by = answers(model, test.x), answers(model, own.x)
    content, latency = _converted(stages, shapes), {}
    for name in claimed:
        ran, latency[name] = _run(content, test.x[:CHECKED], len(stages), name)
        error = float(np.abs(ran - scores[:CHECKED]).max()) / max(1.0, float(np.abs(scores[:CHECKED]).max()))
        if not error <= LARGEST_FLOAT32_ERROR:
            raise ExportError(f"in {name} the scores of exits.tflite differ from torch by {error:.2g}")
    facts = _facts(scores, chosen_by, test.y, costs, latency)
    _write(folder / FILE, content, facts, card)
    facts |= {"path": str(Path(folder.name) / FILE), "bytes": (folder / FILE).stat().st_size}
    if integers:
        small = quantise(content, "int8", _inputs(stages, own.x))
        of_test = {name: _run(small, test.x, len(stages), name) for name in claimed}
        of_own, _ = _run(small, own.x, len(stages), claimed[0])
        latency = {name: seconds for name, (_, seconds) in of_test.items()}
        found = _facts(of_test[claimed[0]][0], of_own, test.y, costs, latency)
        _write(folder / INTEGERS, small, found, card)
        path = folder / INTEGERS
        facts["int8"] = {**found, "path": str(Path(folder.name) / INTEGERS), "bytes": path.stat().st_size}
    return facts


def _write(path: Path, content: bytes, facts: dict[str, Any], card: dict[str, Any]) -> None:
    signatures = [f"stage{i}" for i in range(len(facts["macs"]))]
    told = {"kind": EXITS, "threshold": facts["threshold"], "signatures": signatures}
    write_whole(path, add_metadata(content, {**told, **card}))


def _facts(
    scores: Array, chosen_by: Array, labels: Array, costs: Array, latency: dict[str, list[float]]
) -> dict[str, Any]:
    """Choose a threshold by the own examples' scores, and measure it on the test examples'."""
    whole = chosen_by[:, -1].argmax(1)  # agreement with it asks more than accuracy does, which few examples tell badly
    thresholds = candidates(chosen_by)
    threshold = next(t for t in thresholds if stopped(chosen_by, whole, t, costs).accuracy >= 1 - AFFORDABLE_LOSS)
    found = stopped(scores, labels, threshold, costs)
    reached = 1 - np.cumsum([0.0, *found.shares])[:-1]
    return {
        "threshold": round(threshold, 6),
        "accuracy": round(found.accuracy, 6),
        "mean_macs": round(found.macs),
        "macs": [int(cost) for cost in costs],
        "shares": list(found.shares),
        "accuracy_by_exit": [round(float((one.argmax(1) == labels).mean()), 6) for one in scores.swapaxes(0, 1)],
        "latency_us": {
            runtimes.label(name): {"stages": each, "mean": round(float((reached * each).sum()), 2)}
            for name, each in latency.items()
        },
        "curve": [
            {"threshold": round(t, 6), "accuracy": round(one.accuracy, 6), "mean_macs": round(one.macs)}
            for t in thresholds
            for one in [stopped(scores, labels, t, costs)]
        ],
    }


@torch.no_grad()
def _inputs(stages: list[nn.Module], x: Array) -> Inputs:
    """Return what each stage's signature is given for examples, one by one."""
    held = torch.from_numpy(x)
    found: dict[str, list[dict[str, Array]]] = {}
    for number, stage in enumerate(stages):
        name = MAP if number else input_name(x.shape[1:])
        found[f"stage{number}"] = [{name: one[None]} for one in as_device(held.numpy())]
        with AnyLayout():
            _, held = stage(held)
    return found


@torch.no_grad()
def _shapes(model: nn.Module, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the shapes of what each stage takes, of one example."""
    held, found = torch.zeros(1, *shape), []
    for stage in model.eval().stages:  # type: ignore[union-attr]
        found.append(tuple(held.shape[1:]))
        _, held = stage(held)
    return found


class _Stage(nn.Module):
    """A stage with named inputs and outputs, maps channels-last; the last gives no map."""

    def __init__(self, stage: nn.Module, last: bool) -> None:
        super().__init__()
        self.stage, self.last = stage, last

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        (x,) = inputs.values()
        with AnyLayout():
            scores, held = self.stage(x.permute(0, 3, 1, 2))
        return {OUTPUT: scores} if self.last else {OUTPUT: scores, MAP: held.permute(0, 2, 3, 1)}


def _converted(stages: list[nn.Module], shapes: list[tuple[int, ...]]) -> bytes:
    named = {
        f"stage{number}": (
            _Stage(stage, stage is stages[-1]),
            {input_name(size) if number == 0 else MAP: torch.zeros(1, *device_shape(size))},
        )
        for number, (stage, size) in enumerate(zip(stages, shapes, strict=True))
    }
    return to_signatures(named, FILE)


def _run(content: bytes, x: Array, exits: int, runtime: str) -> tuple[Array, list[float]]:
    """Run examples through all stages in a runtime.

    Returns:
        All exits' scores, (examples, exits, classes), and each stage's median latency in microseconds.

    Raises:
        ExportError: the runtime cannot.
    """
    held = [{input_name(x.shape[1:]): one[None]} for one in as_device(x)]
    latency, scores = [], []
    for number in range(exits):
        name = f"stage{number}"
        ran = call(content, [(name, inputs) for inputs in held], runtime)
        scores.append(np.concatenate([one[OUTPUT] for one in ran]))
        latency.append(timed(content, name, held[0], runtime).median)
        held = [{MAP: one[MAP]} for one in ran if MAP in one]
    return np.stack(scores, 1), latency
