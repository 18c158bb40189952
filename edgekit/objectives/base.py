"""What an objective is. No torch: devices without it measure, too; losses are given torch's tensors."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from edgekit.arrays import Array
from edgekit.errors import EdgekitError, ExperimentError
from edgekit.section import Chosen, Section

if TYPE_CHECKING:
    from torch import Tensor, nn

Labels = Literal["class", "flags", "values", "normal"]
"""What a label is: the number of a class, a flag for each of several, numbers, or whether an example is normal."""


@dataclass(frozen=True)
class Figures:
    """How good a network is on examples.

    Attributes:
        loss: mean over the examples.
        metrics: by name; the first is the objective's `measure`, by which models are chosen.
        beside: names of those that are told beside it in each round.
        guess: the measure of answers that do not look at the examples.
    """

    loss: float
    metrics: Mapping[str, float]
    beside: tuple[str, ...] = ()
    guess: float = 0.0

    @property
    def score(self) -> float:
        """The value of the measure; larger is better."""
        return next(iter(self.metrics.values()))

    @property
    def measure(self) -> str:
        """Its name."""
        return next(iter(self.metrics))


class Objective:
    """A loss by example, with what its labels are and the metrics that belong to it.

    Whatever the loss is, a batch's is the mean of its examples' losses, and a private step clips each one's gradient:
    a term that is of several examples together has no place here.

    Args:
        settings: of the experiment, of the class's own `Settings`.

    Attributes:
        Settings: its keys in the experiment's `objective.arguments`.
        labels: what a label is. Of `class` and `normal` labels are int64 (examples,), of `flags` and `values` float32
            (examples, outputs); of `class` float32 (examples, classes) of chances that sum to one, too (soft labels).
        measure: name of the metric by which models are chosen and files are checked; larger is better, 1 is best.
        name: by which it was chosen.
    """

    Settings: ClassVar[type[Section]] = Section
    labels: ClassVar[Labels] = "class"
    measure: ClassVar[str] = "accuracy"
    name: str = ""

    def __init__(self, settings: Section | None = None) -> None:
        self.settings = settings or self.Settings()

    def losses(self, scores: "Tensor", y: "Tensor", x: "Tensor") -> "Tensor":
        """Return each example's loss.

        Args:
            scores: of the network, (examples, outputs); (examples, answers, outputs) of a network with several answers.
            y: labels as of `labels`, or as `encoded` gives them.
            x: the examples, (examples, ...).

        Returns:
            (examples,).
        """
        raise NotImplementedError

    def each(self, scores: "Tensor", y: "Tensor", x: "Tensor") -> "Tensor":
        """Return `losses`, checked: (examples,).

        Raises:
            ExperimentError: they fail, or are not one an example.
        """
        try:
            losses = self.losses(scores, y, x)
        except EdgekitError:
            raise
        except Exception as error:  # it may be the user's own
            told = " ".join(str(error).split())[:200]
            raise ExperimentError(f"objective {self.name} fails: {type(error).__name__}: {told}") from error
        shape = getattr(losses, "shape", None)
        if shape != (len(scores),):
            found = type(losses).__name__ if shape is None else f"shape {tuple(shape)}"
            raise ExperimentError(
                f"objective {self.name} gives {found}; it must give a loss for each example, (examples,)"
            )
        return losses

    def check_apart(self, scores: "Tensor", y: "Tensor", x: "Tensor") -> None:
        """See that an example's loss does not change with the others of its batch.

        Raises:
            ExperimentError: it does, or losses fail.
        """
        import torch

        together = self.each(scores, y, x)
        alone = torch.cat([self.each(scores[i : i + 1], y[i : i + 1], x[i : i + 1]) for i in range(len(scores))])
        if not torch.allclose(together, alone, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise ExperimentError(f"objective {self.name}: an example's loss changes with the others of its batch")

    def figures(self, scores: Array, y: Array, x: Array) -> Figures:
        """Return how good scores are; the loss is filled in by who computes it.

        Args:
            scores: (examples, outputs), float32.
            y: labels.
            x: the examples.
        """
        raise NotImplementedError

    def outputs(self, classes: int, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of what the network gives for one example.

        Args:
            classes: how many names the data has.
            shape: of one example.
        """
        return (classes,)

    def encoded(self, y: Array, width: int) -> Array:
        """Return labels as a training graph takes them, float32 (examples, width)."""
        return np.asarray(y, np.float32)

    def drawn(self, examples: int, classes: int, rng: np.random.Generator) -> Array:
        """Return random labels, to try a network with."""
        classed: Array = rng.integers(0, classes, examples)
        return classed if self.labels in ("class", "normal") else np.eye(classes, dtype=np.float32)[classed]

    def width(self, classes: int) -> int:
        """Return how many numbers a label is, as a training graph takes it."""
        return classes

    def problem_with(self, y: Array, classes: int) -> str:
        """Say why labels of the right type are none of this objective's, "" if they are."""
        if self.labels in ("class", "normal"):
            if y.ndim != 1:
                return f"has labels of shape {y.shape}, expected ({len(y)},)"
            if y.dtype != np.int64:
                return f"has labels of dtype {y.dtype}, expected int64"
            return f"has a label outside 0..{classes - 1}" if y.min() < 0 or y.max() >= classes else ""
        if y.ndim != 2 or y.shape[1] != classes:
            return f"has labels of shape {y.shape}, expected ({len(y)}, {classes})"
        if y.dtype != np.float32:
            return f"has labels of dtype {y.dtype}, expected float32"
        return "" if np.isfinite(y).all() else "has labels that are not finite"

    def fitted(self, y: Array, classes: Sequence[str]) -> "Objective":
        """Return the objective with what it takes from the server's own labels and the classes' names."""
        return self

    def prepare(self, model: "nn.Module") -> None:
        """Change a new network's outputs into those that the objective means, where they differ."""

    def decides(self, scores: Array, y: Array, x: Array) -> dict[str, float]:
        """Return what the trained network's use needs beside it, such as a threshold, of the server's own examples."""
        return {}

    def judged(self, decided: Mapping[str, float], scores: Array, y: Array, x: Array) -> dict[str, float]:
        """Return figures of test examples under what `decides` gave."""
        return {}

    def answer(self, scores: Any) -> Any:
        """Return the scores that count, of a network with several answers its last, (examples, outputs)."""
        return scores[:, -1] if len(scores.shape) == 3 else scores

    def answers(
        self, scores: Array, x: Array, names: Sequence[str], decided: Mapping[str, float], top: int
    ) -> list[dict[str, Any]]:
        """Return what scores say of each example, by column; the first columns are what people want to know.

        Args:
            scores: (examples, outputs).
            x: the examples.
            names: of classes, or numbers.
            decided: what `decides` gave.
            top: classes to name, the likeliest first.
        """
        return [dict(zip(names, map(float, row), strict=True)) for row in scores.reshape(len(x), -1)]

    def with_settings(self, **changed: Any) -> "Objective":
        """Return the same with other settings."""
        made = copy.copy(self)
        made.settings = self.settings.model_copy(update=changed)
        return made

    @property
    def chosen(self) -> Chosen:
        """Name and arguments, as an experiment has them, with what was fitted."""
        return Chosen(name=self.name, arguments=self.settings.model_dump())

    @property
    def of_classes(self) -> bool:
        """Whether answers are classes: what pages, spikes and parts of networks know alone."""
        return self.labels == "class"


def objective_of(model: "nn.Module") -> Objective:
    """Return what a network is trained for: its `objective`, plain cross entropy where it says nothing."""
    from edgekit.objectives.cross_entropy import PLAIN

    found: Objective = getattr(model, "objective", PLAIN)
    return found


def auc(scores: Array, positive: Array) -> float:
    """Return the area under the ROC curve: the chance that a positive one scores above a negative (Hanley & McNeil
    1982); ties count half. Not a number where there are not both.

    Args:
        scores: (examples,).
        positive: whether each is, (examples,).
    """
    many, few = int(positive.sum()), int((~positive).sum())
    if not many or not few:
        return float("nan")
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[places][positive].sum() - many * (many + 1) / 2) / (many * few))
