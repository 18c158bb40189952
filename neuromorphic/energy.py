"""What an inference costs on Loihi: synaptic operations, spikes, and an estimate of the energy."""

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
import torch.nn.functional as F

from edgekit.neuromorphic.emulator import Activity
from edgekit.neuromorphic.loihi import Integers, LoihiNetwork, LoihiSynapse
from edgekit.neuromorphic.network import INPUT

# Davies et al. 2018 (IEEE Micro 38(1), "Loihi: a neuromorphic manycore processor"), table 2, at 0.75 V.
JOULES_SYNAPTIC_OPERATION = 23.6e-12
JOULES_ACTIVE_NEURON = 81e-12
JOULES_INACTIVE_NEURON = 52e-12


@dataclass(frozen=True)
class Cost:
    """Means over examples, for all steps of one inference.

    Attributes:
        spikes: of neurons (the graded input is not counted).
        synops: synaptic operations: each spike, or non-zero input value, times the synapses it reaches.
        energy_joules: dynamic energy, an estimate from published figures, without static power and input.
    """

    spikes: float
    synops: float
    energy_joules: float


def cost(network: LoihiNetwork, codes: Integers, activity: Activity) -> Cost:
    """Count what a run cost.

    Args:
        network: the integer network.
        codes: its input, (examples, ...) for the same at every step, or (examples, steps, ...).
        activity: of the run.
    """
    examples = len(codes)
    spikes = sum(float(layer.sum()) for layer in activity.spikes) / examples
    constant = codes.ndim == 1 + len(network.input_shape)
    present = np.asarray(codes) != 0
    arriving = present.sum(0) * network.steps if constant else present.sum((0, 1))
    synops = 0.0
    for layer in network.layers:
        for synapse in layer.synapses:
            sent = arriving if synapse.source == INPUT else activity.spikes[synapse.source].sum(0)
            shape = network.shape_of(synapse.source)
            synops += float((torch.from_numpy(sent).reshape(shape) * fan_out(synapse, shape)).sum()) / examples
    updates = sum(prod(layer.shape) for layer in network.layers) * network.steps
    energy = (
        synops * JOULES_SYNAPTIC_OPERATION + spikes * JOULES_ACTIVE_NEURON + (updates - spikes) * JOULES_INACTIVE_NEURON
    )
    return Cost(spikes, synops, energy)


def fan_out(synapse: LoihiSynapse, shape: tuple[int, ...]) -> torch.Tensor:
    """Return how many neurons each source neuron reaches through non-zero weights, of the source's shape."""
    if synapse.kind == "direct":
        return torch.ones(shape, dtype=torch.float64)
    if synapse.kind != "conv":
        counted = np.asarray((synapse.weight != 0).sum(axis=0), np.float64)
        return torch.from_numpy(counted.reshape(shape))
    connected = torch.from_numpy((synapse.weight != 0).astype("float64"))
    with torch.enable_grad():
        source = torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True)
        reached = F.conv2d(source, connected, None, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
        # A convolution is linear: the gradient of the sum of its outputs is each input's number of connections.
        (counts,) = torch.autograd.grad(reached.sum(), source)
    return counts[0]
