"""What networks of sequences share: frames over time, and a readout of their mean."""

from collections.abc import Sequence

from torch import Tensor, nn

from edgekit.errors import ModelError


def sequence_shape(shape: Sequence[int], name: str) -> tuple[int, int]:
    """Return how many frames a sequence has, and how many numbers each.

    Args:
        shape: (channels, features, time), as log-mel pictures are: each column is a frame; or (features, time).
        name: of the network.

    Raises:
        ModelError: the examples are no sequences.
    """
    if len(shape) not in (2, 3):
        raise ModelError(
            f"{name} needs sequences, (features, time) or (channels, features, time), not {tuple(shape)}: use mlp"
        )
    return shape[-1], shape[0] if len(shape) == 2 else shape[0] * shape[1]


def frames(x: Tensor) -> Tensor:
    """Turn (batch, ..., time) into frames (batch, time, features)."""
    return x.flatten(1, -2).transpose(1, 2)


class Residuals(nn.Module):
    """Frames to `dim` numbers, residual layers over time behind layer norms, and a readout of the frames' mean.

    Args:
        features: numbers of a frame.
        layers: map (batch, time, dim) to the same shape.
        dim: numbers that a layer gives a frame.
        classes: scores to give.
    """

    def __init__(self, features: int, layers: Sequence[nn.Module], dim: int, classes: int) -> None:
        super().__init__()
        self.into = nn.Linear(features, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in layers)
        self.layers = nn.ModuleList(layers)
        self.readout = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ..., time) to scores (batch, classes)."""
        x = self.into(frames(x))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        scores: Tensor = self.readout(x.mean(1))
        return scores
