"""A spiking network in Loihi's integers: plain data, its file, and the quantisation that makes it.

Loihi's formats (Davies et al. 2018; Lava 0.10's fixed-point models): 8-bit weights, of which mixed-sign ones are even;
thresholds of 17 bits and a 24-bit voltage, in units of 2^6; biases of a 13-bit mantissa and an exponent; 12-bit decays.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.data.federated import Floats
from edgekit.errors import ConversionError
from edgekit.neuromorphic.network import INPUT, SpikingLayer, SpikingNetwork, Synapse, encode
from edgekit.neuromorphic.network import run as run_float
from edgekit.runfolder import write_whole

Integers = NDArray[np.int32]

LARGEST_WEIGHT = 254
LARGEST_THRESHOLD = 1 << 15
"""Half way to the voltage's clip (2^23 = 2^17 << 6) twice over: charge beyond a threshold must not be lost."""
READOUT_THRESHOLD = (1 << 17) - 1
"""The largest: with it a readout whose voltage stays below the clip never fires."""
VOLTAGE_LIMIT = 1 << 23
NO_MEMORY = 4095
"""Current decay of a neuron whose current lasts one step."""
LARGEST_BIAS = 4095
LARGEST_BIAS_EXPONENT = 7


@dataclass(frozen=True)
class LoihiSynapse:
    """Integer connections from one source.

    Attributes:
        source: a layer's number, or -1 for the input.
        kind: `conv` or `dense`.
        weight: (out, in / groups, height, width) or (out, in), int32.
        stride, padding, groups, dilation: of a convolution.
        message_bits: bits of a graded input; 0 for spikes.
        weight_exponent, weight_bits, sign: Lava's for `dense`; its `conv` uses weights as they are.
    """

    source: int
    kind: Literal["conv", "dense"]
    weight: Integers
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    message_bits: int = 0
    dilation: tuple[int, int] = (1, 1)
    weight_exponent: int = 0
    weight_bits: int = 8
    sign: Literal["mixed", "excitatory", "inhibitory"] = "mixed"


@dataclass(frozen=True)
class LoihiLayer:
    """Integer neurons: see `emulator.scan`.

    Attributes:
        name: of the layer.
        synapses: drives add up.
        threshold: mantissa; the voltage is compared with threshold << 6.
        current_decay, voltage_decay: 12 bits; 4095 lets the current last one step, 0 keeps the voltage.
        bias: mantissa per neuron, of `shape`, int32.
        bias_exponent: the bias is mantissa << exponent.
        reset: `soft` subtracts the threshold, `hard` sets zero.
        shape: (channels, height, width) or (neurons,).
    """

    name: str
    synapses: tuple[LoihiSynapse, ...]
    threshold: int
    bias: Integers
    bias_exponent: int
    shape: tuple[int, ...]
    current_decay: int = NO_MEMORY
    voltage_decay: int = 0
    reset: Literal["soft", "hard"] = "soft"


@dataclass(frozen=True)
class LoihiNetwork:
    """Layers in order; the last is the readout, whose final voltages are the scores.

    Attributes:
        layers: each after its sources.
        steps: time steps an example takes; the biases are made for it.
        input_shape, input_low, input_step, input_bits, classes: as in SpikingNetwork.
    """

    layers: tuple[LoihiLayer, ...]
    steps: int
    input_shape: tuple[int, ...]
    input_low: float
    input_step: float
    input_bits: int
    classes: tuple[str, ...]

    def encode(self, x: Floats) -> Integers:
        """Return the input's integer codes."""
        return encode(x, self.input_low, self.input_step, self.input_bits)


def quantise(network: SpikingNetwork, steps: int, calibration: Floats) -> LoihiNetwork:
    """Round a spiking network to Loihi's integers for a number of time steps.

    In each layer everything is divided by the threshold and multiplied by one scale S, so that the largest weight is
    254 and the threshold's mantissa S. Neurons start at zero on Loihi; the half threshold at which they start in
    floats is spread over the steps, as a bias.

    Args:
        network: the float network.
        steps: time steps.
        calibration: examples that show how far the readout's voltage goes, (examples, ...).

    Raises:
        ConversionError: biases are too large beside the threshold for Loihi's format.
    """
    extent = float(np.abs(run_float(network, calibration, steps)).max()) * steps
    layers = [_layer(network, layer, steps, extent) for layer in network.layers]
    return LoihiNetwork(
        tuple(layers),
        steps,
        network.input_shape,
        network.input_low,
        network.input_step,
        network.input_bits,
        network.classes,
    )


def _layer(network: SpikingNetwork, layer: SpikingLayer, steps: int, extent: float) -> LoihiLayer:
    readout = np.isinf(layer.threshold)
    unit = 1.0 if readout else layer.threshold
    low = np.full((1, *network.input_shape), network.input_low, np.float32)
    bias = layer.bias.astype(np.float64) / unit
    weights = []
    for synapse in layer.synapses:
        weight = synapse.weight.astype(np.float64) / unit
        if synapse.source == INPUT:  # codes stand for low + step * code
            weight = weight * network.input_step
            bias = bias + _drive(synapse, low).reshape(layer.shape) / unit
        weights.append(weight)
    largest = max((float(np.abs(weight).max()) for weight in weights), default=0.0) or 1.0
    # The largest bias must fit its format too; with inputs far from zero it is what limits the scale.
    largest_bias = float(np.abs(bias).max()) + 0.5 / steps
    scale = min(LARGEST_WEIGHT / largest, LARGEST_BIAS * 2**LARGEST_BIAS_EXPONENT / 64 / max(largest_bias, 1e-9))
    if readout:
        # Half of the voltage's range for what calibration saw; the other half for what it did not.
        scale = min(scale, 0.5 * VOLTAGE_LIMIT / 64 / max(extent, 1e-9))
    else:
        bias = bias + 0.5 / steps
        scale = float(min(int(scale), LARGEST_THRESHOLD))
        if scale < 1:
            raise ConversionError(
                f"layer {layer.name!r}: its biases are {largest_bias:.0f} times its threshold, more than Loihi's "
                "format holds; train with a smaller learning rate, or with a norm"
            )
    mantissa, exponent = _bias(bias * scale * 64)
    synapses = tuple(
        LoihiSynapse(
            synapse.source,
            synapse.kind,
            np.clip(2 * np.rint(weight * scale / 2), -256, LARGEST_WEIGHT).astype(np.int32),
            synapse.stride,
            synapse.padding,
            synapse.groups,
            network.input_bits if synapse.source == INPUT else 0,
        )
        for synapse, weight in zip(layer.synapses, weights, strict=True)
    )
    threshold = READOUT_THRESHOLD if readout else int(scale)
    return LoihiLayer(layer.name, synapses, threshold, mantissa, exponent, layer.shape)


def _drive(synapse: Synapse, x: Floats) -> NDArray[np.float64]:
    import torch

    drive: NDArray[np.float64] = synapse.apply(torch.from_numpy(x))[0].numpy().astype(np.float64)
    return drive


def _bias(bias: NDArray[np.float64]) -> tuple[Integers, int]:
    """Return the mantissas and their exponent: the smallest that holds them loses least."""
    largest = float(np.abs(bias).max(initial=0))
    exponent = next(e for e in range(LARGEST_BIAS_EXPONENT + 1) if largest / 2**e <= LARGEST_BIAS)
    return np.rint(bias / 2**exponent).astype(np.int32), exponent


def save(network: LoihiNetwork, path: Path) -> None:
    """Write an .npz without pickled objects: `network` is JSON; then `LAYER.bias` and `LAYER.SYNAPSE.weight`."""
    arrays: dict[str, Any] = {}
    layers = []
    for number, layer in enumerate(network.layers):
        arrays[f"{number}.bias"] = layer.bias
        for place, synapse in enumerate(layer.synapses):
            arrays[f"{number}.{place}.weight"] = synapse.weight
        layers.append(
            {
                **{k: v for k, v in vars(layer).items() if k not in ("synapses", "bias")},
                "synapses": [{k: v for k, v in vars(synapse).items() if k != "weight"} for synapse in layer.synapses],
            }
        )
    description = {**{k: v for k, v in vars(network).items() if k != "layers"}, "layers": layers}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, network=np.array(json.dumps(description)), **arrays)
    write_whole(path, buffer.getvalue())


def load(path: Path) -> LoihiNetwork:
    """Read what `save` wrote.

    Raises:
        ConversionError: the file is missing or is not such a network.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        description = json.loads(str(arrays["network"]))
        layers = []
        for number, layer in enumerate(description.pop("layers")):
            synapses = tuple(
                LoihiSynapse(**_tuples(synapse), weight=arrays[f"{number}.{place}.weight"])
                for place, synapse in enumerate(layer.pop("synapses"))
            )
            layers.append(LoihiLayer(**_tuples(layer), synapses=synapses, bias=arrays[f"{number}.bias"]))
        return LoihiNetwork(**_tuples(description), layers=tuple(layers))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConversionError(f"{path} is not a Loihi network of edgekit: {error}") from None


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
