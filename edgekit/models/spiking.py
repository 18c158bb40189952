"""Spiking networks that are trained as such, with surrogate gradients (Neftci et al. 2019)."""

import math
from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.norm import Norm, convolution

SHARPNESS = 2.0
"""Alpha of the arctangent surrogate."""


def spike(excess: Tensor) -> Tensor:
    """Return 1 where a voltage reaches its threshold, else 0; gradients are those of an arctangent (Fang et al. 2021).

    Written with `detach`, without an autograd function of its own, so that it can be vectorised over clients.

    Args:
        excess: voltage minus threshold, of any shape.
    """
    fired = (excess >= 0).to(excess.dtype)
    smooth = torch.atan(math.pi / 2 * SHARPNESS * excess) / math.pi + 0.5
    return fired.detach() + (smooth - smooth.detach())


class SpikingNet(nn.Module):
    """Layers of leaky integrate-and-fire neurons with threshold 1 and a linear readout, over a few time steps.

    One step: u = (1 - current_decay) u + w s; v = (1 - voltage_decay) v + u + b; a spike when v >= 1, which takes 1
    off. This is the order of Loihi's arithmetic, so a trained network becomes one of the chip by rounding alone.

    Args:
        layers: convolutions and linear layers; all but the last drive neurons.
        frame_shape: shape of what comes in at one step.
        steps: time steps.
        sequence: whether examples hold a frame a step, (steps, ...); otherwise each is a constant current.
        voltage_decay: share of the voltage lost in a step.
        current_decay: share of the current lost in a step; 1 lets it last one step. Below 1 there are no biases, since
            theirs would pile up.
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        frame_shape: tuple[int, ...],
        steps: int,
        sequence: bool,
        voltage_decay: float,
        current_decay: float,
    ) -> None:
        super().__init__()
        if not 0 <= voltage_decay < 1 or not 0 < current_decay <= 1:
            raise ModelError("voltage_decay must be in [0, 1), current_decay in (0, 1]")
        self.layers = nn.ModuleList(layers)
        self.frame_shape, self.steps, self.sequence = frame_shape, steps, sequence
        self.voltage_decay, self.current_decay = voltage_decay, current_decay

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ...) or (batch, steps, ...) to the mean readout over the steps, (batch, classes)."""
        batch = len(x)
        steps = self.steps if self.sequence else 1
        rows = x.flatten(0, 1) if self.sequence else x  # all steps of a layer at once: it is then one product
        for layer in list(self.layers)[:-1]:
            drive = self._driven(layer, rows).unflatten(0, (batch, steps))
            rows = self._fire(drive).flatten(0, 1)
            steps = self.steps
        # The readout is linear, so it may see the mean of the spikes.
        mean = rows.unflatten(0, (batch, steps)).mean(1)
        scores: Tensor = self.layers[-1](mean.flatten(1))
        return scores

    @staticmethod
    def _driven(layer: nn.Module, rows: Tensor) -> Tensor:
        driven: Tensor = layer(rows.flatten(1) if isinstance(layer, nn.Linear) else rows)
        return driven

    def _fire(self, drive: Tensor) -> Tensor:
        """Map drives (batch, steps or 1, ...) to spikes (batch, steps, ...)."""
        current = voltage = torch.zeros_like(drive[:, 0])
        fired = []
        for t in range(self.steps):
            arriving = drive[:, t if drive.shape[1] > 1 else 0]
            current = arriving if self.current_decay == 1 else current * (1 - self.current_decay) + arriving
            voltage = voltage * (1 - self.voltage_decay) + current
            spikes = spike(voltage - 1)
            voltage = voltage - spikes
            fired.append(spikes)
        return torch.stack(fired, 1)


class SpikingMLP(SpikingNet):
    """Fully connected spiking layers.

    Args:
        shape: one example's shape; (steps, channels, height, width) are frames, others are a constant current.
        classes: scores to give.
        norm: `none`.
        width: multiplies the hidden sizes.
        hidden: sizes of the hidden layers.
        steps: time steps for examples that are no sequence.
        voltage_decay, current_decay: see SpikingNet.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        hidden: Sequence[int] = (128,),
        steps: int = 8,
        voltage_decay: float = 0.1,
        current_decay: float = 1.0,
    ) -> None:
        _no_norm("spiking-mlp", norm)
        frame, steps, sequence = _frames(shape, steps)
        sizes = [prod(frame), *(max(1, round(size * width)) for size in hidden)]
        bias = current_decay == 1
        layers = [nn.Linear(inputs, outputs, bias) for inputs, outputs in pairwise(sizes)]
        layers.append(nn.Linear(sizes[-1], classes))
        super().__init__(layers, frame, steps, sequence, voltage_decay, current_decay)


class SpikingCNN(SpikingNet):
    """Spiking convolutions of 3 x 3, each halving the map while it is larger than 4 pixels.

    Args:
        shape: one example's shape; (steps, channels, height, width) are frames, (channels, height, width) an image
            shown as a constant current.
        classes: scores to give.
        norm: `none` or `weight-standardised`.
        width: multiplies the channels.
        channels: of the convolutions.
        steps: time steps for examples that are no sequence.
        voltage_decay, current_decay: see SpikingNet.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        channels: Sequence[int] = (16, 32),
        steps: int = 8,
        voltage_decay: float = 0.1,
        current_decay: float = 1.0,
    ) -> None:
        if norm == "group":
            _no_norm("spiking-cnn", norm)
        frame, steps, sequence = _frames(shape, steps)
        if len(frame) != 3:
            raise ModelError(f"spiking-cnn needs images; these examples have {tuple(shape)}: use spiking-mlp")
        inputs, *map_size = frame
        layers: list[nn.Module] = []
        for size in channels:
            outputs = max(1, round(size * width))
            stride = 2 if min(map_size) > 4 else 1
            (layer,) = convolution(norm, inputs, outputs, 3, stride=stride)
            if current_decay < 1:
                layer.register_parameter("bias", None)
            layers.append(layer)
            map_size = [-(-side // stride) for side in map_size]
            inputs = outputs
        layers.append(nn.Linear(inputs * prod(map_size), classes))
        super().__init__(layers, frame, steps, sequence, voltage_decay, current_decay)


def _frames(shape: Sequence[int], steps: int) -> tuple[tuple[int, ...], int, bool]:
    """Return (one frame's shape, steps, whether examples are sequences of frames)."""
    return (tuple(shape[1:]), shape[0], True) if len(shape) == 4 else (tuple(shape), steps, False)


def _no_norm(name: str, norm: Norm) -> None:
    if norm != "none":
        raise ModelError(
            f"{name} has no norm {norm!r}: a norm of spikes is no neuron of a chip; set model.norm = 'none'"
        )
