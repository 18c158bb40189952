"""MLP-Mixer: layers over the tokens, then over the channels, in turn (Tolstikhin et al. 2021, section 2)."""

from collections.abc import Sequence

from torch import Tensor, nn

from edgekit.models.norm import Norm
from edgekit.models.stem import patches


class Block(nn.Module):
    """Two residual branches of two layers each, one over the tokens and one over the channels (equation 1).

    Args:
        tokens: of an image.
        dim: numbers of a token.
        across: hidden numbers of the branch over tokens.
        along: hidden numbers of the branch over channels.
    """

    def __init__(self, tokens: int, dim: int, across: int, along: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.tokens = _two_layers(tokens, across)
        self.channels = _two_layers(dim, along)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, dim) to the same shape."""
        x = x + self.tokens(self.first(x).transpose(1, 2)).transpose(1, 2)
        y: Tensor = x + self.channels(self.second(x))
        return y


def _two_layers(size: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, size))


class Mixer(nn.Module):
    """Patches as tokens, blocks that mix tokens and channels, and a linear readout of the tokens' mean.

    Args:
        shape: (channels, height, width).
        classes: scores to give.
        norm: not read: tokens have layer norms.
        width: multiplies the numbers of a token.
        patch: side of a patch; of 28 or 32 pixels' images 4, of small ones 2 by default.
        dim: numbers of a token.
        depth: blocks.

    Raises:
        ModelError: the image is smaller than a patch.
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
        patch: int = 0,
        dim: int = 48,
        depth: int = 3,
    ) -> None:
        super().__init__()
        dim = max(8, round(dim * width))
        self.patches, tokens = patches("mixer", shape, patch, dim)
        self.blocks = nn.Sequential(*(Block(tokens, dim, max(8, dim // 2), 2 * dim) for _ in range(depth)))
        self.norm, self.readout = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes)."""
        tokens = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        scores: Tensor = self.readout(self.norm(tokens).mean(1))
        return scores
