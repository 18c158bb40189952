"""Spiking networks written as .nir files (Pedersen et al. 2024), which other simulators read.

For readers of this kind grouped convolutions are written as plain ones with zeros between the groups, since nir 1.0
mistakes a grouped one's input.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit.errors import ConversionError
from edgekit.neuromorphic.coding import Floats
from edgekit.neuromorphic.expression import ungrouped
from edgekit.neuromorphic.network import INPUT, SpikingLayer, SpikingNetwork, Synapse
from edgekit.neuromorphic.nir import STEP_SECONDS, package
from edgekit.runfolder import write_whole


def write_nir(network: SpikingNetwork, path: Path) -> None:
    """Write the float network.

    Raises:
        ConversionError: a layer has no form in NIR.
        MissingExtraError: the nir package is not installed.
        RunFolderError: the file cannot be written; nothing is left behind.
    """
    nir = package()
    nodes: dict[str, Any] = {"input": nir.Input(input_type={"input": np.array(network.input_shape)})}
    edges = []
    for number, layer in enumerate(network.layers):
        bias = layer.bias
        if layer.readout:
            target = "output"
            nodes[target] = nir.Output(output_type={"output": np.array(layer.shape)})
            if len(layer.synapses) > 1:  # readers want one edge into the output
                size = layer.shape[0]
                target = "sum"
                nodes[target] = nir.Affine(weight=np.eye(size, dtype=np.float32), bias=np.zeros(size, np.float32))
                edges.append(("sum", "output"))
        else:
            target = f"neurons_{number}"
            nodes[target], bias = _neurons(layer)
        for place, synapse in enumerate(layer.synapses):
            name = f"synapse_{number}_{place}"
            source = "input" if synapse.source == INPUT else f"neurons_{synapse.source}"
            shape = network.shape_of(synapse.source)
            nodes[name], flatten = _synapse(synapse, shape, layer, bias if place == 0 else np.zeros_like(bias))
            if flatten:
                flat = f"flatten_{number}_{place}"
                # Counted from the end, so that a batch may come before.
                nodes[flat] = nir.Flatten({"input": np.array(shape)}, start_dim=-len(shape), end_dim=-1)
                edges.append((source, flat))
                source = flat
            edges += [(source, name), (name, target)]
    facts = {
        "reset": {layer.name: layer.reset for layer in network.layers if not layer.readout},
        "start": {layer.name: layer.start for layer in network.layers if not layer.readout},
        "names": [layer.name for layer in network.layers],
        "readout": "sum of the output over the steps",
        "step_seconds": STEP_SECONDS,
        "input": {
            "low": network.input_low,
            "step": network.input_step,
            "bits": network.input_bits,
            "coding": network.coding,
        },
        "classes": network.classes,
    }
    graph = nir.NIRGraph(nodes, edges, metadata={"edgekit": json.dumps(facts)})
    content = io.BytesIO()
    nir.write(content, graph)
    write_whole(path, content.getvalue())


def _neurons(layer: SpikingLayer) -> tuple[Any, Floats]:
    """Return NIR's neurons, and the bias that is left for a synapse to bring."""
    nir = package()
    ones = np.ones(layer.shape, np.float32)
    threshold, nothing = ones * layer.threshold, 0 * ones
    if layer.current_decay == 1 and not layer.voltage_decay:
        return nir.IF(r=ones, v_threshold=threshold, v_reset=nothing), layer.bias
    if layer.current_decay == 1:
        tau = STEP_SECONDS / layer.voltage_decay
        shared = {"tau": tau * ones, "r": ones / layer.voltage_decay, "v_leak": nothing}
        return nir.LIF(**shared, v_threshold=threshold, v_reset=nothing), layer.bias
    if not layer.voltage_decay:
        raise ConversionError(
            f"layer {layer.name!r}: NIR has no neurons whose current decays and whose voltage does not; "
            "set spiking.voltage_decay above 0"
        )
    # The bias is one of the voltage: what it leaks towards.
    neurons = nir.CubaLIF(
        tau_syn=STEP_SECONDS / layer.current_decay * ones,
        tau_mem=STEP_SECONDS / layer.voltage_decay * ones,
        r=ones / layer.voltage_decay,
        v_leak=(layer.bias / layer.voltage_decay).astype(np.float32),
        v_threshold=threshold,
        v_reset=nothing,
        w_in=ones / layer.current_decay,
    )
    return neurons, np.zeros_like(layer.bias)


def _synapse(synapse: Synapse, shape: tuple[int, ...], layer: SpikingLayer, bias: Floats) -> tuple[Any, bool]:
    """Return the node, and whether its source must be flattened first."""
    nir = package()
    if synapse.kind == "dense":
        return nir.Affine(weight=synapse.weight, bias=bias.reshape(-1)), len(shape) > 1
    per_channel = bias.reshape(len(synapse.weight), -1)[:, 0]
    if not np.allclose(bias.reshape(len(per_channel), -1), per_channel[:, None], atol=1e-6):
        raise ConversionError(
            f"layer {layer.name!r} has a bias that differs within a channel, which NIR's convolution cannot carry"
        )
    node = nir.Conv2d(
        input_shape=shape[1:],
        weight=ungrouped(torch.from_numpy(synapse.weight), synapse.groups).numpy(),
        stride=synapse.stride,
        padding=synapse.padding,
        dilation=1,
        groups=1,
        bias=per_channel,
    )
    return node, False
