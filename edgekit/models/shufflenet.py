"""ShuffleNet V2: channels are split, half of them convolved, and shuffled (Ma et al. 2018, figure 3 and table 5)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekit.models.dscnn import image_shape
from edgekit.models.inverted import divisible
from edgekit.models.norm import Norm, convolution

STAGES = ((116, 4), (232, 8), (464, 4))
"""Channels and units of each stage, at width 1."""


def shuffled(x: Tensor) -> Tensor:
    """Take channels of (batch, channels, height, width) from both halves in turn."""
    halves: Tensor = x.unflatten(1, (2, -1))
    return halves.transpose(1, 2).flatten(1, 2)


class Unit(nn.Module):
    """A unit of stride 1, where one half of the channels passes, or of stride 2, where both are convolved.

    Args:
        inputs: channels in.
        outputs: channels out, even.
        stride: of the unit.
        norm: normalisation of each convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        half = outputs // 2
        own = inputs if stride > 1 or inputs != outputs else half
        self.passes = own == half and inputs == outputs
        self.beside: nn.Module = nn.Identity()
        if not self.passes:
            self.beside = nn.Sequential(
                *convolution(norm, inputs, inputs, 3, stride=stride, groups=inputs),
                *convolution(norm, inputs, half, 1),
                nn.ReLU(),
            )
        self.layers = nn.Sequential(
            *convolution(norm, own, half, 1),
            nn.ReLU(),
            *convolution(norm, half, half, 3, stride=stride, groups=half),
            *convolution(norm, half, half, 1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height out, width out)."""
        passing, convolved = x.chunk(2, 1) if self.passes else (x, x)
        return shuffled(torch.cat([self.beside(passing), self.layers(convolved)], 1))


class ShuffleNet(nn.Module):
    """ShuffleNet V2 with a width multiplier, for images of any size.

    Args:
        shape: (channels, height, width).
        classes: scores to give.
        norm: normalisation of each convolution.
        width: multiplies the channels.
        depth: multiplies the units of each stage.
        stages: (channels, units) of each; the first unit of a stage halves maps of more than 4 pixels.
        stem: channels of the first convolution.
        head: channels of the last one.
    """

    inputs = ("image",)

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "group",
        width: float = 1.0,
        depth: float = 1.0,
        stages: Sequence[Sequence[int]] = STAGES,
        stem: int = 24,
        head: int = 1024,
    ) -> None:
        super().__init__()
        inputs, *sizes = image_shape(shape, "shufflenet")
        side, stem = min(sizes), divisible(stem * width)
        layers: list[nn.Module] = []
        stride = 2 if side > 15 else 1
        layers += [*convolution(norm, inputs, stem, 3, stride=stride), nn.ReLU()]
        side, inputs = -(-side // stride), stem
        if side > 55:  # as the paper's, for images of 224 pixels
            layers.append(nn.MaxPool2d(2))
            side //= 2
        for channels, units in stages:
            outputs = divisible(channels * width, 2)
            for number in range(max(1, round(units * depth))):
                stride = 2 if number == 0 and side > 4 else 1
                layers.append(Unit(inputs, outputs, stride, norm))
                side, inputs = -(-side // stride), outputs
        head = divisible(head * width)
        self.layers = nn.Sequential(
            *layers, *convolution(norm, inputs, head, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(head, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes)."""
        scores: Tensor = self.layers(x)
        return scores
