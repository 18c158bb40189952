"""Convolutions and max pooling, as papers on federated learning take them (LeCun et al. 1998; Diao et al. 2021)."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.dscnn import image_shape
from edgekit.models.norm import Norm, convolution


class CNN(nn.Module):
    """Convolutions of 3 x 3, each with its norm, ReLU and, but the last, max pooling that halves the map; then a linear
    readout of the average-pooled map.

    With `channels = [64, 128, 256, 512]` it is HeteroFL's network.

    Args:
        shape: (channels, height, width).
        classes: scores to give.
        norm: normalisation of each convolution.
        width: multiplies the channels.
        channels: of each convolution.
    """

    inputs = ("image", "audio")
    learns: ClassVar = {"learning_rate": 0.1}

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        channels: Sequence[int] = (16, 32, 64),
    ) -> None:
        super().__init__()
        inputs, *sides = image_shape(shape, "cnn")
        if not channels or min(channels) < 1:
            raise ModelError(f"cnn: channels are {list(channels)}; give the number of each convolution's, from 1")
        layers: list[nn.Module] = []
        for place, size in enumerate(channels):
            outputs = max(1, round(size * width))
            layers += [*convolution(norm, inputs, outputs, 3), nn.ReLU()]
            if place < len(channels) - 1 and min(sides) > 1:
                layers.append(nn.MaxPool2d(2))
                sides = [side // 2 for side in sides]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes)."""
        scores: Tensor = self.layers(x)
        return scores
