"""A network of depthwise separable convolutions (Howard et al. 2017, MobileNets, section 3.1)."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.norm import Norm, convolution


def image_shape(shape: Sequence[int], name: str) -> tuple[int, int, int]:
    """Return (channels, height, width), or say that this network needs images.

    Raises:
        ModelError: the examples are not images.
    """
    if len(shape) != 3:
        raise ModelError(
            f"{name} needs images of (channels, height, width); these examples have {tuple(shape)}: use mlp"
        )
    return shape[0], shape[1], shape[2]


class DSCNN(nn.Module):
    """A convolution, then blocks of a depthwise 3 x 3 and a pointwise 1 x 1 convolution, ReLU after each; then a
    linear readout of the average-pooled map.

    Args:
        shape: (channels, height, width).
        classes: scores to give.
        norm: normalisation of each convolution.
        width: multiplies the channels.
        channels: channels of the first convolution, then of each block.
        strides: stride of the first convolution, then of each block. By default the first convolution halves images
            of 16 pixels and more, and each block halves the map while it is larger than 4 pixels.
        pool: side of the map that the readout sees; the map before it is average-pooled down to it.
        depthwise_activation: whether a ReLU follows the depthwise convolutions too, as in MobileNets; without it, as
            in Xception (Chollet 2017, section 4.7), small networks learn better under noise.
    """

    inputs = ("image", "audio")
    learns: ClassVar = {"learning_rate": 0.1}
    searched: ClassVar = {
        "model.width": ("0.25", "0.35", "0.5", "0.75", "1.0", "1.25", "1.5"),
        "model.norm": ("none", "group", "weight-standardised"),
        "model.arguments.channels": (
            "[16,32]", "[32,64]", "[32,64,64]", "[16,32,64,64]", "[24,48,64,64]", "[16,32,32,64,64]",
            "[32,64,64,64,64]",
        ),
        "model.arguments.depthwise_activation": ("true", "false"),
    }  # fmt: skip

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        channels: Sequence[int] = (32, 64, 64),
        strides: Sequence[int] | None = None,
        pool: int = 1,
        depthwise_activation: bool = True,
    ) -> None:
        super().__init__()
        inputs, *map_size = image_shape(shape, "dscnn")
        sizes = [max(8, round(size * width)) for size in channels]
        side = min(map_size)
        layers: list[nn.Module] = []
        for number, outputs in enumerate(sizes):
            if strides is not None:
                stride = strides[number] if number < len(strides) else 1
            else:
                stride = 2 if side > (15 if number == 0 else 4) else 1
            side = -(-side // stride)
            if number == 0:
                layers += [*convolution(norm, inputs, outputs, 3, stride=stride), nn.ReLU()]
            else:
                layers += convolution(norm, inputs, inputs, 3, stride=stride, groups=inputs)
                layers += [nn.ReLU()] if depthwise_activation else []
                layers += [*convolution(norm, inputs, outputs, 1), nn.ReLU()]
            map_size = [-(-size // stride) for size in map_size]
            inputs = outputs
        if any(size % pool for size in map_size):
            raise ModelError(f"dscnn: a map of {map_size} cannot be pooled to a side of {pool}")
        if pool == 1:
            layers.append(nn.AdaptiveAvgPool2d(1))
        elif map_size != [pool, pool]:
            layers.append(nn.AvgPool2d((map_size[0] // pool, map_size[1] // pool)))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * pool * pool, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes)."""
        scores: Tensor = self.layers(x)
        return scores
