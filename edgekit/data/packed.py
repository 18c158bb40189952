"""Examples of several parts as one array: graphs, padded sequences, two inputs. Networks take the parts apart again."""

from collections.abc import Mapping

import numpy as np

from edgekit.arrays import Array
from edgekit.data.numbers import as_features, scale_of
from edgekit.errors import DataError

PARTS = ("adjacency", "length", "x2")
"""Arrays that may lie beside `x`."""
SUFFIXES = ("", "_train", "_test")
"""Of the names of a file's arrays."""


def packed(arrays: Mapping[str, Array], suffix: str, where: str) -> tuple[Array, str]:
    """Return a file's examples with what lies beside them, and words on how.

    - `adjacency` (n, nodes, nodes) beside `x` (n, nodes, features) makes graphs, (n, nodes, 1 + features + nodes): a
      node's 1 (0 is padding, a node without features and neighbours), its features, its row of the matrix.
    - `length` (n,) beside `x` (n, features, time) makes padded sequences, (n, 1 + features, time): 1 where a frame is
      real; beside tokens, whole numbers (n, time), it sets what follows to 0, which is padding.
    - `x2` (n, ...) beside `x` makes rows of both, one behind the other, (n, numbers).

    Args:
        arrays: the file's, by name.
        suffix: of their names, such as `_train`.
        where: for messages.

    Raises:
        DataError: shapes do not fit together, a graph has no node, a sequence no frame.
    """
    x = arrays[f"x{suffix}"]
    for name in PARTS:
        examples, beside = ({one for one in SUFFIXES if f"{what}{one}" in arrays} for what in ("x", name))
        if beside and beside != examples:
            lacking = [f"{name}{one}" for one in examples - beside] + [f"x{one}" for one in beside - examples]
            raise DataError(f"{where}: {name} must lie beside each x: there is no {min(lacking)}")
    parts = [name for name in PARTS if f"{name}{suffix}" in arrays]
    if not parts or x.ndim == 0 or x.size == 0:
        return x, ""
    if len(parts) > 1:
        raise DataError(f"{where} holds {' and '.join(parts)} beside x: one of {', '.join(PARTS)} at most")
    name, part = parts[0], arrays[f"{parts[0]}{suffix}"]
    if any(one.dtype.kind not in "uifb" for one in (x, part)):
        raise DataError(f"{where}: x and {name} must be numbers; these are {x.dtype} and {part.dtype}")
    if part.ndim == 0 or len(part) != len(x):
        raise DataError(f"{where}: {name} has shape {part.shape}, x {x.shape}; one of each an example is needed")
    return {"adjacency": _graphs, "length": _sequences, "x2": _both}[name](x, part, where)


def _graphs(x: Array, adjacency: Array, where: str) -> tuple[Array, str]:
    if x.ndim != 3 or adjacency.shape != (*x.shape[:2], x.shape[1]):
        raise DataError(
            f"{where}: x has shape {x.shape}, adjacency {adjacency.shape}; graphs are (n, nodes, features) and "
            "(n, nodes, nodes), padded with zeros to equal nodes"
        )
    if (adjacency < 0).any():
        raise DataError(f"{where}: adjacency holds negative numbers; 0 is no edge, larger is its weight")
    joined = (adjacency != 0).any(2) | (adjacency != 0).any(1)
    real = (x != 0).any(2) | joined
    if not real.any(1).all():
        raise DataError(f"{where}: graph {int((~real.any(1)).argmax())} has no nodes; leave it out")
    nodes, x = real.sum(1), x / np.float32(scale_of(x))
    text = f"graphs of {nodes.min()} to {nodes.max()} nodes with {x.shape[2]} features"
    return np.concatenate([real[..., None], x, adjacency], 2).astype(np.float32), text


def _sequences(x: Array, length: Array, where: str) -> tuple[Array, str]:
    if x.ndim not in (2, 3) or length.ndim != 1:
        raise DataError(
            f"{where}: x has shape {x.shape}, length {length.shape}; sequences are (n, features, time), tokens "
            "(n, time), lengths (n,)"
        )
    time = x.shape[-1]
    if ((length < 1) | (length > time) | (length != np.rint(length))).any():
        raise DataError(f"{where}: lengths must be whole numbers from 1 to {time}, the frames of x")
    real = np.arange(time) < length[:, None]
    text = f"sequences of {length.min()} to {length.max()} frames"
    if x.ndim == 2:
        if x.dtype.kind == "f" and (x != np.rint(x)).any():
            raise DataError(f"{where}: x of (n, time) with lengths holds tokens, whole numbers; these are {x.dtype}")
        return np.where(real, x, 0).astype(np.float32), f"{text}, tokens up to {int(x[real].max())}"
    x = np.where(real[:, None], x / np.float32(scale_of(x)), 0).astype(np.float32)
    return np.concatenate([real[:, None].astype(np.float32), x], 1), f"{text}, the first feature tells padding"


def _both(x: Array, second: Array, where: str) -> tuple[Array, str]:
    parts = [as_features(part, f"{where}, {name}") for name, part in (("x", x), ("x2", second))]
    text = f"two inputs: model.arguments = {{first = {list(parts[0].shape[1:])}, second = {list(parts[1].shape[1:])}}}"
    return np.concatenate([part.reshape(len(part), -1) for part in parts], 1), text
