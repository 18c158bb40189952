"""Noised statistics of a device's inputs, by which the coordinator notices that they drift away (or are broken)."""

import numpy as np

from edgekit.arrays import Array
from edgekit.data import Examples
from edgekit.objectives.cross_entropy import chances_of

NAMES = ("mean", "spread", "confidence", "examples")
SENSITIVITY = 2.0
"""l2 bound of one example's contribution: four numbers in 0..1."""
REACH = 3.0
"""Means beyond +-3 and spreads beyond 3 count as 3; inputs are meant to be about one in size."""
LEAST_NOISE = 0.5
"""Smallest noise multiplier that a node goes along with."""


def contributions(examples: Examples, scores: Array) -> Array:
    """Return what each example contributes, (examples, 4), each number in 0..1.

    Args:
        examples: the device's.
        scores: of the network for them, (examples, classes).
    """
    flat = examples.x.reshape(len(examples), -1).astype(np.float64)
    chances = chances_of(scores)
    columns = [
        (np.clip(flat.mean(1), -REACH, REACH) + REACH) / (2 * REACH),
        np.clip(flat.std(1), 0, REACH) / REACH,
        chances.max(1),
        np.ones(len(examples)),
    ]
    stacked: Array = np.nan_to_num(np.stack(columns, 1), nan=0.0)
    return stacked


def noised_sum(each: Array, noise_multiplier: float, rng: np.random.Generator) -> Array:
    """Return the sum with the Gaussian mechanism's noise (Dwork & Roth 2014, section 3.5): (4,)."""
    total: Array = each.sum(0) + noise_multiplier * SENSITIVITY * rng.standard_normal(each.shape[1])
    return total
