"""EfficientNet: depth, width and resolution grow together, by one coefficient (Tan & Le 2019)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.dscnn import image_shape
from edgekit.models.inverted import InvertedResidual, activation_of, divisible
from edgekit.models.norm import Norm, convolution

# Table 1 of the paper: expansion, kernel, channels, repeats, stride.
STAGES = (
    (1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1), (6, 5, 192, 4, 2),
    (6, 3, 320, 1, 1),
)  # fmt: skip
DEPTH, WIDTH, RESOLUTION = 1.2, 1.1, 1.15
"""What the coefficient is an exponent of: equation 3 and section 4."""
SQUEEZED = 4
"""Channels of a block's input to one between its gates."""
MOST_PARAMETERS = 10**9


def bilinear(own: int, wanted: int) -> Tensor:
    """Return what resizes one side of an image bilinearly, (wanted, own)."""
    each = torch.eye(own)[None, None]
    return F.interpolate(each, (wanted, own), mode="bilinear", align_corners=False)[0, 0]


class EfficientNet(nn.Module):
    """EfficientNet-B0, scaled; images are resized inside it, bilinearly.

    Args:
        shape: (channels, height, width).
        classes: scores to give.
        norm: normalisation of each convolution.
        width: multiplies the channels, beside the coefficient.
        coefficient: phi of the paper's equation 3; 0 is the network as the stages have it.
        stages: (expansion, kernel, channels, repeats, stride) of each stage; a stride is left out where the map has 4
            pixels or fewer.
        stem: channels of the first convolution.
        head: channels before the readout.
        activation: `silu` as in the paper; `relu6` loses least in int8.
        squeeze: whether blocks have squeeze-excite; without it, and with `relu6`, it is EfficientNet-Lite.

    Raises:
        ModelError: the coefficient makes a network of a billion weights.
    """

    inputs = ("image",)

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "group",
        width: float = 1.0,
        coefficient: float = 0.0,
        stages: Sequence[Sequence[int]] = STAGES,
        stem: int = 32,
        head: int = 1280,
        activation: str = "silu",
        squeeze: bool = True,
    ) -> None:
        super().__init__()
        self.rows: Tensor
        self.columns: Tensor
        inputs, *own = image_shape(shape, "efficientnet")
        width, depth = width * WIDTH**coefficient, DEPTH**coefficient
        # Weights grow with the square of the width: seen before they are made.
        most = max(channels for _, _, channels, _, _ in stages) * width
        if most * most * 6 * depth * sum(repeats for *_, repeats, _ in stages) > 20 * MOST_PARAMETERS:
            raise ModelError(
                f"coefficient {coefficient:g} makes a network of a billion weights: 0 to 7 are the paper's"
            )
        self.size = tuple(max(1, round(side * RESOLUTION**coefficient)) for side in own)
        self.resizes = list(self.size) != own
        if self.resizes:  # two products with constants: what F.interpolate becomes in files is long and slow
            self.register_buffer("rows", bilinear(own[0], self.size[0]), persistent=False)
            self.register_buffer("columns", bilinear(own[1], self.size[1]), persistent=False)
        side = min(self.size)
        stride = 2 if side > 15 else 1
        side = -(-side // stride)
        outputs = divisible(stem * width)
        layers: list[nn.Module] = [*convolution(norm, inputs, outputs, 3, stride=stride), activation_of(activation)]
        inputs = outputs
        for expansion, kernel, channels, repeats, wanted in stages:
            outputs = divisible(channels * width)
            for repeat in range(math.ceil(repeats * depth)):
                stride = wanted if repeat == 0 and side > 4 else 1
                side = -(-side // stride)
                layers.append(
                    InvertedResidual(
                        inputs,
                        outputs,
                        stride,
                        expansion * inputs,
                        norm,
                        kernel=kernel,
                        activation=activation,
                        squeeze=max(1, inputs // SQUEEZED) if squeeze else 0,
                        gate=nn.Sigmoid,
                    )
                )
                inputs = outputs
        outputs = divisible(head * width)
        layers += [*convolution(norm, inputs, outputs, 1), activation_of(activation)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes)."""
        if self.resizes:
            x = F.linear(F.linear(x, self.columns).transpose(2, 3), self.rows).transpose(2, 3)
        scores: Tensor = self.layers(x)
        return scores
