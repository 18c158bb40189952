"""Several labels that an example may have together: a logistic loss each."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.arrays import Array
from edgekit.objectives.base import Figures, Objective, auc
from edgekit.section import Positive, Section

if TYPE_CHECKING:
    from torch import Tensor


class MultiLabelSettings(Section):
    """Of `multi-label`."""

    positive_weights: list[Positive] = []
    """What the presence of each label counts against its absence; empty is 1."""


class MultiLabel(Objective):
    """The mean over the labels of the binary cross entropy in nats; a score above zero says that the label is there."""

    Settings = MultiLabelSettings
    settings: MultiLabelSettings
    labels = "flags"
    measure = "f1"

    def losses(self, scores: "Tensor", y: "Tensor", x: "Tensor") -> "Tensor":
        """Return each example's mean over its labels."""
        import torch.nn.functional as F

        y, given = y.to(scores.dtype), self.settings.positive_weights
        there = F.softplus(-scores) * y
        there = there * scores.new_tensor(given) if given else there
        return (there + F.softplus(scores) * (1 - y)).mean(-1)

    def figures(self, scores: Array, y: Array, x: Array) -> Figures:
        """Return the means over the labels of F1 and of the area under the ROC curve, and the share of examples of
        which every label is right."""
        named, there = scores > 0, y > 0.5
        right = (named & there).sum(0)
        counts = named.sum(0) + there.sum(0)
        f1 = np.where(counts > 0, 2 * right / np.maximum(counts, 1), 1.0)
        areas = [auc(scores[:, i], there[:, i]) for i in range(y.shape[1])]
        known = [area for area in areas if np.isfinite(area)]
        metrics = {
            "f1": float(f1.mean()),
            "auc": float(np.mean(known)) if known else 0.5,
            "exact_match": float((named == there).all(1).mean()),
        }
        shares = there.mean(0)  # always yes has precision p and recall 1
        return Figures(0.0, metrics, ("auc",), float((2 * shares / (1 + shares)).mean()))

    def answers(
        self, scores: Array, x: Array, names: Sequence[str], decided: Mapping[str, float], top: int
    ) -> list[dict[str, Any]]:
        """Return the labels that are there, and the chance of each."""
        found = []
        for row in np.asarray(scores, np.float64):
            there = [name for name, score in zip(names, row, strict=True) if score > 0]
            chances = 1 / (1 + np.exp(-row))
            found.append({"labels": "; ".join(there), **dict(zip(names, chances.round(6).tolist(), strict=True))})
        return found

    def problem_with(self, y: Array, classes: int) -> str:
        """Say why labels are no flags."""
        given = self.settings.positive_weights
        if given and len(given) != classes:
            return f"has {classes} labels, but objective.arguments.positive_weights are {len(given)}"
        if problem := super().problem_with(y, classes):
            return problem
        return "" if np.isin(y, (0, 1)).all() else "has labels that are neither 0 nor 1"
