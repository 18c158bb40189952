"""Named float arrays, the form in which weights travel and are stored. Numpy only: devices without torch use it."""

import hashlib
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EdgekitError
from edgekit.runfolder import write_whole

Array = NDArray[Any]
Weights = dict[str, Array]
"""A network's arrays by name, in the order of torch's `state_dict`."""


def total_norm(arrays: Iterable[Array]) -> float:
    """Return the l2 norm of all arrays taken as one vector (computed in float64)."""
    return math.sqrt(sum(float(np.vdot(a64, a64)) for a64 in (a.astype(np.float64).ravel() for a in arrays)))


def corner(shape: Sequence[int]) -> tuple[slice, ...]:
    """Return where the leading part of an array is that has a shape."""
    return tuple(slice(0, size) for size in shape)


def fits_in(shape: Sequence[int], whole: Sequence[int]) -> bool:
    """Whether an array of one shape is the leading part of one of another."""
    return len(shape) == len(whole) and all(size <= most for size, most in zip(shape, whole, strict=True))


def why_unreadable(error: Exception) -> str:
    """Return in a line why numpy could not read a file: what it holds, never how to run code from it."""
    return "it holds Python objects, or is none" if "pickle" in str(error) else " ".join(str(error).split())


def problem_with(
    arrays: Mapping[str, Array], expected: Mapping[str, Array], largest: float = sys.float_info.max
) -> str | None:
    """Say what makes `arrays` unfit to stand for `expected` (names, shapes, dtypes, finiteness); None if nothing.

    Args:
        arrays: to be looked at.
        expected: such as they must be.
        largest: bound on the values' size.
    """
    if missing := [name for name in expected if name not in arrays]:
        return f"array {missing[0]!r} is missing"
    if unknown := [name for name in arrays if name not in expected]:
        return f"array {unknown[0]!r} is unknown"
    for name, reference in expected.items():
        array = arrays[name]
        if array.shape != reference.shape:
            return f"{name!r} has shape {array.shape}, expected {reference.shape}"
        if array.dtype != reference.dtype:
            return f"{name!r} has dtype {array.dtype}, expected {reference.dtype}"
        if array.dtype.kind != "f" or not array.size:
            continue
        if not (-largest <= float(array.min()) and float(array.max()) <= largest):
            finite = np.isfinite(array).all()  # of what is none, neither comparison is true
            return f"{name!r} holds values " + (f"beyond {largest:g}" if finite else "that are not finite")
    return None


def to_bytes(
    arrays: Mapping[str, Array], description: Mapping[str, Any] | None = None, *, checked: bool = False
) -> bytes:
    """Return arrays as the content of a safetensors file; `description` (JSON) goes into its header.

    Args:
        arrays: in their order.
        description: of them.
        checked: with a checksum, for what lies on a disk.
    """
    from safetensors.numpy import save as encode

    # The format sorts its tensors; the order here is part of what must come back, since noise is drawn in it.
    header: dict[str, Any] = {"order": list(arrays), "description": description}
    if checked:
        header["sha256"] = _checksum(arrays, description)
    plain = {name: np.array(array, order="C") for name, array in arrays.items()}
    content: bytes = encode(plain, {"edgekit": json.dumps(header)})
    return content


def _checksum(arrays: Mapping[str, Array], description: Any) -> str:
    """Return a hash of arrays in their order, and of their description."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, array in arrays.items():
        digest.update(f"\0{name} {array.dtype.str} {array.shape} ".encode(errors="surrogatepass"))
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def from_bytes(content: bytes) -> tuple[Weights, Any]:
    """Read what `to_bytes` gave, from whoever sent it.

    Raises:
        EdgekitError: it is nothing of the kind.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as decode

    try:
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        ours = json.loads(header.get("__metadata__", {}).get("edgekit", "{}"))
        found = decode(content)
        return {name: found[name] for name in ours["order"]}, ours.get("description")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EdgekitError(f"these bytes are not arrays of edgekit's: {' '.join(str(error).split())[:200]}") from None


def as_arrays(contents: Mapping[str, bytes]) -> Weights:
    """Return contents of files, by name, as arrays of bytes, to travel or lie in one safetensors file."""
    return {name: np.frombuffer(content, np.uint8) for name, content in contents.items()}


def as_contents(arrays: Mapping[str, Array]) -> dict[str, bytes]:
    """Return what `as_arrays` was given."""
    return {name: array.tobytes() for name, array in arrays.items()}


def save(path: Path, arrays: Mapping[str, Array], description: Mapping[str, Any] | None = None) -> None:
    """Write arrays as a safetensors file, whole or not at all; `description` (JSON) goes into its header.

    A checksum goes with them, so that `load` refuses what a disk has changed.
    """
    write_whole(path, to_bytes(arrays, description, checked=True))


def load(path: Path) -> tuple[Weights, Any]:
    """Read a safetensors file: its arrays in the order they were saved, and the description in its header.

    Raises:
        EdgekitError: the file is missing, is not a safetensors file, or is not as it was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            ours = json.loads((file.metadata() or {}).get("edgekit", "{}"))
            arrays = {name: file.get_tensor(name) for name in ours.get("order", file.keys())}
    except FileNotFoundError:
        raise EdgekitError(f"{path} does not exist") from None
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise EdgekitError(f"{path} is not a readable safetensors file: {error}") from None
    description = ours.get("description")
    if "sha256" in ours and ours["sha256"] != _checksum(arrays, description):
        raise EdgekitError(f"{path} is damaged: its content is not what was written (checksum)")
    return arrays, description


def is_of(name: str, layers: Sequence[str]) -> bool:
    """Whether an array is one of these, or of a layer of these names; `*` and `?` stand for others (fnmatch)."""
    parts = name.split(".")
    places = [".".join(parts[: end + 1]) for end in range(len(parts))]
    return any(fnmatchcase(place, layer) for place in places for layer in layers)
