"""Arrays on a grid: whole multiples of a step beside what the client was sent. They travel as codes of few bits.

Exact: an array whose bits do not come out again from its codes travels whole.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.arrays import Array, Weights
from edgekit.asks import Bundles, packed
from edgekit.errors import TrainingError
from edgekit.sparse import base_of

LARGEST_STEP = 1e6
"""No network of use has larger numbers (`edgekit.asks.LARGEST_VALUE`)."""
BITS = (1, 4, 8)
"""Of a code: a sign, or whole numbers from -7 to 7, or from -127 to 127."""
Grid = tuple[float, int]
"""The step of an array's numbers, and the bits of their codes."""


def levels(bits: int) -> int:
    """Return the largest whole number that a code has."""
    return int(2 ** (bits - 1) - 1) if bits > 1 else 1


def on_grid(base: Array | None, multiples: Array, step: float, like: Array) -> Array:
    """Return the numbers that codes stand for: the one formula of whoever writes and reads them."""
    change = np.float32(step) * multiples.astype(np.float32).reshape(like.shape)
    found = change if base is None else np.asarray(base, np.float32) + change
    return found.astype(like.dtype)


def coded(bundles: Bundles, grids: Mapping[str, Grid], sent: Bundles) -> tuple[Weights, dict[str, list[Any]]]:
    """Return the codes of arrays that are on grids, and these; by `bundle:name`.

    Args:
        bundles: of an update.
        grids: that its arrays are said to be on.
        sent: what the client was sent.
    """
    flat: Weights = {}
    found: dict[str, list[Any]] = {}
    for path, array in packed(bundles).items():
        step, bits = grids.get(path, (math.nan, 0))
        if array.dtype != np.float32 or not 0 <= step < LARGEST_STEP or not np.isfinite(array).all():
            continue
        base = base_of(path, array, sent)
        change = np.asarray(array, np.float64) - (0 if base is None else np.asarray(base, np.float64))
        multiples = np.rint(change / step) if step > 0 else np.zeros(array.shape)
        if bits == 1:
            multiples = np.where(change < 0, -1.0, 1.0)
        if np.abs(multiples).max(initial=0) > levels(bits):
            continue
        again = on_grid(base, multiples, step, array)
        if again.tobytes() == np.ascontiguousarray(array).tobytes():
            flat[path], found[path] = _codes(multiples, bits), [float(step), bits]
    return flat, found


def decoded(flat: Weights, told: object, like: Bundles, sent: Bundles) -> dict[str, Array]:
    """Return arrays by `bundle:name` of their codes, of whoever sent them.

    Args:
        flat: the codes.
        told: the grids.
        like: arrays of the shapes that the update must have.
        sent: what the client was sent.

    Raises:
        TrainingError: they do not fit.
    """
    expected = packed(like)
    if not isinstance(told, dict) or not set(told) <= set(expected):
        raise TrainingError("the grids of its coded arrays cannot be read")
    found = {}
    for path, grid in told.items():
        array, codes = expected[path], flat.get(path)
        fits = isinstance(grid, list) and len(grid) == 2 and grid[1] in BITS and not isinstance(grid[1], bool)
        if not fits or not isinstance(grid[0], float) or not 0 <= grid[0] < LARGEST_STEP:
            raise TrainingError(f"the grid of the coded array {path[:40]!r} cannot be read")
        step, bits = grid
        size = -(-array.size * bits // 8)
        if codes is None or codes.dtype != np.uint8 or codes.shape != (size,) or array.dtype != np.float32:
            raise TrainingError(f"the coded array {path[:40]!r} does not fit")
        found[path] = on_grid(base_of(path, array, sent), _multiples(codes, bits, array.size), step, array)
    return found


def _codes(multiples: Array, bits: int) -> Array:
    """Return whole numbers as bytes: 8 bits each, two in a byte, or eight signs."""
    flat = multiples.reshape(-1)
    found: Array
    if bits == 1:
        found = np.packbits(flat > 0)
        return found
    shifted: Array = (flat + 2 ** (bits - 1)).astype(np.uint8)
    if bits == 8:
        return shifted
    even = np.append(shifted, np.zeros(len(shifted) % 2, np.uint8))
    found = (even[::2] << 4) | even[1::2]
    return found


def _multiples(codes: Array, bits: int, size: int) -> Array:
    if bits == 1:
        return np.where(np.unpackbits(codes)[:size] > 0, 1.0, -1.0)
    if bits == 4:
        codes = np.stack([codes >> 4, codes & 15], 1).reshape(-1)[:size]
    multiples: Array = codes.astype(np.float64) - 2 ** (bits - 1)
    return multiples
