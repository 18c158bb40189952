"""A spiking network in floats: plain data, and how it runs."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]

INPUT = -1
"""Source number of the network's input; layers are numbered from 0."""


def encode(x: Floats, low: float, step: float, bits: int) -> NDArray[np.int32]:
    """Return the integer codes of inputs, 0 to 2^bits - 1; code k stands for low + k step."""
    codes: NDArray[np.int32] = np.clip(np.rint((x - low) / step), 0, 2**bits - 1).astype(np.int32)
    return codes


@dataclass(frozen=True)
class Synapse:
    """Connections from one source to a layer: `conv` (a convolution) or `dense` (a matrix over the flat source).

    Attributes:
        source: a layer's number, or INPUT.
        kind: how the weight is applied.
        weight: (out, in / groups, height, width) or (out, in); a source's spike counts 1.
        stride, padding, groups: of a convolution.
    """

    source: int
    kind: Literal["conv", "dense"]
    weight: Floats
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1

    def apply(self, x: Tensor) -> Tensor:
        """Return the drive of x (batch, ...) on the layer, (batch, ...), in the weight's dtype."""
        weight = torch.from_numpy(self.weight)
        if self.kind == "dense":
            return F.linear(x.flatten(1), weight)
        return F.conv2d(x, weight, None, self.stride, self.padding, 1, self.groups)


@dataclass(frozen=True)
class SpikingLayer:
    """Integrate-and-fire neurons: v += drive + bias; a spike when v >= threshold, which then subtracts it (soft reset).

    Attributes:
        name: of the network's layer that it came from.
        synapses: where its drive comes from; drives add up.
        bias: per neuron and step, of `shape`.
        threshold: spikes and soft reset; infinite for the readout, whose voltage is the score.
        shape: (channels, height, width) or (neurons,).
    """

    name: str
    synapses: tuple[Synapse, ...]
    bias: Floats
    threshold: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SpikingNetwork:
    """Layers in order; the last is the readout. The input is a constant current, coded in a few bits.

    Attributes:
        layers: each after its sources.
        input_shape: (channels, height, width) or (features,).
        input_low: the value that code 0 stands for.
        input_step: the value of one more.
        input_bits: bits of a code.
        classes: names of the readout's neurons.
    """

    layers: tuple[SpikingLayer, ...]
    input_shape: tuple[int, ...]
    input_low: float
    input_step: float
    input_bits: int
    classes: tuple[str, ...]

    def encode(self, x: Floats) -> NDArray[np.int32]:
        """Return the input's integer codes, (examples, ...), 0 to 2^bits - 1."""
        return encode(x, self.input_low, self.input_step, self.input_bits)

    def decode(self, codes: NDArray[np.int32]) -> Floats:
        """Return the values that codes stand for."""
        return (self.input_low + self.input_step * codes).astype(np.float32)


@torch.no_grad()
def run(network: SpikingNetwork, x: Floats, steps: int) -> Floats:
    """Simulate in float32, in time steps: every neuron starts at half its threshold, spikes travel within a step.

    Starting half way up makes the spike count round instead of floor (Bu et al. 2022, section 4).

    Args:
        network: the network.
        x: (examples, ...), as the network it came from takes them.
        steps: time steps.

    Returns:
        The mean readout per step, (examples, classes): an estimate of the class scores.
    """
    current = torch.from_numpy(network.decode(network.encode(x)))
    voltages = [
        torch.full((len(x), *layer.shape), 0.0 if np.isinf(layer.threshold) else layer.threshold / 2)
        for layer in network.layers
    ]
    constant = [
        torch.from_numpy(layer.bias)
        + sum((s.apply(current) for s in layer.synapses if s.source == INPUT), torch.zeros(()))
        for layer in network.layers
    ]
    for _ in range(steps):
        spikes: list[Tensor] = []
        for number, layer in enumerate(network.layers):
            voltage = voltages[number]
            voltage += constant[number]
            for synapse in layer.synapses:
                if synapse.source != INPUT:
                    voltage += synapse.apply(spikes[synapse.source]).view_as(voltage)
            if np.isinf(layer.threshold):
                continue
            fired = (voltage >= layer.threshold).float()
            voltage -= layer.threshold * fired
            spikes.append(fired)
    scores: Floats = (voltages[-1] / steps).numpy()
    return scores
