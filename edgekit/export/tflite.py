"""From a trained network to verified .tflite files."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit.arrays import Array
from edgekit.data import FederatedDataset
from edgekit.data.federated import Floats
from edgekit.errors import ExportError
from edgekit.export import runtimes
from edgekit.export.convert import OUTPUT, SIGNATURE, as_inputs, device_shape, to_float32
from edgekit.export.equalise import equalised
from edgekit.export.metadata import add_metadata, describe
from edgekit.export.quantise import number_format, quantise, worst_layer
from edgekit.export.ranges import Inputs
from edgekit.export.verify import Latency, Ran, run_examples
from edgekit.models.adapters import merged
from edgekit.models.fake_quantisation import integers_of
from edgekit.models.norm import fold_weight_standardisation
from edgekit.models.sequence import vocabulary_of
from edgekit.objectives import Objective, objective_of
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
        labels: theirs; None if unknown, then files are held against the network's own answers: its classes.
        calibration: examples (n, *shape) that set integer ranges; None without.
        classes: names of the scores.
        normalisation: what was done to raw inputs.
        limit: name of the setting that says how much a file may lose.
    """

    model: nn.Module
    shape: tuple[int, ...]
    test: Floats
    labels: Array | None
    calibration: Floats | None
    classes: list[str]
    normalisation: dict[str, Any] | None
    limit: str = "export.tolerance"

    @classmethod
    def of(cls, model: nn.Module, dataset: FederatedDataset) -> "Subject":
        """Return a run's network with its dataset's test and calibration set, which no client owns."""
        test, calibration = dataset.test, dataset.calibration
        if dataset.objective.of_classes:
            check_calibration(calibration.y)
        return cls(
            model, dataset.shape, test.x, test.y, calibration.x, list(dataset.classes), dict(dataset.normalisation)
        )

    @property
    def objective(self) -> Objective:
        """What the network is trained for."""
        return objective_of(self.model)

    @property
    def measure(self) -> str:
        """Name of what files are held to: without labels it is agreement with the network."""
        return "agreement" if self.labels is None else self.objective.measure

    def score(self, scores: Floats) -> float:
        """Return how good scores for the test examples are, by the objective's measure."""
        answers = self.scores.argmax(1) if self.labels is None else self.labels
        return self.objective.figures(scores, answers, self.test).score

    @cached_property
    def scores(self) -> Floats:
        """What torch gives for the test examples."""
        return own_scores(self.model, self.test)

    @property
    def inputs(self) -> Inputs:
        """The calibration examples as the file's signature takes them; none without."""
        if self.calibration is None:
            return {}
        return as_inputs(self.shape, as_device(self.calibration))

    @cached_property
    def float32(self) -> bytes:
        """The float32 file that every preset starts from."""
        return to_float32(merged(self.model), self.shape)

    @cached_property
    def equalised(self) -> bytes:
        """The float32 file of the network with channels of like ranges."""
        return to_float32(equalised(fold_weight_standardisation(merged(self.model)))[0], self.shape)


@dataclass(frozen=True)
class Exported:
    """A file that passed its check.

    Attributes:
        path: the file.
        bytes: its size.
        score: on the test set, in the first runtime, by the objective's measure.
        max_abs_error: largest difference of a score to torch's, in any runtime.
        max_relative_error: the same over the largest score.
        runtimes: the same by runtime.
        latency_us: of one inference on one thread, by runtime.
        operators: how many of each.
        measure: name of the measure.
        arena: bytes that TFLite Micro took, where it was claimed for that (see `verify.Ran`).
    """

    path: Path
    bytes: int
    score: float
    max_abs_error: float
    max_relative_error: float
    runtimes: dict[str, float]
    latency_us: dict[str, Latency]
    operators: dict[str, int]
    measure: str = "accuracy"
    arena: int | None = None

    def facts(self, beside: Path) -> dict[str, Any]:
        """Return them as plain values, the score by its measure's name, the path relative to a folder."""
        plain = asdict(self)
        if self.arena is None:
            del plain["arena"]
        return {plain.pop("measure"): plain.pop("score"), **plain, "path": str(self.path.relative_to(beside))}


def check_calibration(labels: Array) -> None:
    """See that calibration examples can stand for all.

    Raises:
        ExportError: they are all of one class.
    """
    if len(labels) and labels.ndim == 1 and len(np.unique(labels)) == 1:
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
    percentile: float = 100.0,
    equalise: bool = False,
    on_notice: Callable[[str], None] = lambda line: None,
) -> dict[str, Exported]:
    """Write `folder/PRESET.tflite` for each preset, each first held against torch in every runtime claimed for it.

    Args:
        subject: the network and its test examples.
        presets: number formats.
        folder: where the files go.
        card: facts for the metadata.
        tolerance: of the measure (a fraction of 1), what a quantised file may lose against torch.
        claimed: runtimes that the files shall run in.
        percentile: share of an activation's values, in percent, that integer ranges hold.
        equalise: whether channels are brought to like ranges before they become integers.
        on_notice: told which layers stay in float.

    Raises:
        ExportError: a file cannot be made, or fails its check; a file that fails is not written.
    """
    runtimes.check(claimed, presets)
    test = as_device(subject.test)
    reference = subject.scores
    inputs = subject.inputs
    done: dict[str, Exported] = {}
    for preset in presets:
        trained = integers_of(subject.model)
        grids = trained.grids if trained is not None and trained.format == preset else None
        alike = equalise and number_format(preset).calibrated and grids is None
        content = quantise(
            subject.equalised if alike else subject.float32, preset, inputs, percentile, on_notice, grids
        )
        ran = {name: run_examples(content, test, name) for name in claimed}
        try:
            checked = {name: check(preset, name, one, subject, tolerance) for name, one in ran.items()}
        except ExportError as error:
            raise ExportError(f"{error}{_culprit(subject, preset)}") from None
        scores = {runtimes.label(name): share for name, (share, _) in checked.items()}
        first, measure = next(iter(scores.values())), subject.measure
        described = describe(content)
        facts = {
            **_facts(subject, preset, content, described["signatures"]),
            measure: first,
            "runtimes": list(scores),
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
            scores,
            {runtimes.label(name): one.latency for name, one in ran.items()},
            described["operators"],
            measure,
            next((one.arena for one in ran.values() if one.arena is not None), None),
        )
    return done


def _culprit(subject: Subject, preset: str) -> str:
    """Return which layer of a file that lost too much costs most, and what to do, for the message."""
    if not subject.inputs:
        return ""
    try:
        worst = worst_layer(subject.float32, preset, subject.inputs)
    except Exception:  # the message stands without it
        return ""
    if worst is None:
        return ""
    return (
        f"; layer {worst.layer} costs most, {worst.decibels:.0f} dB: preset int8-mixed leaves such layers in float, "
        "int16 has finer activations"
    )


def as_device(x: Floats) -> Floats:
    """Bring examples into the file's layout: images channels-last."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def self_test_examples(shape: Sequence[int], vocabulary: int = 0) -> Floats:
    """Return the inputs of a file's self-test, (examples, *shape): everyone can draw them, so no data is given away."""
    rng = np.random.RandomState(0)
    if vocabulary:
        return rng.randint(0, vocabulary, (SELF_TEST_EXAMPLES, *shape)).astype(np.float32)
    return rng.standard_normal((SELF_TEST_EXAMPLES, *shape)).astype(np.float32)


def _facts(subject: Subject, preset: str, content: bytes, signatures: dict[str, Any]) -> dict[str, Any]:
    shape = device_shape(subject.shape)
    (signature,) = signatures.values()
    ((name, source),) = signature["inputs"].items()
    ((_, target),) = signature["outputs"].items()
    many = vocabulary_of(subject.model)
    sizes = f"({SELF_TEST_EXAMPLES}, {', '.join(map(str, shape))})"
    drawn = f"randint(0, {many}, {sizes})" if many else f"standard_normal({sizes})"
    return {
        "preset": preset,
        "signature": SIGNATURE,
        "input": {
            "name": name,
            "shape": [1, *shape],
            "layout": "NHWC" if len(shape) == 3 else "NC",
            "dtype": source["dtype"],
            "normalisation": subject.normalisation,
            **({"vocabulary": many} if many else {}),
        },
        "output": {"name": OUTPUT, "dtype": target["dtype"], "labels": subject.classes},
        "self_test": {
            "inputs": f"numpy.random.RandomState(0).{drawn}",
            "scores": run_examples(content, self_test_examples(shape, many)).scores.round(6).tolist(),
        },
    }


def own_scores(model: nn.Module, x: Floats) -> Floats:
    """Return what torch gives for examples, (examples, outputs)."""
    with torch.no_grad():
        return np.concatenate([model.eval()(part).numpy() for part in torch.from_numpy(x).split(500)])


def _by_chance(scores: Floats, subject: Subject) -> float:
    """Return how much of a measure a file may lose by chance: few examples on which it differs are no evidence.

    Of classes that is 1.64 standard deviations of what is lost and won (McNemar 1947): one in twenty files as good as
    the network would seem to lose more.
    """
    many = len(scores)
    if subject.labels is None or subject.labels.ndim != 1 or not subject.objective.of_classes:
        return 1.5 / many
    answers, own = (subject.objective.answer(one).argmax(1) == subject.labels for one in (scores, subject.scores))
    return float(max(1.5, 1.64 * np.sqrt((answers != own).sum())) / many)


def check(preset: str, runtime: str, ran: Ran, subject: Subject, tolerance: float) -> tuple[float, float]:
    """Return how good a file is in a runtime by the objective's measure, and its largest error.

    Args:
        preset: the file's number format.
        runtime: where it ran.
        ran: what it gave.
        subject: the network and its test examples.
        tolerance: of the measure, what may be lost.

    Raises:
        ExportError: the scores are not torch's (float32), or lose too much (the others).
    """
    scores, reference = ran.scores, subject.scores
    if scores.shape != reference.shape or not np.isfinite(scores).all():
        raise ExportError(f"{preset}.tflite gives unusable scores of shape {scores.shape} in {runtime}")
    largest = float(np.abs(scores - reference).max())
    error = largest / max(1.0, float(np.abs(reference).max()))
    if not np.isfinite(reference).all():
        raise ExportError("the network itself gives scores that are not finite: no file can be held against them")
    if preset == "float32" and not error <= LARGEST_FLOAT32_ERROR:
        raise ExportError(f"float32.tflite differs from torch by {error:.2g} of the largest score in {runtime}")
    found, expected, measure = subject.score(scores), subject.score(reference), subject.measure
    if not found >= expected - tolerance - _by_chance(scores, subject):
        raise ExportError(
            f"{preset}.tflite has {measure} {found:.4f} in {runtime}, the network {expected:.4f}: "
            f"that is more than {subject.limit} = {tolerance:g} lost"
        )
    return round(found, 6), largest
