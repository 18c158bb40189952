"""The mechanisms on torch's tensors (see `mechanism.py`)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from edgekit.privacy import gaussian


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
    finite = squares.isfinite()
    factors = (bound / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    result = []
    for gradient in gradients:
        columns = (-1, *[1] * (gradient.dim() - 1))
        result.append(torch.where(finite.view(columns), gradient * factors.view(columns), 0.0))
    return result
