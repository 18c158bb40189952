"""MobileNetV3-Small: inverted residuals with squeeze-excite and hard swish (Howard et al. 2019, table 2)."""

from collections.abc import Sequence

from torch import Tensor, nn

from edgekit.models.dscnn import image_shape
from edgekit.models.inverted import InvertedResidual, activation_of, divisible
from edgekit.models.norm import Norm, convolution

# Table 2 of the paper: kernel, hidden channels, channels, squeeze-excite, hard swish (else ReLU), stride.
STAGES = (
    (3, 16, 16, True, False, 2), (3, 72, 24, False, False, 2), (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2), (5, 240, 40, True, True, 1), (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1), (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2), (5, 576, 96, True, True, 1), (5, 576, 96, True, True, 1),
)  # fmt: skip
SQUEEZED = 4
"""Hidden channels to one between the gates."""


class MobileNetV3(nn.Module):
    """MobileNetV3-Small with a width multiplier, for images of any size.

    Args:
        shape: (channels, height, width).
        classes: scores to give.
        norm: normalisation of each convolution.
        width: multiplies the channels.
        stages: (kernel, hidden channels, channels, squeeze-excite, hard swish, stride) of each block; a stride is left
            out where the map has 4 pixels or fewer.
        head: channels of the layer before the readout.
        activation: instead of hard swish; `relu6` loses least in int8.
        squeeze: whether blocks have squeeze-excite where the paper's do; without it int8 loses less.
    """

    inputs = ("image",)

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "group",
        width: float = 1.0,
        stages: Sequence[Sequence[int]] = STAGES,
        head: int = 1024,
        activation: str = "hard-swish",
        squeeze: bool = True,
    ) -> None:
        super().__init__()
        inputs, height, breadth = image_shape(shape, "mobilenetv3")
        side = min(height, breadth)
        stride = 2 if side > 15 else 1
        side = -(-side // stride)
        outputs = divisible(16 * width)
        layers: list[nn.Module] = [*convolution(norm, inputs, outputs, 3, stride=stride), activation_of(activation)]
        inputs, hidden = outputs, 0
        for kernel, between, channels, squeezes, swishes, wanted in stages:
            outputs, hidden = divisible(channels * width), divisible(between * width)
            stride = wanted if side > 4 else 1
            side = -(-side // stride)
            layers.append(
                InvertedResidual(
                    inputs,
                    outputs,
                    stride,
                    hidden,
                    norm,
                    kernel=kernel,
                    activation=activation if swishes else "relu",
                    squeeze=divisible(hidden / SQUEEZED) if squeezes and squeeze else 0,
                )
            )
            inputs = outputs
        self.layers = nn.Sequential(
            *layers,
            *convolution(norm, inputs, hidden, 1),
            activation_of(activation),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(hidden, divisible(head * width)),
            activation_of(activation),
            nn.Linear(divisible(head * width), classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes)."""
        scores: Tensor = self.layers(x)
        return scores
