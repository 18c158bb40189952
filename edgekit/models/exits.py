"""Early exits: an answer after each stage, so that a device stops where it is sure (Teerapittayanon et al. 2016,
BranchyNet, section III)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgekit.models.dscnn import image_shape
from edgekit.models.norm import Norm, convolution
from edgekit.models.stem import convolutions


class Stage(nn.Module):
    """A stage of the network and its answer.

    Args:
        layers: from the map before to the map after.
        channels: of the map after.
        classes: scores to give.
    """

    def __init__(self, layers: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.layers, self.readout = layers, nn.Linear(channels, classes)

    def answer(self, x: Tensor) -> Tensor:
        """Return scores (batch, classes) for the map after the stage."""
        scores: Tensor = self.readout(x.mean((2, 3)))
        return scores

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (batch, channels, height, width) to scores (batch, classes), and the map for the next stage."""
        x = self.layers(x)
        return self.answer(x), x


class Exits(nn.Module):
    """Depthwise separable convolutions in stages, each with a linear readout of its mean map.

    While it trains it gives all answers, (batch, exits, classes), whose losses are averaged
    (`objective.arguments.answer_weights`); in use the last one, (batch, classes). `stages` are what is delivered one by
    one.

    Args:
        shape: (channels, height, width).
        classes: scores to give.
        norm: normalisation of the convolutions.
        width: multiplies the channels.
        channels: of each stage; each halves the map while it is larger than 4 pixels.
        blocks: of a depthwise and a pointwise convolution, in each stage but the first, which has one convolution more.
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
        blocks: int = 2,
    ) -> None:
        super().__init__()
        inputs, *image = image_shape(shape, "exits")
        sizes = [max(8, round(size * width)) for size in channels]
        first, size = convolutions(norm, inputs, (image[0], image[1]), sizes[:1], above=15)
        self.stages = nn.ModuleList()
        inputs = sizes[0]
        for number, outputs in enumerate(sizes):
            layers = [*first] if number == 0 else []
            for _ in range(blocks):
                stride = 2 if min(size) > 4 and len(layers) <= len(first) * (number == 0) else 1
                size = -(-size[0] // stride), -(-size[1] // stride)
                layers += [*convolution(norm, inputs, inputs, 3, stride=stride, groups=inputs)]
                layers += [*convolution(norm, inputs, outputs, 1), nn.ReLU()]
                inputs = outputs
            self.stages.append(Stage(nn.Sequential(*layers), outputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes); in training to (batch, exits, classes)."""
        answers = []
        for stage in self.stages:
            assert isinstance(stage, Stage)
            x = stage.layers(x)
            if self.training or stage is self.stages[-1]:
                answers.append(stage.answer(x))
        return torch.stack(answers, 1) if self.training else answers[-1]
