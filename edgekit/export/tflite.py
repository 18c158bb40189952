"""From a trained network to verified .tflite files."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit.data import FederatedDataset
from edgekit.data.federated import Floats, Integers
from edgekit.errors import ExportError
from edgekit.export import runtimes
from edgekit.export.convert import OUTPUT, SIGNATURE, device_shape, input_name, to_float32
from edgekit.export.metadata import add_metadata, describe
from edgekit.export.quantise import number_format, quantise
from edgekit.export.verify import Latency, Ran, run_examples
from edgekit.runfolder import write_whole

LARGEST_FLOAT32_ERROR = 1e-3
"""Largest difference of a score to torch's, relative to the largest score: rounding gives 1e-6, a bug far more."""

SELF_TEST_EXAMPLES = 4


@dataclass(frozen=True)
class Subject:
    """A network to export, and what its files are checked on. What all presets share is made once.

    Attributes:
        model: the network.
        shape: one example's shape.
        test: examples (n, *shape).
        labels: theirs; None if unknown, then files are held against the network's own answers.
        calibration: examples (n, *shape) that set integer ranges; None without.
        classes: names of the scores.
        normalisation: what was done to raw inputs.
    """

    model: nn.Module
    shape: tuple[int, ...]
    test: Floats
    labels: Integers | None
    calibration: Floats | None
    classes: list[str]
    normalisation: dict[str, Any] | None

    @classmethod
    def of(cls, model: nn.Module, dataset: FederatedDataset) -> "Subject":
        """Return a run's network with its dataset's test and calibration set, which no client owns."""
        test, calibration = dataset.test, dataset.calibration
        check_calibration(calibration.y)
        return cls(
            model, dataset.shape, test.x, test.y, calibration.x, list(dataset.classes), dict(dataset.normalisation)
        )

    @cached_property
    def scores(self) -> Floats:
        """What torch gives for the test examples."""
        return own_scores(self.model, self.test)

    @cached_property
    def float32(self) -> bytes:
        """The float32 file that every preset starts from."""
        return to_float32(self.model, self.shape)


@dataclass(frozen=True)
class Exported:
    """A file that passed its check.

    Attributes:
        path: the file.
        bytes: its size.
        accuracy: on the test set, in the first runtime.
        max_abs_error: largest difference of a score to torch's, in any runtime.
        max_relative_error: the same over the largest score.
        runtimes: accuracy by runtime.
        latency_us: of one inference on one thread, by runtime.
        operators: how many of each.
    """

    path: Path
    bytes: int
    accuracy: float
    max_abs_error: float
    max_relative_error: float
    runtimes: dict[str, float]
    latency_us: dict[str, Latency]
    operators: dict[str, int]

    def facts(self, beside: Path) -> dict[str, Any]:
        """Return them as plain values, the path relative to a folder."""
        return {**asdict(self), "path": str(self.path.relative_to(beside))}


def check_calibration(labels: Integers) -> None:
    """See that calibration examples can stand for all.

    Raises:
        ExportError: they are all of one class.
    """
    if len(labels) and len(np.unique(labels)) == 1:
        raise ExportError(
            f"all {len(labels)} calibration examples are of one class, number {labels[0]}: integer ranges taken from "
            "them would not fit the others; give examples of several classes"
        )


def export(
    subject: Subject,
    presets: Sequence[str],
    folder: Path,
    card: dict[str, Any],
    tolerance: float,
    claimed: Sequence[str] = ("ai-edge-litert",),
) -> dict[str, Exported]:
    """Write `folder/PRESET.tflite` for each preset, each first held against torch in every runtime claimed for it.

    Args:
        subject: the network and its test examples.
        presets: number formats.
        folder: where the files go.
        card: facts for the metadata.
        tolerance: accuracy (a fraction) that a quantised file may lose against torch.
        claimed: runtimes that the files shall run in.

    Raises:
        ExportError: a file cannot be made, or fails its check; a file that fails is not written.
    """
    runtimes.check(claimed)
    test = as_device(subject.test)
    reference = subject.scores
    calibration = None if subject.calibration is None else as_device(subject.calibration)
    done: dict[str, Exported] = {}
    for preset in presets:
        needed = calibration if number_format(preset).calibrated else None
        content = quantise(subject.float32, preset, input_name(subject.shape), needed)
        ran = {name: run_examples(content, test, name) for name in claimed}
        checked = {name: check(preset, name, one, reference, subject.labels, tolerance) for name, one in ran.items()}
        accuracy = {runtimes.label(name): share for name, (share, _) in checked.items()}
        first = next(iter(accuracy.values()))
        described = describe(content)
        facts = {
            **_facts(subject, preset, content, described["signatures"]),
            "accuracy": first,
            "runtimes": list(accuracy),
        }
        content = add_metadata(content, {**facts, **card})
        path = folder / f"{preset.replace(':', '-')}.tflite"
        write_whole(path, content)
        largest = max(error for _, error in checked.values())
        done[preset] = Exported(
            path,
            len(content),
            first,
            largest,
            largest / max(1.0, float(np.abs(reference).max())),
            accuracy,
            {runtimes.label(name): one.latency for name, one in ran.items()},
            described["operators"],
        )
    return done


def as_device(x: Floats) -> Floats:
    """Bring examples into the file's layout: images channels-last."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def self_test_examples(shape: Sequence[int]) -> Floats:
    """Return the inputs of a file's self-test, (examples, *shape): everyone can draw them, so no data is given away."""
    rng = np.random.RandomState(0)
    return rng.standard_normal((SELF_TEST_EXAMPLES, *shape)).astype(np.float32)


def _facts(subject: Subject, preset: str, content: bytes, signatures: dict[str, Any]) -> dict[str, Any]:
    shape = device_shape(subject.shape)
    (signature,) = signatures.values()
    ((name, source),) = signature["inputs"].items()
    ((_, target),) = signature["outputs"].items()
    return {
        "preset": preset,
        "signature": SIGNATURE,
        "input": {
            "name": name,
            "shape": [1, *shape],
            "layout": "NHWC" if len(shape) == 3 else "NC",
            "dtype": source["dtype"],
            "normalisation": subject.normalisation,
        },
        "output": {"name": OUTPUT, "dtype": target["dtype"], "labels": subject.classes},
        "self_test": {
            "inputs": f"numpy.random.RandomState(0).standard_normal(({SELF_TEST_EXAMPLES}, "
            f"{', '.join(map(str, shape))}))",
            "scores": run_examples(content, self_test_examples(shape)).scores.round(6).tolist(),
        },
    }


def own_scores(model: nn.Module, x: Floats) -> Floats:
    """Return what torch gives for examples, (examples, classes)."""
    with torch.no_grad():
        return np.concatenate([model.eval()(part).numpy() for part in torch.from_numpy(x).split(500)])


def check(
    preset: str, runtime: str, ran: Ran, reference: Floats, labels: Integers | None, tolerance: float
) -> tuple[float, float]:
    """Return a file's accuracy in a runtime, and its largest error.

    Args:
        preset: the file's number format.
        runtime: where it ran.
        ran: what it gave.
        reference: the network's own scores.
        labels: of the examples; None takes the network's own answers.
        tolerance: accuracy that may be lost.

    Raises:
        ExportError: the scores are not torch's (float32), or lose too much accuracy (the others).
    """
    scores = ran.scores
    if scores.shape != reference.shape or not np.isfinite(scores).all():
        raise ExportError(f"{preset}.tflite gives unusable scores of shape {scores.shape} in {runtime}")
    largest = float(np.abs(scores - reference).max())
    error = largest / max(1.0, float(np.abs(reference).max()))
    if preset == "float32" and error > LARGEST_FLOAT32_ERROR:
        raise ExportError(f"float32.tflite differs from torch by {error:.2g} of the largest score in {runtime}")
    answers = reference.argmax(1) if labels is None else labels
    accuracy = float((scores.argmax(1) == answers).mean())
    expected = float((reference.argmax(1) == answers).mean())
    # One example is not evidence: on a small test set it may be more than the tolerance.
    if accuracy < expected - max(tolerance, 1.5 / len(answers)):
        raise ExportError(
            f"{preset}.tflite has accuracy {accuracy:.4f} in {runtime}, the network {expected:.4f}: "
            f"that is more than export.tolerance = {tolerance:g} lost"
        )
    return round(accuracy, 6), largest
