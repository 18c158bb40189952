"""Array files: `npz:` and `idx:` (the format of MNIST, gzipped or not)."""

import gzip
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.data.federated import ArraySource, Floats
from edgekit.errors import DataError

Array = NDArray[Any]

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def as_features(x: Array, where: str) -> Floats:
    """Bring examples into float32 (examples, channels, height, width) or (examples, features).

    uint8 is scaled to 0..1. Images may be (n, h, w), (n, h, w, channels) or (n, channels, h, w), with 1, 3 or 4
    channels; sequences of frames are (n, steps, channels, h, w).

    Raises:
        DataError: another shape or dtype, or values that are not finite.
    """
    if x.dtype.kind not in "uif":
        raise DataError(f"{where}: examples have dtype {x.dtype}; numbers are needed")
    x = x.astype(np.float32) / 255 if x.dtype == np.uint8 else x.astype(np.float32)
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3, 4) and x.shape[3] in (1, 3, 4):
        x = x.transpose(0, 3, 1, 2)
    elif x.ndim not in (2, 4, 5):
        raise DataError(f"{where}: examples have shape {x.shape}; (n, features) or 3 to 5 dimensions are needed")
    if not np.isfinite(x).all():
        raise DataError(f"{where}: some values are not finite")
    return np.ascontiguousarray(x)


def array_source(
    x: Array, y: Array, where: str, *, groups: Array | None = None, classes: list[str] | None = None
) -> ArraySource:
    """Check arrays and make a source of them.

    Raises:
        DataError: lengths differ, labels are not whole numbers from 0, or the examples are unfit.
    """
    if y.ndim != 1 or x.ndim == 0 or len(x) != len(y) or len(y) == 0:
        raise DataError(
            f"{where}: examples of shape {x.shape}, labels of shape {y.shape}; one label an example is needed"
        )
    if groups is not None and groups.shape != y.shape:
        raise DataError(f"{where}: groups have shape {groups.shape}; one group an example is needed")
    if y.dtype.kind in "US":
        names, labels = np.unique(y, return_inverse=True)
        classes = [str(name) for name in names]
    elif y.dtype.kind in "ui" and y.min() >= 0:
        labels = y
        classes = classes or [str(label) for label in range(int(y.max()) + 1)]
    else:
        raise DataError(f"{where}: labels must be whole numbers from 0, or names; these are {y.dtype}")
    if len(classes) > len(labels):
        raise DataError(f"{where}: labels go up to {labels.max()}, but there are only {len(labels)} examples")
    features = as_features(x, where)
    shape = " x ".join(str(size) for size in features.shape[1:])
    return ArraySource(
        features,
        labels.astype(np.int64),
        classes,
        f"{where}, {len(labels)} examples of {shape}",
        None if groups is None else groups.astype(str),
        {"mean": 0.0, "std": 255.0 if x.dtype == np.uint8 else 1.0},
    )


def read_npz(path: Path) -> tuple[ArraySource, ArraySource | None]:
    """Read an .npz: `x, y` and optionally `groups`, or `x_train, y_train, x_test, y_test`. No pickled objects.

    Raises:
        DataError: the file is missing or corrupt, or lacks these arrays.
    """
    arrays = read_arrays(path)
    prefix = "_train" if "x_train" in arrays else ""
    if f"x{prefix}" not in arrays or f"y{prefix}" not in arrays:
        held = ", ".join(arrays) or "nothing"
        raise DataError(f"{path} holds {held}; it needs x and y, or x_train, y_train (and x_test, y_test)")
    train = array_source(arrays[f"x{prefix}"], arrays[f"y{prefix}"], str(path), groups=arrays.get(f"groups{prefix}"))
    if "x_test" not in arrays or "y_test" not in arrays:
        return train, None
    return train, _same_kind(train, array_source(arrays["x_test"], arrays["y_test"], str(path)), str(path))


def read_arrays(path: Path) -> dict[str, Array]:
    """Read all arrays of an .npz; no pickled objects.

    Raises:
        DataError: the file is missing or corrupt.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise DataError(f"{path} is not a readable .npz file: {error}") from None


def read_idx(folder: Path) -> tuple[ArraySource, ArraySource | None]:
    """Read the four files of MNIST's format (`train-images-idx3-ubyte[.gz]` …) from a folder; the test pair may lack.

    Raises:
        DataError: a file is missing or corrupt.
    """
    train = array_source(_idx(folder, "train-images"), _idx(folder, "train-labels"), str(folder))
    if not any(folder.glob("t10k-images*")):
        return train, None
    test = array_source(_idx(folder, "t10k-images"), _idx(folder, "t10k-labels"), str(folder))
    return train, _same_kind(train, test, str(folder))


def _same_kind(train: ArraySource, test: ArraySource, where: str) -> ArraySource:
    if test.x.shape[1:] != train.x.shape[1:]:
        raise DataError(f"{where}: test examples have shape {test.x.shape[1:]}, training ones {train.x.shape[1:]}")
    if not set(test.classes) <= set(train.classes):
        raise DataError(f"{where}: the test set has classes that training lacks")
    if test.normalisation != train.normalisation:
        raise DataError(f"{where}: test and training examples have different number types")
    labels = np.array([train.classes.index(name) for name in test.classes])[test.labels]
    return ArraySource(
        test.x, labels.astype(np.int64), train.classes, test.description, test.groups, test.normalisation
    )


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
