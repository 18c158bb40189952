"""What a network takes of a chip: neurons, synapses, memory and axons, and how it is divided over cores."""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from edgekit.errors import ConversionError
from edgekit.neuromorphic.connections import connections
from edgekit.neuromorphic.loihi import LoihiNetwork, LoihiSynapse, values_of

Counts = NDArray[np.int64]

INDEX_BITS = {"mixed": 9, "excitatory": 8, "inhibitory": 8}
"""Bits of one weight with its sign."""


@dataclass(frozen=True)
class Chip:
    """Limits of a chip.

    Attributes:
        name: of the chip.
        cores: on one chip.
        neurons: a core.
        synapse_bytes: of memory a core.
        axons: that may enter a core, and that may leave it; None where none is published.
        shares_kernels: whether a convolution's weights are stored once, instead of once a connection.
        source: of these numbers.
    """

    name: str
    cores: int
    neurons: int
    synapse_bytes: int
    axons: int | None
    shares_kernels: bool
    source: str


CHIPS = {
    "loihi-1": Chip(
        "Loihi 1",
        128,
        1024,
        128 << 10,
        4096,
        False,
        "Davies et al. 2018, IEEE Micro 38(1), section 'Architecture'; axons: Lin et al. 2018, IEEE Computer 51(3)",
    ),
    "loihi-2": Chip(
        "Loihi 2",
        128,
        8192,
        192 << 10,
        None,
        True,
        "Intel Labs, 'Taking neuromorphic computing to the next level with Loihi 2', technology brief 2021, table 1",
    ),
}


@dataclass(frozen=True)
class LayerResources:
    """A layer's part.

    Attributes:
        name: of the layer.
        neurons: of it.
        synapses: connections into it, weights of zero left out.
        synapse_bytes: to store them.
        fan_in, fan_out: most connections into, and out of, one neuron.
        cores: of the chip.
        neurons_per_core: of each of its cores, in order.
    """

    name: str
    neurons: int
    synapses: int
    synapse_bytes: int
    fan_in: int
    fan_out: int
    neurons_per_core: tuple[int, ...]

    @property
    def cores(self) -> int:
        """How many cores the layer takes."""
        return len(self.neurons_per_core)


@dataclass(frozen=True)
class Resources:
    """A network on a chip.

    Attributes:
        chip: the chip.
        layers: their parts, in order; no core holds neurons of two layers.
        input_fan_out: most connections out of one input.
    """

    chip: Chip
    layers: tuple[LayerResources, ...]
    input_fan_out: int

    @property
    def cores(self) -> int:
        """Cores in all."""
        return sum(layer.cores for layer in self.layers)

    @property
    def chips(self) -> int:
        """Chips that have as many cores."""
        return -(-self.cores // self.chip.cores)

    @property
    def neurons(self) -> int:
        """Neurons in all."""
        return sum(layer.neurons for layer in self.layers)

    @property
    def synapses(self) -> int:
        """Connections in all."""
        return sum(layer.synapses for layer in self.layers)

    def facts(self) -> dict[str, Any]:
        """Return all as plain values."""
        layers = []
        for layer in self.layers:
            sizes = list(layer.neurons_per_core)
            layers.append({**vars(layer), "cores": layer.cores, "neurons_per_core": sizes})
        return {
            "chip": self.chip.name,
            "cores": self.cores,
            "chips": self.chips,
            "neurons": self.neurons,
            "synapses": self.synapses,
            "input_fan_out": self.input_fan_out,
            "layers": layers,
            "source": self.chip.source,
        }


def resources(network: LoihiNetwork, chip: str) -> Resources:
    """Count what a network takes of a chip, and divide it over cores.

    A layer's neurons are taken in order, each core as many as its limits allow: neurons, memory for their synapses, and
    axons (each source neuron that reaches a core needs one).

    Args:
        network: the network.
        chip: of CHIPS.

    Raises:
        ConversionError: a single neuron has more connections than a core can hold.
    """
    limits = CHIPS[chip]
    listed = [
        [(synapse, connections(synapse, network.shape_of(synapse.source), layer.shape)) for synapse in layer.synapses]
        for layer in network.layers
    ]
    reached: dict[int, Counts] = {}
    for parts in listed:
        for synapse, found in parts:
            counts = np.diff(found.tocsc().indptr)
            reached[synapse.source] = reached.get(synapse.source, 0) + counts
    layers = []
    for number, (layer, parts) in enumerate(zip(network.layers, listed, strict=True)):
        fan_in: Counts = np.sum([np.diff(found.indptr) for _, found in parts], axis=0)
        # A shared kernel is stored by output channel: a core holds those of its own channels, about.
        kernels = sum(_kernel_bits(synapse) for synapse, _ in parts if _is_shared(synapse, limits))
        shared = -(-kernels // layer.shape[0])
        each = prod(layer.shape[1:])
        bits = np.zeros(prod(layer.shape), np.int64)
        for synapse, found in parts:
            if not _is_shared(synapse, limits):
                bits += np.diff(found.indptr) * _bits(synapse)
        sizes = _divide(layer.name, bits, shared, each, [found for _, found in parts], limits)
        ends = np.cumsum(sizes)
        held = sum(_channels(int(end - size), int(end), each) for size, end in zip(sizes, ends, strict=True))
        total = (int(bits.sum()) + shared * held + 7) // 8
        fan_out = int(np.max(reached.get(number, np.zeros(1, np.int64))))
        layers.append(
            LayerResources(
                layer.name, prod(layer.shape), int(fan_in.sum()), total, int(fan_in.max(initial=0)), fan_out, sizes
            )
        )
    from_input = reached.get(-1, np.zeros(1, np.int64))
    return Resources(limits, tuple(layers), int(np.max(from_input, initial=0)))


def require_fit(found: Resources) -> None:
    """See that a network fits one chip.

    Raises:
        ConversionError: it needs more cores than there are.
    """
    if found.chips > 1:
        raise ConversionError(
            f"the network needs {found.cores} cores of {found.chip.name}, and a chip has {found.chip.cores}: make it "
            "smaller (model.width)"
        )


def _is_shared(synapse: LoihiSynapse, chip: Chip) -> bool:
    return synapse.kind == "conv" and chip.shares_kernels


def _bits(synapse: LoihiSynapse) -> int:
    return INDEX_BITS[synapse.sign] - (8 - synapse.weight_bits)


def _kernel_bits(synapse: LoihiSynapse) -> int:
    return int(values_of(synapse.weight).size) * _bits(synapse)


def _channels(start: Any, end: Any, each: int) -> Any:
    """Return how many channels a range of neurons touches, or each of several ranges."""
    return (end - 1) // each - start // each + 1


def _divide(name: str, bits: Counts, shared: int, each: int, found: list[csr_array], chip: Chip) -> tuple[int, ...]:
    """Return how many neurons each core takes, greedily, in order.

    Args:
        name: of the layer, for errors.
        bits: of memory each neuron's own synapses take.
        shared: bits of the shared kernels of one channel.
        each: neurons a channel.
        found: connections into the layer.
        chip: whose cores they are.
    """
    room = chip.synapse_bytes * 8
    if bits.max(initial=0) + shared > room:
        raise ConversionError(
            f"layer {name!r}: one neuron's synapses need more than the {chip.synapse_bytes >> 10} KiB of a core of "
            f"{chip.name}: fewer inputs a neuron, or fewer channels"
        )
    sums = np.concatenate([[0], np.cumsum(bits)])
    sizes: list[int] = []
    start = 0
    while start < len(bits):
        ends = np.arange(start + 1, min(start + chip.neurons, len(bits)) + 1)
        needed = sums[ends] - sums[start] + shared * _channels(start, ends, each)
        end = int(ends[np.searchsorted(needed, room, "right") - 1])
        end = _within_axons(name, found, start, end, chip)
        sizes.append(end - start)
        start = end
    return tuple(sizes)


def _within_axons(name: str, found: list[csr_array], start: int, end: int, chip: Chip) -> int:
    """Return the furthest end of a core's neurons that no more source neurons reach than the chip has axons for."""
    axons = chip.axons
    if axons is None:
        return end

    def sources(until: int) -> int:
        total = 0
        for part in found:
            reached = np.zeros(part.shape[1], bool)
            reached[part.indices[part.indptr[start] : part.indptr[until]]] = True
            total += int(reached.sum())
        return total

    if sources(start + 1) > axons:
        raise ConversionError(
            f"layer {name!r}: one neuron has more than the {axons} sources that may enter a core of {chip.name}"
        )
    low, high = start + 1, end
    while low < high:  # more neurons never need fewer axons
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sources(middle) <= axons else (low, middle - 1)
    return low
