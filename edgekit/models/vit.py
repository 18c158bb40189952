"""Vision transformer: an image's patches are tokens (Dosovitskiy et al. 2021, section 3.1)."""

from collections.abc import Sequence

from torch import Tensor, nn

from edgekit.models.attention import Encoder, widened
from edgekit.models.norm import Norm
from edgekit.models.stem import patches


class ViT(nn.Module):
    """Patches, learnt positions, transformer blocks; the tokens' mean is read out (Zhai et al. 2022, section 3.3).

    Args:
        shape: (channels, height, width).
        classes: scores to give.
        norm: not read: tokens have layer norms.
        width: multiplies the numbers of a token.
        attention: `softmax`, `performer` (linear in the tokens) or `longformer` (within windows).
        patch: side of a patch; of 28 or 32 pixels' images 4, of small ones 2 by default.
        dim: numbers of a token.
        depth: blocks.
        heads: of the attention.

    Raises:
        ModelError: the image has no whole number of patches.
    """

    inputs = ("image",)
    own_scale = True

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        attention: str = "softmax",
        patch: int = 0,
        dim: int = 40,
        depth: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__()
        dim = widened(dim, width, heads)
        self.patches, tokens = patches("vit", shape, patch, dim)
        self.encoder = Encoder(dim, heads, tokens, attention, depth, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes)."""
        scores: Tensor = self.encoder(self.patches(x).flatten(2).transpose(1, 2))
        return scores
