"""Torch's optimisers over stacked weights: each client's state is its own row."""

from collections.abc import Sequence

import torch
from torch import Tensor

from edgekit.local_settings import BETAS, EPSILON, LocalSettings

Tensors = tuple[Tensor, ...] | list[Tensor]


class Stepper:
    """Takes steps of a round's optimiser; the clients that still train are always the first rows.

    Args:
        settings: of the round.
        weights: (clients, ...) each; changed.
    """

    def __init__(self, settings: LocalSettings, weights: Sequence[Tensor]) -> None:
        self._settings, self._weights = settings, list(weights)
        adaptive = settings.optimiser != "sgd"
        self._first = self._zeros() if settings.momentum or adaptive else []
        self._second = self._zeros() if adaptive else []
        self._made = 0

    def step(self, gradients: Tensors, rows: int) -> None:
        """Take a step of the first so many clients, along these gradients."""
        settings = self._settings
        weights = [weight[:rows] for weight in self._weights]
        rate, decay = settings.learning_rate, settings.weight_decay
        if settings.gradient_clip:
            gradients = _clipped(gradients, settings.gradient_clip)
        if decay and settings.optimiser == "adamw":
            torch._foreach_mul_(weights, 1 - rate * decay)
        elif decay:
            gradients = torch._foreach_add(gradients, weights, alpha=decay)
        self._made += 1
        if settings.optimiser != "sgd":
            self._adaptive(weights, gradients, rows)
            return
        if settings.momentum:
            running = [tensor[:rows] for tensor in self._first]
            torch._foreach_mul_(running, settings.momentum)
            torch._foreach_add_(running, gradients)
            gradients = (
                torch._foreach_add(gradients, running, alpha=settings.momentum) if settings.nesterov else running
            )
        torch._foreach_add_(weights, gradients, alpha=-rate)

    def _adaptive(self, weights: list[Tensor], gradients: Tensors, rows: int) -> None:
        first, second = ([tensor[:rows] for tensor in held] for held in (self._first, self._second))
        torch._foreach_lerp_(first, list(gradients), 1 - BETAS[0])
        torch._foreach_mul_(second, BETAS[1])
        torch._foreach_addcmul_(second, list(gradients), list(gradients), 1 - BETAS[1])
        spread = torch._foreach_sqrt(second)
        torch._foreach_div_(spread, (1 - BETAS[1] ** self._made) ** 0.5)
        torch._foreach_add_(spread, EPSILON)
        torch._foreach_addcdiv_(weights, first, spread, -self._settings.learning_rate / (1 - BETAS[0] ** self._made))

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(tensor) for tensor in self._weights]


def _clipped(gradients: Tensors, bound: float) -> list[Tensor]:
    """Scale each client's gradient to the bound over all parameters, as torch's `clip_grad_norm_` does."""
    squares = torch.stack([gradient.reshape(len(gradient), -1).square().sum(1) for gradient in gradients]).sum(0)
    factors = (bound / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    return [gradient * factors.view(-1, *[1] * (gradient.dim() - 1)) for gradient in gradients]
