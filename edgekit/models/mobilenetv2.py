"""MobileNetV2: inverted residuals with linear bottlenecks (Sandler et al. 2018)."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from edgekit.models.dscnn import image_shape
from edgekit.models.inverted import InvertedResidual, divisible
from edgekit.models.norm import Norm, convolution

# Table 2 of the paper: expansion, channels, repeats, stride.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class MobileNetV2(nn.Module):
    """MobileNetV2 with a width multiplier, for images of any size.

    Args:
        shape: (channels, height, width).
        classes: scores to give.
        norm: normalisation of each convolution.
        width: multiplies the channels.
        stages: (expansion, channels, repeats, stride) of each stage; a stride is left out where the map has 4
            pixels or fewer, so that small images keep a map worth convolving.
        head: channels before the readout; like the paper, not made smaller by a width below 1.
    """

    inputs = ("image", "audio")
    searched: ClassVar = {
        "model.width": ("0.25", "0.35", "0.5", "0.75", "1.0"),
        "model.norm": ("none", "group", "weight-standardised"),
        "model.arguments.stages": (
            "[[1,16,1,1],[3,24,1,2],[3,32,1,2]]",
            "[[1,16,1,1],[6,24,2,2],[6,32,2,2]]",
            "[[1,16,1,1],[3,24,2,2],[3,32,2,2],[3,64,2,2]]",
            "[[1,16,1,1],[6,24,2,2],[6,32,3,2],[6,64,2,2]]",
        ),
        "model.arguments.head": ("64", "128", "320", "1280"),
    }

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "group",
        width: float = 1.0,
        stages: Sequence[Sequence[int]] = STAGES,
        head: int = 1280,
    ) -> None:
        super().__init__()
        inputs, height, breadth = image_shape(shape, "mobilenetv2")
        side = min(height, breadth)
        stride = 2 if side > 15 else 1
        side = -(-side // stride)
        outputs = divisible(32 * width)
        layers: list[nn.Module] = [*convolution(norm, inputs, outputs, 3, stride=stride), nn.ReLU6()]
        inputs = outputs
        for expansion, channels, repeats, first_stride in stages:
            outputs = divisible(channels * width)
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 and side > 4 else 1
                side = -(-side // stride)
                layers.append(InvertedResidual(inputs, outputs, stride, expansion * inputs, norm))
                inputs = outputs
        outputs = divisible(head * max(1.0, width))
        layers += [*convolution(norm, inputs, outputs, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.layers = nn.Sequential(*layers, nn.Linear(outputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes)."""
        scores: Tensor = self.layers(x)
        return scores
