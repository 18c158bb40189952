"""A synapse as a list of connections between single neurons, whatever its kind."""

import numpy as np
from scipy.sparse import coo_array, csr_array, eye_array

from edgekit.neuromorphic.loihi import LoihiSynapse


def connections(synapse: LoihiSynapse, source: tuple[int, ...], target: tuple[int, ...]) -> csr_array:
    """Return the weights between single neurons, (target neurons, source neurons), without zeros.

    Args:
        synapse: of any kind.
        source, target: shapes, (channels, height, width) or (neurons,); neurons are numbered in that order.
    """
    if synapse.kind == "direct":
        return eye_array(int(np.prod(source)), dtype=np.int32, format="csr")
    found = _of_convolution(synapse, source, target) if synapse.kind == "conv" else csr_array(synapse.weight, copy=True)
    found.eliminate_zeros()
    return found


def _of_convolution(synapse: LoihiSynapse, source: tuple[int, ...], target: tuple[int, ...]) -> csr_array:
    (_, height, width), (outputs, rows, columns) = source, target
    weight = synapse.weight
    assert isinstance(weight, np.ndarray)
    inputs = weight.shape[1]
    group = np.arange(outputs) // (outputs // synapse.groups)
    channel = group[:, None] * inputs + np.arange(inputs)  # (outputs, inputs a group)
    to, of, values = [], [], []
    for i, j in np.ndindex(*weight.shape[2:]):
        seen_row = np.arange(rows) * synapse.stride[0] - synapse.padding[0] + i * synapse.dilation[0]
        seen_column = np.arange(columns) * synapse.stride[1] - synapse.padding[1] + j * synapse.dilation[1]
        row_in = np.flatnonzero((seen_row >= 0) & (seen_row < height))
        column_in = np.flatnonzero((seen_column >= 0) & (seen_column < width))
        here = (row_in[:, None] * columns + column_in).ravel()
        there = (seen_row[row_in][:, None] * width + seen_column[column_in]).ravel()
        shape = (outputs, inputs, len(here))
        to.append(np.broadcast_to(np.arange(outputs)[:, None, None] * rows * columns + here, shape).ravel())
        of.append(np.broadcast_to(channel[:, :, None] * height * width + there, shape).ravel())
        values.append(np.broadcast_to(weight[:, :, i, j, None], shape).ravel())
    places = (np.concatenate(to), np.concatenate(of))
    return coo_array((np.concatenate(values), places), shape=(int(np.prod(target)), int(np.prod(source)))).tocsr()
