"""Integer products of a layer's inputs with its weights: exact, over all time steps and examples at once.

Maps are kept (rows, height, width, channels), so that channels lie side by side. Each synapse takes the form that is
fastest for its shape; all give the same integers.

- Eight-bit kernels where the operands fit: weights of mixed sign are even on Loihi, so that half of them does.
- Otherwise products in floats that are wide enough to be exact: below 2^24 in float32, below 2^53 in float64.
- Event by event, in compiled loops, where spikes are so rare that this is less work.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from edgekit.neuromorphic.connections import connections
from edgekit.neuromorphic.emulator.convolutions import convolution
from edgekit.neuromorphic.emulator.matrices import (
    BYTE_MACS_PER_NS,
    FLOAT_MACS_PER_NS,
    LARGEST_MATRIX,
    ByteMatrix,
    Product,
    matrix,
    row_sum,
)
from edgekit.neuromorphic.emulator.scans import scatter
from edgekit.neuromorphic.loihi import LoihiSynapse, Weight, prepared_weight

MOST_LISTED_CONNECTIONS = 1 << 21
"""Connections of a synapse beyond which no list of them is made to follow single events."""

NS_PER_EVENT_SYNAPSE = 0.7
NS_PER_COUNTED_SOURCE = 0.3


@dataclass(frozen=True)
class Term:
    """One part of a layer's drive: product, shift and delay.

    Attributes:
        product: of the source's rows with the weights.
        shift: left shift that is still due, right if negative.
        wrap24: whether Lava wraps the result to 24 bits (convolutions).
        bound: largest activation there can be, in absolute value.
        delay: time steps.
        source: a layer's number, or INPUT.
        binary: whether any message counts as one spike.
    """

    product: "Product"
    shift: int
    wrap24: bool
    bound: int
    delay: int
    source: int
    binary: bool

    @property
    def direct(self) -> bool:
        """Whether messages go on as they are, through no synapse."""
        return isinstance(self.product, _Identity)

    def raw(self, rows: Tensor, graded: bool) -> Tensor:
        """Return the bare product, int32 (rows, width): rows (rows, ...) of messages, which may be graded."""
        return self.product((rows != 0).to(torch.int8) if graded and self.binary else rows)

    def activation(self, rows: Tensor, graded: bool) -> Tensor:
        """Return the shifted and wrapped activation, int32 (rows, outputs)."""
        raw = self.raw(rows, graded)[:, : self.product.outputs]
        shifted = raw << self.shift if self.shift >= 0 else raw >> -self.shift
        return ((shifted + (1 << 23)) & ((1 << 24) - 1)) - (1 << 23) if self.wrap24 else shifted


def terms(synapse: LoihiSynapse, source: tuple[int, ...], target: tuple[int, ...], largest: int) -> list[Term]:
    """Return what a synapse's drive is made of: a term for each of its delays.

    Args:
        synapse: the synapse.
        source, target: shapes in the network's own order, (channels, height, width) or (neurons,).
        largest: message that the source can send, in absolute value.
    """
    if synapse.kind == "direct":
        return [Term(_Identity(int(np.prod(source))), 0, False, largest, 0, synapse.source, False)]
    binary = synapse.message_bits == 0
    largest = 1 if binary else largest
    found = []
    for delay, part in _by_delay(synapse):
        weight = prepared_weight(part)
        bound = row_sum(weight) * largest
        product, halved = _product(part, weight, source, target, largest)
        if synapse.kind == "conv":
            found.append(Term(product, halved, bound >= 1 << 23, bound, delay, synapse.source, binary))
        else:
            exponent = synapse.weight_exponent
            found.append(
                Term(product, exponent + halved, False, bound << max(exponent, 0), delay, synapse.source, binary)
            )
    return found


def _by_delay(synapse: LoihiSynapse) -> Iterator[tuple[int, LoihiSynapse]]:
    """Split a synapse by its connections' delays, since each delay's sum is shifted by itself."""
    if isinstance(synapse.delay, int):
        yield synapse.delay, synapse
        return
    for delay in np.unique(synapse.delay):
        yield int(delay), synapse.with_delay(int(delay))


def _product(
    synapse: LoihiSynapse, weight: Weight, source: tuple[int, ...], target: tuple[int, ...], largest: int
) -> tuple[Product, int]:
    """Return the fastest form of a product, and the left shift it still lacks."""
    sources, targets = int(np.prod(source)), int(np.prod(target))
    if synapse.kind == "conv":
        assert isinstance(weight, np.ndarray)
        whole, halved, ns_per_row = convolution(synapse, weight, source, target, largest)
        count = weight.size // len(weight) * targets
    elif weight.shape[0] * weight.shape[1] <= LARGEST_MATRIX or not isinstance(weight, csr_array):
        dense = weight.toarray() if isinstance(weight, csr_array) else weight
        ordered = np.ascontiguousarray(dense[:, _channels_last(source)][_channels_last(target)])
        whole, halved = matrix(ordered, largest)
        speed = BYTE_MACS_PER_NS if isinstance(whole, ByteMatrix) else FLOAT_MACS_PER_NS
        count, ns_per_row = int(np.count_nonzero(ordered)), dense.size / speed
    else:
        return _Events(weight[_channels_last(target)][:, _channels_last(source)], targets), 0
    if count > MOST_LISTED_CONNECTIONS:
        return whole, halved
    listed = connections(replace(synapse, weight=weight), source, target)
    ordered_list = listed[_channels_last(target)][:, _channels_last(source)]
    ordered_list.data >>= halved
    return _Either(whole, _Events(ordered_list, whole.width), sources, ns_per_row), halved


def _channels_last(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return, in the order (height, width, channels), where each neuron lies in (channels, height, width)."""
    places = np.arange(int(np.prod(shape))).reshape(shape)
    return (places.transpose(1, 2, 0) if len(shape) == 3 else places).ravel()


class _Identity(Product):
    def __init__(self, outputs: int) -> None:
        self.outputs = self.width = outputs

    def __call__(self, rows: Tensor) -> Tensor:
        return rows.flatten(1).to(torch.int32)


class _Events(Product):
    """A product that follows each spike to the neurons it reaches, from a list of connections."""

    def __init__(self, connected: csr_array, width: int) -> None:
        self.outputs, self.width = connected.shape[0], width
        by_source = connected.tocsc()
        self.starts = by_source.indptr.astype(np.int32)
        self.targets = by_source.indices.astype(np.int32)
        self.weights = by_source.data.astype(np.int32)

    def __call__(self, rows: Tensor) -> Tensor:
        where = torch.nonzero(flat := rows.flatten(1))
        values = flat[where[:, 0], where[:, 1]].to(torch.int32)
        out = torch.zeros(len(rows), self.width, dtype=torch.int32)
        scatter(
            where[:, 0].numpy(),
            where[:, 1].numpy(),
            values.numpy(),
            self.starts,
            self.targets,
            self.weights,
            out.numpy(),
        )
        return out


class _Either(Product):
    """A product over all neurons, or event by event where the rows at hand have few."""

    def __init__(self, whole: Product, events: _Events, sources: int, ns_per_row: float) -> None:
        self.whole, self.events = whole, events
        self.outputs, self.width = whole.outputs, whole.width
        fan_out = max(1.0, len(events.targets) / max(1, sources))
        self.most_per_row = (ns_per_row - sources * NS_PER_COUNTED_SOURCE) / (NS_PER_EVENT_SYNAPSE * fan_out)

    def __call__(self, rows: Tensor) -> Tensor:
        # Looking for events costs time too: not where less than one a row would pay.
        if self.most_per_row > 1 and int(torch.count_nonzero(rows)) < self.most_per_row * len(rows):
            return self.events(rows)
        return self.whole(rows)
