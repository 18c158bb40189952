"""A bundle as one vector of what it changes, and back: for whoever looks at an update as a whole."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Ask


def changes(bundle: str, arrays: Weights, ask: Ask, dtype: type[np.floating[Any]] = np.float32) -> NDArray[Any]:
    """Return a bundle's numbers in one vector: of the weights their change, of others themselves."""
    sent = ask.bundles[WEIGHTS] if bundle == WEIGHTS else {}
    parts = [np.asarray(a, dtype) - np.asarray(sent[name], dtype) if sent else a for name, a in arrays.items()]
    return np.concatenate([np.ravel(part).astype(dtype) for part in parts])


def moved(bundle: str, like: Weights, ask: Ask, change: NDArray[Any]) -> Weights:
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
