"""The mechanisms on torch's tensors (see `mechanism.py`)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edgekit.privacy import gaussian

BELOW = 1 - 1e-6
"""Of a bound, what gradients are shortened to: rounding must not bring them above it."""
LEAST_FACTOR = 1e-35
"""Smaller ones are rounded so coarsely in single precision that the bound would not hold."""


def add_noise(tensors: Sequence[Tensor], deviation: float, rng: np.random.Generator) -> None:
    """Add Gaussian noise of this standard deviation to each tensor, in place."""
    for tensor in tensors:
        tensor += torch.from_numpy(gaussian.draw(tuple(tensor.shape), deviation, rng, np.float32))


def clipped(gradients: Sequence[Tensor], bound: float) -> list[Tensor]:
    """Scale each example's gradient to l2 norm `bound` over all parameters, if it is longer (Abadi et al. 2016).

    An example whose gradient is not finite counts as zero: otherwise it would take its whole client's sum with it,
    and one example's influence would not be bounded.

    Args:
        gradients: one a parameter, (examples, ...).
        bound: largest norm.
    """
    squares = torch.stack([gradient.reshape(len(gradient), -1).square().sum(1) for gradient in gradients]).sum(0)
    factors, finite = shortened(squares, bound)
    result = []
    for gradient in gradients:
        columns = (-1, *[1] * (gradient.dim() - 1))
        result.append(torch.where(finite.view(columns), gradient * factors.view(columns), 0.0))
    return result


def shortened(squares: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Return what each example's gradient is multiplied by, zero where it is not finite or too long, and where not.

    Args:
        squares: of the gradients' l2 norms over all parameters, (examples,).
        bound: largest norm.
    """
    factors = (bound * BELOW / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    finite = squares.isfinite() & (factors >= LEAST_FACTOR)
    return torch.where(finite, factors, 0.0), finite
