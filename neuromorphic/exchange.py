"""The spiking network as a .nir file (Pedersen et al. 2024), which other simulators read.

NIR's integrate-and-fire neuron has no soft reset and no initial voltage; both are in the graph's metadata, under
`edgekit`. Synapses that share a target are separate nodes whose outputs NIR adds. Grouped convolutions are written as
plain ones with zeros between the groups: nir 1.0 mistakes a grouped one's input, and other readers refuse it.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit.errors import ConversionError, MissingExtraError
from edgekit.neuromorphic.expression import ungrouped
from edgekit.neuromorphic.network import INPUT, SpikingLayer, SpikingNetwork, Synapse
from edgekit.runfolder import write_whole


def write_nir(network: SpikingNetwork, path: Path) -> None:
    """Write the float network.

    Raises:
        MissingExtraError: the nir package is not installed.
        RunFolderError: the file cannot be written; nothing is left behind.
    """
    try:
        import nir
    except ImportError:
        raise MissingExtraError("nir", "spiking") from None
    nodes: dict[str, Any] = {"input": nir.Input(input_type={"input": np.array(network.input_shape)})}
    edges = []
    for number, layer in enumerate(network.layers):
        bias: np.ndarray[Any, Any] | None = layer.bias
        for place, synapse in enumerate(layer.synapses):
            name = f"synapse_{number}_{place}"
            source = "input" if synapse.source == INPUT else f"neurons_{synapse.source}"
            shape = network.input_shape if synapse.source == INPUT else network.layers[synapse.source].shape
            nodes[name], flatten = _synapse(synapse, shape, layer, bias)
            bias = None  # once a layer
            if flatten:
                nodes[f"flatten_{number}_{place}"] = nir.Flatten({"input": np.array(shape)}, start_dim=0, end_dim=-1)
                edges += [(source, f"flatten_{number}_{place}"), (f"flatten_{number}_{place}", name)]
            else:
                edges.append((source, name))
            edges.append((name, "output" if np.isinf(layer.threshold) else f"neurons_{number}"))
        if np.isinf(layer.threshold):
            nodes["output"] = nir.Output(output_type={"output": np.array(layer.shape)})
        else:
            threshold = np.full(layer.shape, layer.threshold, np.float32)
            nodes[f"neurons_{number}"] = nir.IF(r=np.ones(layer.shape, np.float32), v_threshold=threshold)
    facts = {
        "reset": "soft",
        "initial_voltage": "threshold / 2",
        "readout": "sum of the output over the steps",
        "input": {"low": network.input_low, "step": network.input_step, "bits": network.input_bits},
        "classes": network.classes,
    }
    graph = nir.NIRGraph(nodes, edges, metadata={"edgekit": json.dumps(facts)})
    content = io.BytesIO()
    nir.write(content, graph)
    write_whole(path, content.getvalue())


def _synapse(
    synapse: Synapse, shape: tuple[int, ...], layer: SpikingLayer, bias: np.ndarray[Any, Any] | None
) -> tuple[Any, bool]:
    """Return the node, and whether its source must be flattened first."""
    import nir

    if synapse.kind == "dense":
        values = np.zeros(len(synapse.weight), np.float32) if bias is None else bias.reshape(-1)
        return nir.Affine(weight=synapse.weight, bias=values), len(shape) > 1
    channels = len(synapse.weight)
    if bias is None:
        per_channel = np.zeros(channels, np.float32)
    else:
        per_channel = bias.reshape(channels, -1)[:, 0]
        if not np.allclose(bias.reshape(channels, -1), per_channel[:, None], atol=1e-6):
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
