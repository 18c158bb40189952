"""What is normal: an autoencoder gives normal examples back, and others worse."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from edgekit.arrays import Array
from edgekit.errors import DataError
from edgekit.objectives.base import Figures, Objective, auc
from edgekit.section import Fraction, Section

if TYPE_CHECKING:
    from torch import Tensor


class ReconstructionSettings(Section):
    """Of `reconstruction`."""

    normal: str | int = ""
    """Name of the class that is learnt; empty is the one called `normal`, or the first."""
    false_alarms: Fraction = 0.05
    """Share of the server's own normal examples that the threshold lies below."""
    place: Annotated[int, Field(ge=0)] = 0
    """Of that class among the data's; found by its name."""


class Reconstruction(Objective):
    """The mean squared error between an example and what the network makes of it, of normal examples alone.

    Others are not trained on: they say how well errors tell them apart (Sakurada & Yairi 2014; the anomaly task of
    MLPerf Tiny, Banbury et al. 2021).
    """

    Settings = ReconstructionSettings
    settings: ReconstructionSettings
    labels = "normal"
    measure = "auc"

    def losses(self, scores: "Tensor", y: "Tensor", x: "Tensor") -> "Tensor":
        """Return each example's mean squared error, zero of those that are not normal."""
        away = (scores - x).flatten(1)
        error = (away * away).mean(1)
        normal = y[:, 0].to(error.dtype) if y.is_floating_point() else (y == self.settings.place).to(error.dtype)
        return error * normal

    def figures(self, scores: Array, y: Array, x: Array) -> Figures:
        """Return the area under the ROC curve of errors, and the mean error of normal examples."""
        errors, normal = _errors(scores, x), y == self.settings.place
        error = float(errors[normal].mean()) if normal.any() else 0.0
        return Figures(0.0, {"auc": auc(errors, ~normal), "normal_error": error}, ("normal_error",), 0.5)

    def outputs(self, classes: int, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of an example."""
        return tuple(shape)

    def width(self, classes: int) -> int:
        """Return 1: whether it is normal."""
        return 1

    def encoded(self, y: Array, width: int) -> Array:
        """Return whether each is normal, (examples, 1)."""
        normal: Array = (y == self.settings.place).astype(np.float32)[:, None]
        return normal

    def fitted(self, y: Array, classes: Sequence[str]) -> Objective:
        """Return the same with the place of the normal class.

        Raises:
            DataError: no class is called so.
        """
        given = self.settings.normal
        name = str(given) if given != "" else "normal" if "normal" in classes else classes[0]
        if name not in classes:
            raise DataError(
                f"objective.arguments.normal is {name!r}, but the data's classes are {', '.join(classes[:20])}"
            )
        return self.with_settings(normal=name, place=list(classes).index(name))

    def decides(self, scores: Array, y: Array, x: Array) -> dict[str, float]:
        """Return the error beyond which an example is not normal: few of the server's own normal ones lie there."""
        errors = _errors(scores, x)[y == self.settings.place]
        if not len(errors):
            return {}
        return {"threshold": float(np.quantile(errors, 1 - self.settings.false_alarms))}

    def judged(self, decided: Mapping[str, float], scores: Array, y: Array, x: Array) -> dict[str, float]:
        """Return the shares of what is not normal that is found, and of what is normal that is taken for it."""
        if "threshold" not in decided:
            return {}
        beyond, normal = _errors(scores, x) > decided["threshold"], y == self.settings.place
        return {"found": float(beyond[~normal].mean()), "false_alarms": float(beyond[normal].mean())}

    def answers(
        self, scores: Array, x: Array, names: Sequence[str], decided: Mapping[str, float], top: int
    ) -> list[dict[str, Any]]:
        """Return each example's error, and whether it is beyond the threshold."""
        errors = _errors(scores, x)
        if "threshold" not in decided:
            return [{"error": float(error)} for error in errors]
        return [{"normal": bool(error <= decided["threshold"]), "error": float(error)} for error in errors]


def _errors(scores: Array, x: Array) -> Array:
    away = np.asarray(scores, np.float64).reshape(len(x), -1) - x.reshape(len(x), -1)
    errors: Array = (away**2).mean(1)
    return errors
