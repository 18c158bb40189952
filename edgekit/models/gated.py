"""Residual blocks behind gates that each example sets for itself (Veit & Belongie 2018, ConvNet-AIG, section 3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.models.dscnn import image_shape
from edgekit.models.norm import Norm, convolution
from edgekit.models.stem import convolutions


class GatedBlock(nn.Module):
    """x + g(x) f(x), g between 0 and 1 by two small layers of the map's mean; below `closed` the block is left out.

    Args:
        channels: of the map.
        norm: normalisation of the convolutions.
        closed: gates below this are 0, and the block's work can be saved.
    """

    def __init__(self, channels: int, norm: Norm, closed: float) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(channels, 8), nn.ReLU(), nn.Linear(8, 1))
        self.layers = nn.Sequential(
            *convolution(norm, channels, channels, 3), nn.ReLU(), *convolution(norm, channels, channels, 3)
        )
        self.closed = closed

    def opened(self, x: Tensor) -> Tensor:
        """Return the gate of each example, (batch, 1)."""
        # relu(s - c) / (1 - c): exactly 0 where the gate is closed, and a gradient everywhere else.
        return F.relu(torch.sigmoid(self.gate(x.mean((2, 3))) + 1) - self.closed) / (1 - self.closed)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        y: Tensor = x + self.opened(x)[..., None, None] * self.layers(x)
        return F.relu(y)


class Gated(nn.Module):
    """A stem that halves the image, then gated residual blocks at two sizes.

    Args:
        shape: (channels, height, width).
        classes: scores to give.
        norm: normalisation of the convolutions.
        width: multiplies the channels.
        channels: of each stage.
        blocks: of each stage.
        closed: gates below this are 0.
    """

    inputs = ("image", "audio")
    own_scale = True

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "group",
        width: float = 1.0,
        channels: Sequence[int] = (16, 32),
        blocks: int = 2,
        closed: float = 0.2,
    ) -> None:
        super().__init__()
        inputs, *image = image_shape(shape, "gated")
        size = (image[0], image[1])
        layers: list[nn.Module] = []
        for wanted in channels:
            outputs = max(8, round(wanted * width))
            more, size = convolutions(norm, inputs, size, [outputs])
            layers += more
            layers += [GatedBlock(outputs, norm, closed) for _ in range(blocks)]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.readout = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes)."""
        scores: Tensor = self.readout(self.layers(x).mean((2, 3)))
        return scores
