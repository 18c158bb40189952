"""The Gaussian mechanism: clipping bounds what a unit can change, noise hides it (Dwork & Roth 2014, section 3.5)."""

from collections.abc import Iterable
from math import isfinite
from typing import Any

import numpy as np

from edgekit.arrays import Array, Weights, total_norm


def clip(arrays: Weights, bound: float) -> Weights:
    """Scale arrays so that their joint l2 norm is at most `bound`; shorter ones stay as they are.

    What is not finite counts as nothing, all of it: otherwise it would show through any noise.
    """
    norm = total_norm(arrays.values())
    if not isfinite(norm):
        return {name: np.zeros_like(array) for name, array in arrays.items()}
    factor = min(1.0, bound / (norm + 1e-12))
    return {name: (factor * array).astype(array.dtype) for name, array in arrays.items()}


def draw(shape: tuple[int, ...], deviation: float, rng: np.random.Generator, dtype: Any) -> Array:
    """Draw independent Gaussian noise of this standard deviation."""
    noise: Array = (deviation * rng.standard_normal(shape)).astype(dtype)
    return noise


def add_noise(arrays: Weights, deviation: float, rng: np.random.Generator) -> Weights:
    """Add independent Gaussian noise of this standard deviation to every value."""
    return {name: array + draw(array.shape, deviation, rng, array.dtype) for name, array in arrays.items()}


def total(updates: Iterable[Weights], like: Weights) -> Weights:
    """Add up updates in float64, starting from zeros shaped `like`; the sum of none is zero."""
    sums = {name: np.zeros(array.shape, np.float64) for name, array in like.items()}
    for update in updates:
        for name, array in update.items():
            sums[name] += array
    return {name: array.astype(like[name].dtype) for name, array in sums.items()}
