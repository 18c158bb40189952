"""Numbers: Huber's or the squared loss, in units of the numbers' own spread."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.arrays import Array
from edgekit.objectives.base import Figures, Objective
from edgekit.section import Positive, Section

if TYPE_CHECKING:
    from torch import Tensor, nn


class RegressionSettings(Section):
    """Of `regression`."""

    loss: Literal["huber", "mse"] = "huber"
    """Huber's (1964), half the square and a straight line beyond `delta`, or the square."""
    delta: Positive = 1.0
    """Of `huber`, in standard deviations."""
    mean: list[float] = []
    """Of each number; empty is that of the server's own examples (`data.calibration_examples`)."""
    std: list[Positive] = []
    """Likewise, standard deviations."""


class Regression(Objective):
    """The mean over the numbers of the loss of (score - label) / std.

    The network's own outputs are in standard deviations from the mean; `prepare` brings them into the labels' units, so
    that files and predictions are in these.
    """

    Settings = RegressionSettings
    settings: RegressionSettings
    labels = "values"
    measure = "r2"

    def losses(self, scores: "Tensor", y: "Tensor", x: "Tensor") -> "Tensor":
        """Return each example's mean over its numbers."""
        away = (scores - y.to(scores.dtype)) / scores.new_tensor(self.settings.std or [1.0])
        if self.settings.loss == "mse":
            return (away * away).mean(-1)
        size, delta = away.abs(), self.settings.delta
        near = size.clamp(max=delta)
        return (near * (size - 0.5 * near)).mean(-1)

    def figures(self, scores: Array, y: Array, x: Array) -> Figures:
        """Return R2 (1 - squared error over variance), mean absolute error and root of the mean squared error, each
        the mean over the numbers; errors in the labels' units."""
        exact = y.astype(np.float64)
        error = scores - exact
        spread = ((exact - exact.mean(0)) ** 2).sum(0)
        lost = (error**2).sum(0)
        r2 = np.where(spread > 0, 1 - lost / np.where(spread > 0, spread, 1), np.where(lost > 0, 0.0, 1.0))
        metrics = {
            "r2": float(r2.mean()),
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt((error**2).mean(0)).mean()),
        }
        return Figures(0.0, metrics, ("mae",))

    def fitted(self, y: Array, classes: Sequence[str]) -> Objective:
        """Return the same with mean and standard deviation of these labels, where none are given."""
        given, exact = self.settings, y.astype(np.float64)
        std = exact.std(0)
        return self.with_settings(
            mean=given.mean or [float(one) for one in exact.mean(0)],
            std=given.std or [float(one) if one > 0 else 1.0 for one in std],
        )

    def drawn(self, examples: int, classes: int, rng: np.random.Generator) -> Array:
        """Return random labels, a standard deviation from their mean or so."""
        mean, std = self.settings.mean or [0.0], self.settings.std or [1.0]
        return (np.array(mean) + np.array(std) * rng.standard_normal((examples, classes))).astype(np.float32)

    def prepare(self, model: "nn.Module") -> None:
        """Have the network give numbers in the labels' units."""
        if self.settings.mean and self.settings.std:
            model.register_forward_hook(_InUnits(self.settings.mean, self.settings.std))

    def problem_with(self, y: Array, classes: int) -> str:
        """Say why labels are no numbers of so many."""
        for what, given in (("mean", self.settings.mean), ("std", self.settings.std)):
            if given and len(given) != classes:
                return f"has {classes} numbers a label, but objective.arguments.{what} has {len(given)}"
        return super().problem_with(y, classes)


class _InUnits:
    """A forward hook: score * std + mean."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._mean, self._std = list(mean), list(std)

    def __call__(self, module: "nn.Module", inputs: Any, scores: "Tensor") -> "Tensor":
        """Return scores in the labels' units."""
        return scores * scores.new_tensor(self._std) + scores.new_tensor(self._mean)
