"""A spiking network in floats: plain data, and how it runs."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgekit.neuromorphic.coding import Coding, Floats, encode

INPUT = -1
"""Source number of the network's input; layers are numbered from 0."""


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

    def apply(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return the drive of x (batch, ...) on the layer, (batch, ...), in the weight's dtype.

        Args:
            x: what the source sends.
            weight: takes the place of the synapse's own.
        """
        weight = torch.from_numpy(self.weight) if weight is None else weight
        if self.kind == "dense":
            return F.linear(x.flatten(1), weight)
        return F.conv2d(x, weight, None, self.stride, self.padding, 1, self.groups)


@dataclass(frozen=True)
class SpikingLayer:
    """Leaky integrate-and-fire neurons with a current.

    One step: u = (1 - current_decay) u + drive; v = (1 - voltage_decay) v + u + bias; a spike when v >= threshold,
    which subtracts it (soft reset) or sets v to zero (hard). The defaults are integrate-and-fire neurons.

    Attributes:
        name: of the network's layer that it came from.
        synapses: where its drive comes from; drives add up.
        bias: per neuron and step, of `shape`.
        threshold: spikes and soft reset; infinite for the readout, whose voltage is the score.
        shape: (channels, height, width) or (neurons,).
        current_decay: share of the current that is lost in a step, 0 to 1.
        voltage_decay: the same of the voltage.
        reset: what a spike does.
        start: first voltage, as a share of the threshold.
    """

    name: str
    synapses: tuple[Synapse, ...]
    bias: Floats
    threshold: float
    shape: tuple[int, ...]
    current_decay: float = 1.0
    voltage_decay: float = 0.0
    reset: Literal["soft", "hard"] = "soft"
    start: float = 0.5

    @property
    def readout(self) -> bool:
        """Whether these neurons only integrate."""
        return bool(np.isinf(self.threshold))


class CodedInput:
    """What networks in floats and in integers share: how examples become codes, and where shapes are found.

    Attributes: see SpikingNetwork.
    """

    layers: tuple[Any, ...]
    input_shape: tuple[int, ...]
    input_low: float
    input_step: float
    input_bits: int
    coding: Coding

    def codes(self, x: Floats, steps: int, seed: int) -> NDArray[np.int32]:
        """Return integer codes, (examples, ...) of a constant current or (examples, steps, ...)."""
        leading = x.shape[:2] if self.coding == "frames" else x.shape[:1]
        x = x.reshape(*leading, *self.input_shape)
        return encode(x, self.input_low, self.input_step, self.input_bits, self.coding, steps, seed)

    def shape_of(self, source: int) -> tuple[int, ...]:
        """Return the shape of a layer, or of the input."""
        shape: tuple[int, ...] = self.input_shape if source == INPUT else self.layers[source].shape
        return shape


@dataclass(frozen=True)
class SpikingNetwork(CodedInput):
    """Layers in order; the last is the readout.

    Attributes:
        layers: each after its sources.
        input_shape: of what comes in at one step, (channels, height, width) or (features,).
        input_low: the value that code 0 stands for.
        input_step: the value of one more.
        input_bits: bits of a code.
        classes: names of the readout's neurons.
        coding: of the input over time.
    """

    layers: tuple[SpikingLayer, ...]
    input_shape: tuple[int, ...]
    input_low: float
    input_step: float
    input_bits: int
    classes: tuple[str, ...]
    coding: Coding = "current"

    def encode(self, x: Floats, steps: int, seed: int = 0) -> NDArray[np.int32]:
        """Return the input's integer codes, (examples, ...) of a constant current or (examples, steps, ...)."""
        return self.codes(x, steps, seed)

    def decode(self, codes: NDArray[np.int32]) -> Floats:
        """Return the values that codes stand for, as the drive of one step.

        With latency coding, code 0 is a step without a spike: the low value is then a bias of the first neurons.
        """
        return (self.input_low * (self.coding != "latency") + self.input_step * codes).astype(np.float32)


@torch.no_grad()
def run(network: SpikingNetwork, x: Floats, steps: int, seed: int = 0) -> Floats:
    """Simulate in float32, in time steps; spikes travel within a step.

    Args:
        network: the network.
        x: (examples, ...), as the network it came from takes them.
        steps: time steps.
        seed: of random codes.

    Returns:
        The mean readout per step, (examples, classes): an estimate of the class scores.
    """
    scores: Floats = (readouts(network, network.encode(x, steps, seed), steps)[-1] / steps).numpy()
    return scores


@torch.no_grad()
def readouts(network: SpikingNetwork, codes: NDArray[np.int32], steps: int) -> Tensor:
    """Return the readout's voltage after each step, (steps, examples, classes).

    Args:
        network: the network.
        codes: of `SpikingNetwork.encode`.
        steps: time steps.
    """
    constant = codes.ndim == 1 + len(network.input_shape)
    drives: list[Tensor | None] = [None] * len(network.layers)
    states = [_State.at_start(layer, len(codes)) for layer in network.layers]
    found = []
    for t in range(steps):
        if t == 0 or not constant:
            now = torch.from_numpy(network.decode(codes if constant else codes[:, t]))
            for number, layer in enumerate(network.layers):
                parts = [s.apply(now).view(len(now), *layer.shape) for s in layer.synapses if s.source == INPUT]
                drives[number] = sum(parts[1:], parts[0]) if parts else None
        spikes: list[Tensor] = []
        for layer, state, from_input in zip(network.layers, states, drives, strict=True):
            drive = torch.zeros(()) if from_input is None else from_input
            for synapse in layer.synapses:
                if synapse.source != INPUT:
                    drive = drive + synapse.apply(spikes[synapse.source]).view(len(codes), *layer.shape)
            spikes.append(state.step(layer, drive))
        found.append(states[-1].voltage.clone())
    return torch.stack(found)


@dataclass
class _State:
    current: Tensor
    voltage: Tensor

    @classmethod
    def at_start(cls, layer: SpikingLayer, examples: int) -> "_State":
        first = 0.0 if layer.readout else layer.threshold * layer.start
        return cls(torch.zeros(examples, *layer.shape), torch.full((examples, *layer.shape), first))

    def step(self, layer: SpikingLayer, drive: Tensor) -> Tensor:
        self.current = drive if layer.current_decay == 1 else self.current * (1 - layer.current_decay) + drive
        if layer.voltage_decay:
            self.voltage = self.voltage * (1 - layer.voltage_decay)
        self.voltage = self.voltage + self.current + torch.from_numpy(layer.bias)
        if layer.readout:
            return torch.zeros(())
        fired = (self.voltage >= layer.threshold).float()
        if layer.reset == "soft":
            self.voltage = self.voltage - layer.threshold * fired
        else:
            self.voltage = self.voltage * (1 - fired)
        return fired
