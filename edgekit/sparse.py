"""Updates of which most is as it was: places and values instead of whole arrays. Exact: nothing is rounded."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.arrays import Array, Weights
from edgekit.asks import WEIGHTS, Bundles, packed
from edgekit.errors import TrainingError

AT, TO = "#at", "#to"
"""Ends of the names of an array's places and of the values there."""


def _places_of(array: Array) -> np.dtype[Any]:
    """Return the type of an array's places: the shortest that has room."""
    return np.dtype(np.uint16 if array.size <= 1 << 16 else np.uint32)


def thinned(bundles: Bundles, sent: Bundles) -> tuple[Weights, list[str]]:
    """Return bundles as one group of arrays by `bundle:name`, and the names of those of which only changes are there.

    Args:
        bundles: of an update.
        sent: what the client was sent: of the weights only what differs from these changes, of others what is not zero.
    """
    flat: Weights = {}
    names = []
    for path, array in packed(bundles).items():
        places = _changed(array, base_of(path, array, sent))
        if places is None:
            flat[path] = array
            continue
        names.append(path)
        flat[path + AT] = places.astype(_places_of(array))
        flat[path + TO] = np.ascontiguousarray(array).reshape(-1)[places]
    return flat, names


def whole(flat: Weights, names: object, like: Bundles, sent: Bundles) -> Weights:
    """Return what `thinned` was given, by `bundle:name`, of whoever sent it.

    Args:
        flat: the arrays.
        names: of those of which only changes are there.
        like: arrays of the shapes that the update must have.
        sent: what the client was sent.

    Raises:
        TrainingError: they do not fit.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise TrainingError("the names of its sparse arrays cannot be read")
    expected = packed(like)
    found = {path: array for path, array in flat.items() if not path.endswith((AT, TO))}
    if strange := [path for path in flat if path not in found and path.removesuffix(path[-len(AT) :]) not in names]:
        raise TrainingError(f"the sparse array {strange[0][:40]!r} is not announced")
    for path in names:
        at, to, array = flat.get(path + AT), flat.get(path + TO), expected.get(path)
        if array is None or at is None or to is None or path in found:
            raise TrainingError(f"the sparse array {path[:40]!r} was not expected, or is not whole")
        fits = (
            at.dtype == _places_of(array) and to.dtype == array.dtype and at.ndim == to.ndim == 1 and len(at) == len(to)
        )
        if not fits or (len(at) and (int(at[-1]) >= array.size or not (at[1:] > at[:-1]).all())):
            raise TrainingError(f"the sparse array {path[:40]!r} does not fit")
        base = base_of(path, array, sent)
        values = np.zeros(array.size, array.dtype) if base is None else np.array(base, order="C").reshape(-1)
        values[at] = to
        found[path] = values.reshape(array.shape)
    return {path: found[path] for path in (*(one for one in expected if one in found), *(set(found) - set(expected)))}


def base_of(path: str, array: Array, sent: Mapping[str, Weights]) -> Array | None:
    """Return what an array is a change of; None of zeros.

    Args:
        path: its `bundle:name`.
        array: of its shape.
        sent: what the client was sent.
    """
    bundle, _, name = path.partition(":")
    base = sent.get(WEIGHTS, {}).get(name) if bundle == WEIGHTS else None
    return base if base is not None and base.shape == array.shape and base.dtype == array.dtype else None


def _changed(array: Array, base: Array | None) -> Array | None:
    """Return the places of an array that differ, by bits; None where the whole array takes less."""
    if array.dtype.kind not in "fiu" or array.size >= 2**32:
        return None
    bits = np.dtype(f"u{array.itemsize}")
    own = np.ascontiguousarray(array).reshape(-1).view(bits)
    differs = own != (0 if base is None else np.ascontiguousarray(base).reshape(-1).view(bits))
    if int(np.count_nonzero(differs)) * (_places_of(array).itemsize + array.itemsize) >= array.nbytes:
        return None
    return np.flatnonzero(differs)
