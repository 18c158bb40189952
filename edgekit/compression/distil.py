"""Distillation: a teacher's answers beside the labels (Hinton et al. 2015, "Distilling the knowledge in a network").

The loss stays one of single examples, so it is trained by a cohort, a private step and a training graph like any other.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.compression.attention import Watched
from edgekit.errors import ModelError
from edgekit.objectives import Objective, objective_of


class _Distilled(Objective):
    """Mixed into an objective of classes: its loss, and the divergence from a teacher's softened chances (section 2).

    (1 - share) loss(scores, y) + share T^2 KL(softmax(teacher(x) / T) || softmax(scores / T))

    With features, and a network that gives its map behind its scores (`attention`), half of their weight times the
    squared distance of both maps comes to that (Zagoruyko & Komodakis 2017, equation 2).
    """

    teacher: nn.Module
    temperature: float
    share: float
    features: float
    watched: Watched | None

    def losses(self, scores: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Return each example's loss, (examples,)."""
        with torch.no_grad():
            told = objective_of(self.teacher).answer(self.teacher(x.to(torch.float32))).to(scores.dtype)
        apart_maps = scores.new_zeros(len(scores))
        if self.watched is not None and scores.shape[1] > told.shape[1]:
            scores, maps = scores[:, : told.shape[1]], scores[:, told.shape[1] :]
            apart_maps = self.features / 2 * (maps - self.watched.taken().to(scores.dtype)).square().sum(1)
        own = F.log_softmax(self.answer(scores) / self.temperature, 1)
        wanted = F.softmax(told / self.temperature, 1)
        apart = (wanted * (wanted.clamp(min=1e-12).log() - own)).sum(1)
        answers = (1 - self.share) * super().losses(scores, y, x) + self.share * self.temperature**2 * apart
        return answers + apart_maps


def distilled(
    objective: Objective,
    teacher: nn.Module,
    temperature: float,
    share: float,
    features: float = 0.0,
    watched: Watched | None = None,
) -> Objective:
    """Return an objective that learns from a teacher too.

    Args:
        objective: of classes.
        teacher: gives scores of the same classes for the same examples.
        temperature: T.
        share: of the loss that the teacher has.
        features: weight of the maps.
        watched: the teacher's maps; None is of answers alone.

    Raises:
        ModelError: the objective has no classes.
    """
    if objective.labels != "class":
        raise ModelError(f"a teacher's answers are chances of classes, and the objective {objective.name} has none")
    kind = type(objective)
    made: Any = copy.copy(objective)
    made.__class__ = type(f"Distilled{kind.__name__}", (_Distilled, kind), {})
    made.teacher = teacher.eval().requires_grad_(False)
    made.temperature, made.share, made.features, made.watched = temperature, share, features, watched
    return made  # type: ignore[no-any-return]
