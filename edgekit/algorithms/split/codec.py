"""How activations and gradients travel: float32, float16, int8 per channel, or only the largest values. Numpy alone.

Whatever comes from elsewhere is read with suspicion: sizes, types and values are checked before they are used.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from edgekit.arrays import Array
from edgekit.data.federated import Floats
from edgekit.errors import RefusedError

Codec = Literal["float32", "float16", "int8", "top-k"]
CODECS: tuple[Codec, ...] = get_args(Codec)
MOST_VALUES = 16 << 20
MOST_DIMENSIONS = 6
LARGEST = 1e6
"""No training gives larger activations or gradients."""
TOP_SHARE = 0.1
"""Share of the values that `top-k` sends (Aji and Heafield 2017, section 3, for gradients)."""


@dataclass(frozen=True)
class Coded:
    """An array as it travels.

    Attributes:
        codec: how.
        shape: of the array.
        data: its values, little-endian.
        scales: of `int8`, one a channel (the second axis): what one step is worth; of `float16`, what a 1 is worth.
        zeros: of `int8`: what a zero stands for; of `top-k`, nothing.
        places: of `top-k`: where the values are, flat, ascending.
    """

    codec: Codec
    shape: tuple[int, ...]
    data: bytes
    scales: bytes = b""
    zeros: bytes = b""
    places: bytes = b""

    @property
    def size(self) -> int:
        """Bytes of it all."""
        return len(self.data) + len(self.scales) + len(self.zeros) + len(self.places)


def encode(array: Floats, codec: Codec) -> Coded:
    """Return an array as it travels.

    Args:
        array: float32, (examples, ...); for `int8` the second axis is the channels.
        codec: how.
    """
    if codec == "float32":
        return Coded(codec, array.shape, np.ascontiguousarray(array, "<f4").tobytes())
    if codec == "float16":
        # Gradients are so small that halves would lose most of their digits, and numpy a lot of time on them: scaled by
        # a power of two, the largest is between 1 and 2 (loss scaling; Micikevicius et al. 2018, section 3.2).
        largest = float(np.abs(array).max(initial=0.0))
        scale = np.float32(2.0 ** max(-100, math.frexp(largest)[1] - 1)) if 0 < largest <= LARGEST else np.float32(1)
        halves = (array * (1 / scale)).astype("<f2")
        return Coded(codec, array.shape, halves.tobytes(), np.array([scale], "<f4").tobytes())
    if codec == "int8":
        columns = _by_channel(array)
        low, high = columns.min((0, 2)), columns.max((0, 2))
        scales = np.maximum((high - low) / 255, 1e-12).astype("<f4")
        steps = np.rint((columns - low[:, None]) * (1 / scales)[:, None])
        return Coded(
            codec, array.shape, np.minimum(steps, 255).astype(np.uint8).tobytes(), scales.tobytes(),
            low.astype("<f4").tobytes(),
        )  # fmt: skip
    flat = array.ravel()
    count = max(1, round(TOP_SHARE * flat.size))
    places = np.sort(np.argpartition(np.abs(flat), flat.size - count)[flat.size - count :]).astype("<u4")
    return Coded(codec, array.shape, flat[places].astype("<f4").tobytes(), places=places.tobytes())


def bytes_an_example(shape: tuple[int, ...], codec: Codec, batch: int) -> float:
    """Return what one example's array takes on its way, in batches of this size."""
    return encode(np.zeros((batch, *shape), np.float32), codec).size / batch


def decode(coded: Coded) -> Floats:
    """Return the array again, float32; writable, and of nobody else's memory.

    Raises:
        RefusedError: it is none, or holds what no training gives.
    """
    count = _count(coded.shape)
    if coded.codec == "float32":
        found = _values(coded.data, "<f4", count).copy()
    elif coded.codec == "float16":
        found = _values(coded.data, "<f2", count).astype(np.float32) * _values(coded.scales, "<f4", 1)
    elif coded.codec == "int8":
        steps = _by_channel(_values(coded.data, "u1", count).reshape(coded.shape))
        channels = steps.shape[1]
        scales, zeros = (_values(part, "<f4", channels)[:, None] for part in (coded.scales, coded.zeros))
        found = (steps * scales + zeros).astype(np.float32, copy=False).ravel()
    elif coded.codec == "top-k":
        kept = len(coded.places) // 4
        places = _values(coded.places, "<u4", kept)
        if kept > count or (kept and int(places.max()) >= count) or (np.diff(places.astype(np.int64)) <= 0).any():
            raise RefusedError("an array's places are beyond it, or out of order")
        found = np.zeros(count, np.float32)
        found[places] = _values(coded.data, "<f4", kept)
    else:
        raise RefusedError(f"arrays come as {', '.join(CODECS)}, not as {str(coded.codec)[:20]!r}")
    if not np.abs(found).max(initial=0.0) <= LARGEST:  # which is false for what is not a number too
        raise RefusedError(f"an array holds values that are not finite, or beyond {LARGEST:g}")
    return found.reshape(coded.shape)


def _by_channel(array: Array) -> Array:
    """Return an array as (examples, channels, the rest)."""
    if array.ndim < 2:
        return array.reshape(len(array) if array.ndim else 1, 1, 1)
    return array.reshape(len(array), array.shape[1], -1)


def _count(shape: tuple[int, ...]) -> int:
    if not 1 <= len(shape) <= MOST_DIMENSIONS or min(shape) < 1:
        raise RefusedError(f"an array has 1 to {MOST_DIMENSIONS} dimensions, none of them empty")
    if (count := math.prod(shape)) > MOST_VALUES:
        raise RefusedError(f"an array has {count:,} values; {MOST_VALUES:,} are the most")
    return count


def _values(data: bytes, kind: str, count: int) -> Array:
    dtype = np.dtype(kind)
    if len(data) != count * dtype.itemsize:
        raise RefusedError(f"an array of {count} values comes with {len(data)} bytes")
    found: Array = np.frombuffer(data, dtype)
    return found
