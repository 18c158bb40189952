"""A party's round: features of people whom other parties know too, without labels. Numpy alone."""

import numpy as np

from edgekit.algorithms.split.device import Terms
from edgekit.data import Examples
from edgekit.data.batches import LocalTask
from edgekit.data.federated import Floats
from edgekit.randomness import generator


def rng_of(seed: int, number: int) -> np.random.Generator:
    """Return what draws a round's batches, the same for each party and the coordinator."""
    return generator(seed, "batches", number)


def task_of(x: Floats, seed: int, number: int) -> LocalTask:
    """Return a party's part of a round: `x` are the rows that are trained on, in the order that all parties have."""
    return LocalTask(Examples(x, np.full(len(x), -1)), rng_of(seed, number), rng_of(seed, number))


def terms_of(window: int, embedding: int) -> Terms:
    """Return what holds for all parties."""
    return Terms(window, [(embedding,)], labels=False)
