"""What a network is taught by others' answers: it is no experiment's objective, methods of distillation train by it."""

from typing import TYPE_CHECKING

from edgekit.objectives.cross_entropy import CrossEntropy

if TYPE_CHECKING:
    from torch import Tensor


class Taught(CrossEntropy):
    """The divergence KL(softmax(told) || softmax(scores)), in nats (Hinton et al. 2015, at temperature 1)."""

    def losses(self, scores: "Tensor", y: "Tensor", x: "Tensor") -> "Tensor":
        """Return each example's divergence; `y` are the scores that were told."""
        from torch.nn import functional

        told = functional.log_softmax(y.to(scores.dtype), 1)
        if scores.dim() == 3:  # of several answers, as early exits give, each learns
            told = told.unsqueeze(1)
        apart = (told.exp() * (told - functional.log_softmax(scores, -1))).sum(-1)
        return apart if apart.dim() == 1 else apart.mean(1)


TAUGHT = Taught()
