"""A convolutional stem, then transformer blocks over its map (Xiao et al. 2021, section 4; Dosovitskiy et al. 2021)."""

from collections.abc import Sequence

from torch import Tensor, nn

from edgekit.models.attention import Encoder, widened
from edgekit.models.dscnn import image_shape
from edgekit.models.norm import Norm
from edgekit.models.stem import convolutions


class CNNViT(nn.Module):
    """Three convolutions find local features; each pixel of their map is a token of the transformer.

    Args:
        shape: (channels, height, width).
        classes: scores to give.
        norm: normalisation of the convolutions; tokens have layer norms.
        width: multiplies channels and the numbers of a token.
        attention: `softmax`, `performer` (linear in the tokens) or `longformer` (within windows).
        dim: numbers of a token.
        depth: blocks.
        heads: of the attention.
    """

    inputs = ("image", "audio")
    own_scale = True

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        attention: str = "softmax",
        dim: int = 40,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        super().__init__()
        inputs, *image = image_shape(shape, "cnn-vit")
        dim = widened(dim, width, heads)
        layers, (rows, columns) = convolutions(norm, inputs, (image[0], image[1]), (max(8, dim // 2), dim, dim))
        self.stem = nn.Sequential(*layers, nn.Conv2d(dim, dim, 1))
        self.encoder = Encoder(dim, heads, rows * columns, attention, depth, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes)."""
        scores: Tensor = self.encoder(self.stem(x).flatten(2).transpose(1, 2))
        return scores
