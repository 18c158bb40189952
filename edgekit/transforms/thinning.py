"""What transforms that send few numbers share: a bundle as one vector of changes, and back."""

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Ask

Vector = NDArray[np.float32]


def changes(bundle: str, arrays: Weights, ask: Ask) -> Vector:
    """Return a bundle's numbers in one vector: of the weights their change, of others themselves."""
    sent = ask.bundles[WEIGHTS] if bundle == WEIGHTS else {}
    return np.concatenate([np.ravel(a - sent[name] if sent else a).astype(np.float32) for name, a in arrays.items()])


def moved(bundle: str, like: Weights, ask: Ask, change: Vector) -> Weights:
    """Return a bundle of such changes; where there is none, weights keep the bits that were sent."""
    sent = ask.bundles[WEIGHTS] if bundle == WEIGHTS else {}
    found, place = {}, 0
    for name, array in like.items():
        part = change[place : place + array.size].reshape(array.shape)
        place += array.size
        if sent:
            part = np.where(part == 0, sent[name], sent[name] + part)
        found[name] = part.astype(array.dtype)
    return found
