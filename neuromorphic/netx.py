"""Integer networks as lava-dl's netx files (HDF5), which Lava's `netx.hdf5.Network` loads.

netx knows chains of convolutions and dense layers, with a hard reset, and biases in units of 2^6.
"""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import ConversionError, MissingExtraError
from edgekit.neuromorphic.loihi import Lif, LoihiLayer, LoihiNetwork, values_of
from edgekit.runfolder import write_whole

BIAS_EXPONENT = 6
LARGEST_BIAS = 1 << 15
"""Lava holds a bias's mantissa in 16 bits."""


def write_netx(network: LoihiNetwork, path: Path) -> LoihiNetwork:
    """Write a network.

    Args:
        network: a chain with hard resets.
        path: the file.

    Returns:
        The network as it is in the file: biases are rounded to units of 2^6.

    Raises:
        ConversionError: netx cannot carry it; what and the remedy are named.
        MissingExtraError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("h5py", "spiking") from None
    rounded = replace(network, layers=tuple(_checked(number, layer) for number, layer in enumerate(network.layers)))
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        place = 0
        group = file.create_group(f"layer/{place}")
        _describe(group, "input", network.input_shape)
        shape = network.input_shape
        for layer in rounded.layers:
            (synapse,) = layer.synapses
            place += 1
            if synapse.kind == "dense" and len(shape) == 3:
                _describe(file.create_group(f"layer/{place}"), "flatten", (int(np.prod(shape)),))
                place += 1
            group = file.create_group(f"layer/{place}")
            _describe(group, synapse.kind, layer.shape)
            group["weight"] = values_of(synapse.weight)
            _write_layer(group, layer, shape)
            shape = layer.shape
    write_whole(path, content.getvalue())
    return rounded


def _checked(number: int, layer: LoihiLayer) -> LoihiLayer:
    """Return the layer with rounded biases, or say what netx lacks."""

    def refuse(what: str, remedy: str) -> ConversionError:
        return ConversionError(f"layer {layer.name!r}: netx has no {what}: {remedy}")

    neurons = layer.neurons
    if not isinstance(neurons, Lif):
        raise refuse("sigma-delta units here", "use spikes")
    if len(layer.synapses) != 1 or layer.synapses[0].source != number - 1:
        raise refuse("residuals", "use a network that is a chain, such as dscnn or mlp")
    (synapse,) = layer.synapses
    if synapse.kind not in ("conv", "dense") or np.any(np.asarray(synapse.delay) > 0):
        raise refuse(f"{synapse.kind} synapses with delays here", "use a network without them")
    never_fires = neurons.threshold == (1 << 17) - 1
    if neurons.reset == "soft" and not never_fires:
        raise refuse("soft reset", "make the network with `edgekit spike run RUN reset=hard`")
    if neurons.refractory:
        raise refuse("refractory period in its integers", "use neurons without one")
    weight = values_of(synapse.weight)
    if synapse.kind == "dense" and weight.max(initial=0) <= 0:
        raise refuse("dense layer without a positive weight, which it reads wrongly", "leave the layer out")
    units = np.rint(neurons.bias * 2.0 ** (neurons.bias_exponent - BIAS_EXPONENT)).astype(np.int32)
    if np.abs(units).max(initial=0) >= LARGEST_BIAS:
        raise refuse("room for its biases", "train with a smaller learning rate")
    return replace(layer, neurons=replace(neurons, bias=units, bias_exponent=BIAS_EXPONENT))


def _describe(group: Any, kind: str, shape: tuple[int, ...]) -> None:
    group.create_dataset("type", (1,), "S10", [kind.encode()])
    group["shape"] = np.array(shape)


def _write_layer(group: Any, layer: LoihiLayer, source: tuple[int, ...]) -> None:
    (synapse,), neurons = layer.synapses, layer.neurons
    assert isinstance(neurons, Lif)
    weight = values_of(synapse.weight)
    if synapse.kind == "conv":
        group["inChannels"], group["outChannels"] = source[0], len(weight)
        group["kernelSize"] = np.array(weight.shape[2:])
        group["stride"], group["padding"] = np.array(synapse.stride), np.array(synapse.padding)
        group["dilation"], group["groups"] = np.array(synapse.dilation), synapse.groups
        # One bias a neuron, stored in Lava's order (width, height, channels).
        group["bias"] = neurons.bias.transpose(2, 1, 0)
    else:
        group["inFeatures"], group["outFeatures"] = weight.shape[1], weight.shape[0]
        group["bias"] = neurons.bias
    settings = {
        "type": "CUBA",
        "iDecay": neurons.current_decay + 1,
        "vDecay": neurons.voltage_decay,
        "vThMant": neurons.threshold,
        "refDelay": 1,
        "gradedSpike": False,
    }
    for name, value in settings.items():
        group.create_dataset(f"neuron/{name}", data=value)
