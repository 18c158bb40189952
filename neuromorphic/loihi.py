"""A spiking network in Loihi's integers: plain data, its limits, and its file.

Loihi's formats (Davies et al. 2018; Lava 0.10's fixed-point models): 8-bit weights, of which mixed-sign ones are even;
thresholds of 17 bits and a 24-bit voltage, in units of 2^6; biases of a 13-bit mantissa and an exponent; 12-bit decays.
"""

import io
import json
import zipfile
import zlib
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from edgekit.arrays import why_unreadable
from edgekit.errors import ConversionError
from edgekit.neuromorphic.coding import Coding, Floats
from edgekit.neuromorphic.network import INPUT, CodedInput
from edgekit.runfolder import write_whole

Integers = NDArray[np.int32]
Weight: TypeAlias = "Integers | csr_array"

LARGEST_WEIGHT = 254
READOUT_THRESHOLD = (1 << 17) - 1
"""The largest: with it a readout whose voltage stays below the clip never fires."""
VOLTAGE_LIMIT = 1 << 23
NO_MEMORY = 4095
"""Current decay of a neuron whose current lasts one step."""
LARGEST_BIAS = 4095
LARGEST_BIAS_EXPONENT = 7
LARGEST_DELAY = 63
UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    EOFError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What damaged files raise, in numpy, zipfile, zlib, and where their parts are put together."""


@dataclass(frozen=True)
class LoihiSynapse:
    """Integer connections from one source.

    Attributes:
        source: a layer's number, or -1 for the input.
        kind: `conv`, `dense`, `sparse`, or `direct`: each neuron gets its source's message, through no weight.
        weight: (out, in / groups, height, width), (out, in), a sparse array (out, in), or of size 0; int32.
        stride, padding, groups, dilation: of a convolution; pairs are (height, width).
        message_bits: bits of a graded message; 0 for spikes.
        weight_exponent, weight_bits, sign: Lava's for `dense` and `sparse`; its `conv` uses weights as they are.
        delay: time steps on top of none, up to 63; of every connection alike, or of each: an array of the shape of
            `weight` (`dense`) or of its stored values (`sparse`).
    """

    source: int
    kind: Literal["conv", "dense", "sparse", "direct"]
    weight: Weight
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    message_bits: int = 0
    dilation: tuple[int, int] = (1, 1)
    weight_exponent: int = 0
    weight_bits: int = 8
    sign: Literal["mixed", "excitatory", "inhibitory"] = "mixed"
    delay: int | Integers = 0

    def with_delay(self, delay: int) -> "LoihiSynapse":
        """Return the part whose connections have this delay, as connections without one."""
        held = np.broadcast_to(np.asarray(self.delay) == delay, np.shape(values_of(self.weight)))
        values = np.where(held, values_of(self.weight), 0).astype(np.int32)
        return replace(self, weight=with_values(self.weight, values), delay=0)


@dataclass(frozen=True)
class Lif:
    """Leaky integrate-and-fire neurons with a current: see `emulator.scans.leaky`.

    Attributes:
        threshold: mantissa; the voltage is compared with threshold << 6.
        bias: mantissa per neuron, of the layer's shape, int32.
        bias_exponent: the bias is mantissa << exponent.
        current_decay, voltage_decay: 12 bits; 4095 lets the current last one step, 0 keeps the voltage.
        reset: `soft` subtracts the threshold, `hard` sets zero.
        refractory: steps after a spike in which the voltage rests.
    """

    threshold: int
    bias: Integers
    bias_exponent: int = 0
    current_decay: int = NO_MEMORY
    voltage_decay: int = 0
    reset: Literal["soft", "hard"] = "soft"
    refractory: int = 0


@dataclass(frozen=True)
class SigmaDelta:
    """Units that sum up what changes (sigma), send what changes (delta), or both, with graded messages.

    Attributes:
        kind: which of them.
        threshold: smallest change that is sent.
        bias: per unit, of the layer's shape, int32 (`sigma-delta`).
        spike_exponent, state_exponent: scales of messages and states.
        activation: `relu` or `unit` (`sigma-delta`).
        cumulative: whether unsent changes add up until they are sent.
    """

    kind: Literal["sigma", "delta", "sigma-delta"]
    threshold: int
    bias: Integers
    spike_exponent: int = 0
    state_exponent: int = 0
    activation: Literal["relu", "unit"] = "relu"
    cumulative: bool = False


@dataclass(frozen=True)
class LoihiLayer:
    """Neurons and what drives them.

    Attributes:
        name: of the layer.
        synapses: drives add up.
        neurons: their parameters.
        shape: (channels, height, width) or (neurons,).
    """

    name: str
    synapses: tuple[LoihiSynapse, ...]
    neurons: Lif | SigmaDelta
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LoihiNetwork(CodedInput):
    """Layers in order; the last is the readout, whose final voltages are the scores.

    Attributes:
        layers: each after its sources.
        steps: time steps an example takes; the biases are made for it.
        input_shape, input_low, input_step, input_bits, classes, coding: as in SpikingNetwork.
    """

    layers: tuple[LoihiLayer, ...]
    steps: int
    input_shape: tuple[int, ...]
    input_low: float
    input_step: float
    input_bits: int
    classes: tuple[str, ...]
    coding: Coding = "current"

    def encode(self, x: Floats, seed: int = 0) -> Integers:
        """Return the input's integer codes: see `SpikingNetwork.encode`."""
        return self.codes(x, self.steps, seed)

    def over_time(self, codes: Integers) -> Integers:
        """Return codes as (examples, steps, ...): a constant current's once a step."""
        constant = codes.ndim == 1 + len(self.input_shape)
        return np.repeat(codes[:, None], self.steps, 1) if constant else codes


def values_of(weight: Weight) -> Integers:
    """Return the weights that are stored, as an array."""
    values: Integers = weight.data if isinstance(weight, csr_array) else weight
    return values


def with_values(weight: Weight, values: Integers) -> Weight:
    """Return the same connections with other weights."""
    if isinstance(weight, csr_array):
        return csr_array((values, weight.indices, weight.indptr), shape=weight.shape)
    return values


def prepared_weight(synapse: LoihiSynapse) -> Weight:
    """Return the weights that take effect.

    Dense and sparse ones are clipped to 8 bits and a sign, and their low bits cut off: mixed signs cost one bit, fewer
    weight bits cost more. Lava's convolution uses its weights as they are.
    """
    weight = values_of(synapse.weight).astype(np.int32)
    if synapse.kind == "conv":
        return weight
    if synapse.sign == "inhibitory":
        weight = -weight
    mixed = synapse.sign == "mixed"
    weight = np.clip(weight, -256 if mixed else 0, 255)
    cut = 8 - synapse.weight_bits + (1 if mixed else 0)
    weight = (weight >> cut) << cut
    return with_values(synapse.weight, -weight if synapse.sign == "inhibitory" else weight)


def check(network: LoihiNetwork) -> None:
    """See that every number fits Loihi's formats, and every connection its shapes.

    Raises:
        ConversionError: one does not; layer and limit are named.
    """
    for number, layer in enumerate(network.layers):
        where = f"layer {layer.name!r}"
        neurons = layer.neurons
        if neurons.bias.shape != layer.shape:
            raise ConversionError(f"{where} has biases of shape {neurons.bias.shape}, and neurons of {layer.shape}")
        for synapse in layer.synapses:
            if not INPUT <= synapse.source < number:
                raise ConversionError(f"{where} has a synapse from {synapse.source}; sources are earlier layers, or -1")
            values = values_of(synapse.weight)
            if values.size and (values.min() < -LARGEST_WEIGHT - 2 or values.max() > LARGEST_WEIGHT + 1):
                raise ConversionError(
                    f"{where} has weights from {values.min()} to {values.max()}; Loihi's have 8 bits and a sign: "
                    "-256 to 255"
                )
            if not 0 <= np.max(synapse.delay, initial=0) <= LARGEST_DELAY:
                raise ConversionError(f"{where} has delays beyond 0 to {LARGEST_DELAY}")
            _check_shapes(network, layer, synapse)
        if isinstance(neurons, Lif):
            limits = {
                "threshold": (neurons.threshold, READOUT_THRESHOLD),
                "current_decay": (neurons.current_decay, NO_MEMORY),
                "voltage_decay": (neurons.voltage_decay, NO_MEMORY),
            }
            for name, (value, largest) in limits.items():
                if not 0 <= value <= largest:
                    raise ConversionError(f"{where} has the {name} {value}; Loihi's goes from 0 to {largest}")
            if np.abs(neurons.bias).max(initial=0) > LARGEST_BIAS + 1 or neurons.bias_exponent > LARGEST_BIAS_EXPONENT:
                raise ConversionError(
                    f"{where} has a bias beyond Loihi's format: 13 bits, exponent up to {LARGEST_BIAS_EXPONENT}"
                )


def _check_shapes(network: LoihiNetwork, layer: LoihiLayer, synapse: LoihiSynapse) -> None:
    source, weight = network.shape_of(synapse.source), synapse.weight
    if synapse.kind == "conv":
        fits = len(source) == 3 and weight.ndim == 4 and weight.shape[1] * synapse.groups == source[0]
        reached = [weight.shape[0]]
        if fits:
            for side, kernel, stride, pad, dilation in zip(
                source[1:], weight.shape[2:], synapse.stride, synapse.padding, synapse.dilation, strict=True
            ):
                reached.append((side + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1)
        fits = fits and tuple(reached) == layer.shape
    elif synapse.kind == "direct":
        fits = source == layer.shape
    else:
        fits = tuple(weight.shape) == (prod(layer.shape), prod(source))
    if not fits:
        raise ConversionError(
            f"layer {layer.name!r}: weights of shape {tuple(weight.shape)} do not lead from {source} to {layer.shape}"
        )


def save(network: LoihiNetwork, path: Path) -> None:
    """Write an .npz without pickled objects: `network` is JSON, and arrays by the place of what they belong to.

    `LAYER.bias`; `LAYER.SYNAPSE.weight`, for sparse synapses with `.columns` and `.starts` (CSR); `LAYER.SYNAPSE.delay`
    where connections differ.
    """
    arrays: dict[str, Any] = {}
    layers = []
    for number, layer in enumerate(network.layers):
        arrays[f"{number}.bias"] = layer.neurons.bias
        synapses = []
        for place, synapse in enumerate(layer.synapses):
            facts = {k: v for k, v in vars(synapse).items() if k != "weight"}
            arrays[f"{number}.{place}.weight"] = values_of(synapse.weight)
            if isinstance(synapse.weight, csr_array):
                arrays[f"{number}.{place}.columns"] = synapse.weight.indices
                arrays[f"{number}.{place}.starts"] = synapse.weight.indptr
                facts["shape"] = synapse.weight.shape
            if not isinstance(synapse.delay, int):
                arrays[f"{number}.{place}.delay"] = facts.pop("delay")
            synapses.append(facts)
        neurons = {k: v for k, v in vars(layer.neurons).items() if k != "bias"}
        model = "lif" if isinstance(layer.neurons, Lif) else "sigma-delta"
        layers.append(
            {"name": layer.name, "shape": layer.shape, "synapses": synapses, "model": model, "neurons": neurons}
        )
    description = {**{k: v for k, v in vars(network).items() if k != "layers"}, "layers": layers}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, network=np.array(json.dumps(description)), **arrays)
    write_whole(path, buffer.getvalue())


def load(path: Path, *, checked: bool = True) -> LoihiNetwork:
    """Read what `save` wrote.

    Args:
        path: the file.
        checked: refuse numbers beyond Loihi's formats. Lava takes such weights too, and clips them.

    Raises:
        ConversionError: the file is missing or is not such a network.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = json.loads(str(arrays["network"]))
        layers = []
        for number, layer in enumerate(description.pop("layers")):
            synapses = []
            for place, facts in enumerate(layer["synapses"]):
                weight = arrays[f"{number}.{place}.weight"]
                if "shape" in facts:
                    columns, starts = arrays[f"{number}.{place}.columns"], arrays[f"{number}.{place}.starts"]
                    weight = csr_array((weight, columns, starts), shape=facts.pop("shape"))
                facts.setdefault("delay", arrays.get(f"{number}.{place}.delay"))
                synapses.append(LoihiSynapse(**_tuples(facts), weight=weight))
            kind: Any = {"lif": Lif, "sigma-delta": SigmaDelta}[layer["model"]]
            neurons = kind(**layer["neurons"], bias=arrays[f"{number}.bias"])
            layers.append(LoihiLayer(layer["name"], tuple(synapses), neurons, tuple(layer["shape"])))
        network = LoihiNetwork(**_tuples(description), layers=tuple(layers))
        if checked:
            check(network)
    except UNREADABLE as error:
        raise ConversionError(f"{path} is not a Loihi network of edgekit: {why_unreadable(error)}") from None
    return network


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
