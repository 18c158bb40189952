"""MLPerf Tiny's network for spoken keywords: a wide convolution, then depthwise separable ones on a map that stays."""

from collections.abc import Sequence

from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.dscnn import image_shape
from edgekit.models.norm import Norm, convolution, normalised

KERNEL, STRIDE = (10, 4), 2
"""Of the first convolution, over (time, frequency)."""


class KeywordDSCNN(nn.Module):
    """DS-CNN-S (Zhang et al. 2018, "Hello edge", table 2; Banbury et al. 2021, MLPerf Tiny, section 4.1).

    Args:
        shape: (channels, frequency bands, time), as log-mel pictures are, or (channels, height, width).
        classes: scores to give.
        norm: normalisation of each convolution.
        width: multiplies the channels.
        channels: of every convolution.
        blocks: depthwise separable convolutions.

    Raises:
        ModelError: the picture is smaller than the first convolution's kernel.
    """

    inputs = ("audio", "image")

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "group",
        width: float = 1.0,
        channels: int = 64,
        blocks: int = 4,
    ) -> None:
        super().__init__()
        inputs, bands, time = image_shape(shape, "keyword-dscnn")
        if time < STRIDE * 2 or bands < STRIDE * 2:
            raise ModelError(f"keyword-dscnn needs pictures of 4 x 4 and more, these are {bands} x {time}: use dscnn")
        size = max(8, round(channels * width))
        pad = (KERNEL[0] // 2, KERNEL[1] // 2)
        layers: list[nn.Module] = [
            *normalised(norm, nn.Conv2d(inputs, size, KERNEL, STRIDE, pad, bias=norm != "group")),
            nn.ReLU(),
        ]
        for _ in range(blocks):
            layers += [*convolution(norm, size, size, 3, groups=size), nn.ReLU()]
            layers += [*convolution(norm, size, size, 1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(size, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, bands, time) to scores (batch, classes)."""
        scores: Tensor = self.layers(x.transpose(2, 3))  # the paper's kernel is of time and frequency
        return scores
