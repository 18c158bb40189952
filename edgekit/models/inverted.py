"""Inverted residuals (Sandler et al. 2018, section 3.3), with squeeze and excitation where it is asked for."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.norm import Norm, convolution

Activation = Literal["relu", "relu6", "hard-swish", "silu"]
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hard-swish": nn.Hardswish,
    "silu": nn.SiLU,
}


def activation_of(name: str) -> nn.Module:
    """Return an activation by its name.

    Raises:
        ModelError: there is none of this name.
    """
    if name not in ACTIVATIONS:
        raise ModelError(f"activation {name!r} is none of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def divisible(channels: float, by: int = 8) -> int:
    """Round to a multiple of `by`, never down by more than a tenth (MobileNetV2's reference code)."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


class SqueezeExcite(nn.Module):
    """Gates of each channel, from the map's mean (Hu et al. 2018, section 3).

    Args:
        channels: of the map.
        squeezed: channels between.
        gate: gives the gates.
    """

    def __init__(self, channels: int, squeezed: int, gate: nn.Module) -> None:
        super().__init__()
        self.gates = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            gate,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, channels, height, width), each channel times its gate."""
        y: Tensor = x * self.gates(x)
        return y


class InvertedResidual(nn.Module):
    """Expand 1 x 1, depthwise, project 1 x 1 without activation; added to the input where shapes allow.

    Args:
        inputs: channels in.
        outputs: channels out.
        stride: of the depthwise convolution.
        hidden: channels between; as many as `inputs` leave the first convolution out.
        norm: normalisation of each convolution.
        kernel: side of the depthwise convolution.
        activation: after the first two convolutions.
        squeeze: channels of the gates between, 0 for none.
        gate: gives the gates.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        hidden: int,
        norm: Norm,
        *,
        kernel: int = 3,
        activation: str = "relu6",
        squeeze: int = 0,
        gate: Callable[[], nn.Module] = nn.Hardsigmoid,
    ) -> None:
        super().__init__()
        expand = [] if hidden == inputs else [*convolution(norm, inputs, hidden, 1), activation_of(activation)]
        self.layers = nn.Sequential(
            *expand,
            *convolution(norm, hidden, hidden, kernel, stride=stride, groups=hidden),
            activation_of(activation),
            *([SqueezeExcite(hidden, squeeze, gate())] if squeeze else []),
            *convolution(norm, hidden, outputs, 1),
        )
        self.residual = stride == 1 and inputs == outputs
        last = self.layers[-1]
        if self.residual and isinstance(last, nn.GroupNorm):
            # The branch begins as nothing, so that deep networks learn sooner (Goyal et al. 2017, section 5.1).
            nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y
