"""What gateway and phone say to each other: one binary WebSocket message each, a JSON header and then arrays.

docs/phone-protocol.md is the description; `page/frames.js` and `phone_jvm/` read and write the same, and the golden
vectors of tests/clients/phone_frames.json hold all three to it.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit import strict_json
from edgekit.arrays import Array
from edgekit.errors import RefusedError

MAGIC = b"EKPH"
VERSION = 1
PREFIX = struct.Struct("<4sB3xI")
"""Magic, version, three zero bytes, length of the header."""
ALIGNMENT = 8
"""Arrays begin at multiples of this, so that a page can look at them where they lie."""
MOST_HEADER_BYTES = 1 << 20
MOST_ARRAYS = 16
MOST_DIMENSIONS = 8
DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "int32": np.dtype("<i4"),
    "uint8": np.dtype("u1"),
}


@dataclass(frozen=True)
class Frame:
    """One message.

    Attributes:
        type: what it is about.
        facts: JSON values by name.
        arrays: float32, int32 or uint8, by name.
    """

    type: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)


def pack(frame: Frame) -> bytes:
    """Return a frame as bytes.

    Raises:
        RefusedError: an array's dtype does not travel.
    """
    listed, parts = [], []
    for name, array in frame.arrays.items():
        if str(array.dtype) not in DTYPES:
            raise RefusedError(f"{name!r} is {array.dtype}; frames hold {', '.join(DTYPES)}")
        listed.append([name, str(array.dtype), list(array.shape)])
        parts.append(np.ascontiguousarray(array, DTYPES[str(array.dtype)]).tobytes())
    header = json.dumps(
        {"type": frame.type, **frame.facts, "arrays": listed},
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    ).encode()
    content = bytearray(PREFIX.pack(MAGIC, VERSION, len(header)) + header)
    for part in parts:
        content += bytes(-len(content) % ALIGNMENT) + part
    return bytes(content)


def unpack(content: bytes) -> Frame:
    """Read a frame, from whoever sent it.

    Raises:
        RefusedError: it is none; says why.
    """
    if len(content) < PREFIX.size:
        raise RefusedError("a frame has at least twelve bytes")
    magic, version, size = PREFIX.unpack_from(content)
    if magic != MAGIC or content[5:8] != b"\0\0\0":
        raise RefusedError("this is not a frame of edgekit's")
    if version != VERSION:
        raise RefusedError(f"this frame is of version {version}, this side speaks version {VERSION}: reload the page")
    if size > MOST_HEADER_BYTES or PREFIX.size + size > len(content):
        raise RefusedError(f"a frame's header has at most {MOST_HEADER_BYTES} bytes, and all of them")
    try:
        header = strict_json.loads(content[PREFIX.size : PREFIX.size + size])
        if not isinstance(header, dict):
            raise TypeError("an object was expected")
        kind, listed = header.pop("type"), header.pop("arrays")
        if not isinstance(kind, str) or not isinstance(listed, list) or len(listed) > MOST_ARRAYS:
            raise TypeError(f"it needs a type, and at most {MOST_ARRAYS} arrays")
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedError(f"a frame's header cannot be read: {type(error).__name__}: {str(error)[:100]}") from None
    arrays: dict[str, Array] = {}
    place = PREFIX.size + size
    for entry in listed:
        name, dtype, shape = _described(entry)
        if name in arrays:
            raise RefusedError(f"a frame names array {name!r} twice")
        place += -place % ALIGNMENT
        length = math.prod(shape)
        if place + length * dtype.itemsize > len(content):
            raise RefusedError(f"a frame ends within its array {name!r}")
        try:
            array = np.frombuffer(content, dtype, length, place).reshape(shape)
        except ValueError:  # nothing of something endless
            raise RefusedError(f"array {name!r} has an impossible shape") from None
        if dtype.kind == "f" and not np.isfinite(array).all():
            raise RefusedError(f"array {name!r} holds values that are not finite")
        arrays[name] = array
        place += length * dtype.itemsize
    if place != len(content):
        raise RefusedError(f"a frame has {len(content) - place} bytes too many")
    return Frame(kind, header, arrays)


def _described(entry: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    """Return the name, dtype and shape of an array, as the header has them."""
    fits = isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], str) and isinstance(entry[1], str)
    if not fits or len(entry[0]) > 64 or entry[1] not in DTYPES or not isinstance(entry[2], list):
        raise RefusedError(f"an array is described by name, dtype ({', '.join(DTYPES)}) and shape")
    shape = entry[2]
    if len(shape) > MOST_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise RefusedError(f"array {entry[0]!r} has an impossible shape")
    return entry[0], DTYPES[entry[1]], tuple(shape)
