"""What robust means share: clients' changes of the model, their lengths, and sums of them."""

from collections.abc import Sequence

import numpy as np

from edgekit.arrays import Weights, total_norm
from edgekit.asks import WEIGHTS, Aggregate, State


def changes(state: State, got: Aggregate) -> list[Weights]:
    """Return how each client would move the model, in the clients' order."""
    assert got.updates is not None
    before = state.bundles[WEIGHTS]
    return [{name: one.bundles[WEIGHTS][name] - w for name, w in before.items()} for one in got.updates.values()]


def weights_of(got: Aggregate) -> list[float]:
    """Return what each client counts in a mean; sums to 1."""
    assert got.updates is not None
    held = [one.weight for one in got.updates.values()]
    return [one / sum(held) for one in held]


def summed(each: Sequence[Weights], factors: Sequence[float]) -> Weights:
    """Return the sum of changes, each times its factor, in double precision."""
    total = {name: np.zeros(array.shape) for name, array in each[0].items()}
    for one, factor in zip(each, factors, strict=True):
        for name, array in one.items():
            total[name] += np.asarray(array, np.float64) * factor
    return total


def distances(each: Sequence[Weights], point: Weights) -> list[float]:
    """Return how far changes are from one."""
    return [total_norm([one[name] - at for name, at in point.items()]) for one in each]


def dot(one: Weights, other: Weights) -> float:
    """Return the scalar product of two changes."""
    return sum(float(np.vdot(np.asarray(array, np.float64), other[name])) for name, array in one.items())


def moved(state: State, change: Weights) -> Weights:
    """Return the model after a change."""
    return {name: (w + change[name]).astype(w.dtype) for name, w in state.bundles[WEIGHTS].items()}
