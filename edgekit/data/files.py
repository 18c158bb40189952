"""Array files: `npz:` and `idx:` (the format of MNIST, gzipped or not)."""

import gzip
import struct
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import why_unreadable
from edgekit.data.federated import ArraySource, Floats, Integers
from edgekit.data.numbers import as_features, scale_of
from edgekit.data.packed import PARTS, SUFFIXES, packed
from edgekit.errors import DataError

Array = NDArray[Any]

NAMES = {f"{name}{part}" for name in ("x", "y", "groups", *PARTS) for part in SUFFIXES}
"""Arrays of an .npz that mean something."""
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def as_labels(y: Array, where: str) -> tuple[Integers, list[str], str]:
    """Return class indices, the classes' names, and words on what numbers became, "" where they are as they were.

    Args:
        y: names, or whole numbers of whichever type, at least one; numbers that leave gaps, or begin elsewhere than at
            0, are classes by their order.
        where: for messages.

    Raises:
        DataError: they are neither names nor whole numbers from 0.
    """
    y = _plain(y)
    if y.dtype.kind not in "USui" or (y.dtype.kind in "ui" and y.min() < 0):
        raise DataError(f"{where}: labels must be whole numbers from 0, or names; these are {y.dtype}")
    found = np.unique(y)
    try:
        names = [one.decode() if isinstance(one, bytes) else str(one) for one in found.tolist()]
    except UnicodeDecodeError:
        raise DataError(f"{where}: labels must be text in UTF-8, or whole numbers from 0") from None
    text = ""
    if y.dtype.kind in "ui" and int(found[-1]) != len(found) - 1:
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        text = f"labels {shown} are its {len(names)} classes"
    return np.searchsorted(found, y).astype(np.int64), names, text


def _plain(y: Array) -> Array:
    """Return labels of a table's types as numpy's: objects that are text or numbers, whole floats, truth values."""
    if y.dtype == object and len(y):
        if all(isinstance(one, str) for one in y):
            return y.astype(str)
        whole = all(isinstance(one, int | np.integer) or (isinstance(one, float) and one.is_integer()) for one in y)
        if whole and all(abs(one) < 2**62 for one in y):
            return np.array([int(one) for one in y], np.int64)
    if y.dtype.kind == "b" or (y.dtype.kind == "f" and len(y) and (y == np.rint(y)).all() and np.abs(y).max() < 2**53):
        return y.astype(np.int64)
    return y


def array_source(
    x: Array,
    y: Array,
    where: str,
    *,
    groups: Array | None = None,
    classes: list[str] | None = None,
    scale: float | None = None,
) -> ArraySource:
    """Check arrays and make a source of them.

    Args:
        x: examples.
        y: labels.
        where: for messages.
        groups: owners.
        classes: names of the labels 0, 1, … where somebody gave them.
        scale: what raw values are divided by; None goes by their type.

    Raises:
        DataError: lengths differ, labels are neither names nor numbers, or the examples are unfit.
    """
    values = _values(y, where)
    if (y.ndim != 1 and values is None) or x.ndim == 0 or len(x) != len(y) or len(y) == 0:
        raise DataError(
            f"{where}: examples of shape {x.shape}, labels of shape {y.shape}; one label an example is needed"
        )
    if groups is not None and groups.shape != y.shape[:1]:
        raise DataError(f"{where}: groups have shape {groups.shape}; one group an example is needed")
    if x.size == 0:
        raise DataError(f"{where}: examples of shape {x.shape} hold no values")
    plain = _plain(y)
    names: list[str] = []
    if values is not None and (y.ndim == 2 or plain.dtype.kind == "f" or plain.min() < 0):
        labels, text = np.zeros(0, np.int64), ""  # numbers that are no classes
    else:
        labels, names, text = as_labels(y, where)
        if classes is not None and plain.dtype.kind in "ui" and plain.max() < len(classes):
            labels, names, text = plain.astype(np.int64), classes, ""
    scale = scale_of(x) if scale is None else scale
    features = as_features(x, where, scale)
    shape = " x ".join(str(size) for size in features.shape[1:])
    notes = [text] if text else []
    if x.dtype != np.uint8 and scale != 1:
        notes.append("whole numbers up to 255 scaled to 0..1")
    elif x.dtype.kind == "f" and x.ndim >= 3 and float(np.abs(features).max()) > 100:
        notes.append(f"values up to {float(np.abs(features).max()):.4g}: networks learn better from 0 to 1")
    return ArraySource(
        features,
        labels,
        names,
        "; ".join([f"{where}, {len(y)} examples of {shape}", *notes]),
        None if groups is None else groups.astype(str),
        {"mean": 0.0, "std": scale},
        values,
    )


def _values(y: Array, where: str) -> Floats | None:
    """Return labels that are finite numbers, one or several an example, as such: (examples, numbers)."""
    plain = _plain(y) if y.ndim == 1 else y
    if plain.ndim not in (1, 2) or plain.dtype.kind not in "uifb" or plain.size == 0:
        return None
    with np.errstate(over="ignore"):
        values = plain.astype(np.float32).reshape(len(plain), -1)
    if not np.isfinite(values).all():
        places = np.flatnonzero(~np.isfinite(values).all(1))
        raise DataError(
            f"{where}: some labels are not finite numbers of 32 bits: of {len(places)} "
            f"example{'s' * (len(places) > 1)}, first of example {places[0]}"
        )
    return values


def read_npz(path: Path) -> tuple[ArraySource, ArraySource | None]:
    """Read an .npz: `x, y` and optionally `groups`, or `x_train, y_train, x_test, y_test`. No pickled objects.

    Beside `x` may lie `adjacency`, `length` or `x2` (`packed`).

    Raises:
        DataError: the file is missing or corrupt, or lacks these arrays.
    """
    arrays = read_arrays(path, NAMES)
    prefix = "_train" if "x_train" in arrays else ""
    if f"x{prefix}" not in arrays or f"y{prefix}" not in arrays:
        held = ", ".join(arrays) or "nothing"
        raise DataError(f"{path} holds {held}; it needs x and y, or x_train, y_train (and x_test, y_test)")
    x, text = packed(arrays, prefix, str(path))
    train = array_source(x, arrays[f"y{prefix}"], str(path), groups=arrays.get(f"groups{prefix}"))
    train = replace(train, description=", ".join([train.description, *([text] if text else [])]))
    if "x_test" not in arrays or "y_test" not in arrays:
        return train, None
    return train, _same_kind(
        train, _tested(packed(arrays, "_test", str(path))[0], arrays["y_test"], train, str(path)), str(path)
    )


def read_arrays(path: Path, wanted: Collection[str] | None = None) -> dict[str, Array]:
    """Read arrays of an .npz; no pickled objects.

    Args:
        path: the file.
        wanted: names; None reads all that are there.

    Raises:
        DataError: the file is missing or corrupt.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if wanted is None or name in wanted}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except MemoryError:
        raise DataError(f"{path} promises arrays that do not fit into memory") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise DataError(f"{path} is not a readable .npz file: {why_unreadable(error)}") from None


def read_idx(folder: Path) -> tuple[ArraySource, ArraySource | None]:
    """Read the four files of MNIST's format (`train-images-idx3-ubyte[.gz]` …) from a folder; the test pair may lack.

    Raises:
        DataError: a file is missing or corrupt.
    """
    train = array_source(_idx(folder, "train-images"), _idx(folder, "train-labels"), str(folder))
    if not any(folder.glob("t10k-images*")):
        return train, None
    test = _tested(_idx(folder, "t10k-images"), _idx(folder, "t10k-labels"), train, str(folder))
    return train, _same_kind(train, test, str(folder))


def _tested(x: Array, y: Array, train: ArraySource, where: str) -> ArraySource:
    """Return a test set, scaled as its training set is where both hold whole numbers."""
    return array_source(x, y, where, scale=train.normalisation["std"] if x.dtype.kind in "ui" else None)


def _same_kind(train: ArraySource, test: ArraySource, where: str) -> ArraySource:
    if test.x.shape[1:] != train.x.shape[1:]:
        raise DataError(f"{where}: test examples have shape {test.x.shape[1:]}, training ones {train.x.shape[1:]}")
    if not set(test.classes) <= set(train.classes) and train.classes:
        raise DataError(f"{where}: the test set has classes that training lacks")
    if test.normalisation != train.normalisation:
        raise DataError(f"{where}: test and training examples have different number types")
    places = np.array([train.classes.index(name) for name in test.classes if train.classes], np.int64)
    labels = places[test.labels] if len(places) else np.zeros(0, np.int64)
    return replace(test, labels=labels, classes=train.classes)


def _idx(folder: Path, stem: str) -> Array:
    """Read one idx file: two zero bytes, a type, the rank, big-endian sizes, the values."""
    found = sorted(folder.glob(f"{stem}*"))
    if not found:
        raise DataError(f"{folder} holds no {stem}-idx*-ubyte[.gz]")
    path = found[0]
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in _IDX_TYPES or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path} is not an idx file")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    dtype = np.dtype(_IDX_TYPES[data[2]])
    body = data[4 + 4 * data[3] :]
    if len(body) != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path} is cut short: its header promises shape {shape}")
    return np.frombuffer(body, dtype).reshape(shape).astype(dtype.newbyteorder("="))
