"""One class of several: softmax and cross entropy."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from edgekit.arrays import Array
from edgekit.errors import ExperimentError
from edgekit.objectives.base import Figures, Objective
from edgekit.section import Positive, Section

if TYPE_CHECKING:
    from torch import Tensor

UNEQUAL = 1.5
"""Classes are unequal where the largest has so many times its even share."""


class CrossEntropySettings(Section):
    """Of `cross-entropy`."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that goes to all classes alike (Szegedy et al. 2016, section 7)."""
    class_weights: list[Positive] = []
    """What an example of each class counts; empty is 1."""
    answer_weights: list[Positive] = []
    """What each answer of a network with several counts, such as early exits; empty is alike."""


class CrossEntropy(Objective):
    """The negative logarithm of the right class's chance, in nats; soft labels are chances themselves."""

    Settings = CrossEntropySettings
    settings: CrossEntropySettings

    def losses(self, scores: "Tensor", y: "Tensor", x: "Tensor") -> "Tensor":
        """Return each example's cross entropy; of several answers, the weighted mean."""
        answers, given = (1 if scores.dim() == 2 else scores.shape[1]), self.settings.answer_weights
        if given and answers > 1 and len(given) != answers:
            raise ExperimentError(
                f"objective.arguments.answer_weights are {len(given)}, but the network gives {answers} answers"
            )
        if scores.dim() == 2:
            return self._losses(scores, y)
        given = given or [1.0] * answers
        parts = [share / sum(given) * self._losses(scores[:, i], y) for i, share in enumerate(given)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def check_apart(self, scores: "Tensor", y: "Tensor", x: "Tensor") -> None:
        """See too that a network with one answer is not given weights of several."""
        if self.settings.answer_weights and scores.dim() == 2:
            raise ExperimentError("objective.arguments.answer_weights are of several answers, the network gives one")
        super().check_apart(scores, y, x)

    def _losses(self, scores: "Tensor", y: "Tensor") -> "Tensor":
        import torch.nn.functional as F

        smoothing, given = self.settings.label_smoothing, self.settings.class_weights
        weights = scores.new_tensor(given) if given else None
        if not y.is_floating_point():
            return F.cross_entropy(scores, y, weights, reduction="none", label_smoothing=smoothing)
        y = y.to(scores.dtype)
        if smoothing:
            y = y * (1 - smoothing) + smoothing / scores.shape[-1]
        y = y if weights is None else y * weights
        return -(y * F.log_softmax(scores, -1)).sum(-1)

    def figures(self, scores: Array, y: Array, x: Array) -> Figures:
        """Return accuracy, balanced accuracy (the mean over the classes of the share that is found), F1 (the mean of
        their harmonic means of precision and recall), and the accuracy of always naming the largest class.

        The last answer of a network with several is meant.
        """
        answers = np.asarray(self.answer(scores).argmax(1))
        labels = y if y.ndim == 1 else y.argmax(1)
        classes = max(int(answers.max()), int(labels.max())) + 1
        counts, named = np.bincount(labels, minlength=classes), np.bincount(answers, minlength=classes)
        right = np.bincount(labels[answers == labels], minlength=classes)
        there = counts > 0
        largest = float(counts.max() / len(labels))
        metrics = {
            "accuracy": float(right.sum() / len(labels)),
            "balanced_accuracy": float((right[there] / counts[there]).mean()),
            "f1": float((2 * right[there] / (counts[there] + named[there])).mean()),
            "majority_baseline": largest,
        }
        unequal = largest > UNEQUAL / int(there.sum())
        return Figures(0.0, metrics, ("balanced_accuracy", "f1") if unequal else (), largest)

    def answers(
        self, scores: Array, x: Array, names: Sequence[str], decided: Mapping[str, float], top: int
    ) -> list[dict[str, Any]]:
        """Return the likeliest class and its chance, and the next ones."""
        chances = chances_of(self.answer(scores))
        found = []
        for row in chances:
            best = np.argsort(-row, kind="stable")[: max(top, 1)]
            parts = [(names[place], round(float(row[place]), 6)) for place in best]
            one: dict[str, Any] = {"class": parts[0][0], "score": parts[0][1]}
            for place, (name, score) in enumerate(parts[1:], 2):
                one |= {f"class_{place}": name, f"score_{place}": score}
            found.append(one)
        return found

    def encoded(self, y: Array, width: int) -> Array:
        """Return one-hot labels; soft ones stay."""
        return np.asarray(y, np.float32) if y.ndim == 2 else np.eye(width, dtype=np.float32)[y]

    def problem_with(self, y: Array, classes: int) -> str:
        """Say why labels are neither classes' numbers nor chances."""
        if problem := self._misfit(classes):
            return problem
        if y.ndim == 2 and y.dtype.kind == "f":
            chances = y.shape[1] == classes and (y >= 0).all() and np.allclose(y.sum(1), 1, atol=1e-3)
            return "" if chances else f"has soft labels that are not {classes} chances which sum to one"
        return super().problem_with(y, classes)

    def _misfit(self, classes: int) -> str:
        given = self.settings.class_weights
        if given and len(given) != classes:
            return f"has {classes} classes, but objective.arguments.class_weights are {len(given)}"
        return ""


def chances_of(scores: Array) -> Array:
    """Return softmax of scores, (examples, classes), in float64."""
    shifted = np.asarray(scores, np.float64) - scores.max(-1, keepdims=True)
    chances: Array = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
    return chances


PLAIN = CrossEntropy()
"""What a network is trained for where nothing is said."""
PLAIN.name = "cross-entropy"
