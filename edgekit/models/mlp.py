"""A multi-layer perceptron."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import ClassVar

from torch import Tensor, nn

from edgekit.models.norm import Norm


def hidden_layers(norm: Norm, sizes: Sequence[int]) -> list[nn.Module]:
    """Return fully connected layers from each size to the next, for a Sequential; ReLU behind each.

    Args:
        norm: `group` puts a LayerNorm (a group norm with one group) before each ReLU; the others put nothing.
        sizes: of what comes in, then of each layer.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), *([nn.LayerNorm(outputs)] if norm == "group" else []), nn.ReLU()]
    return layers


class MLP(nn.Module):
    """Fully connected layers with ReLU between them.

    Args:
        shape: one example's shape; images are flattened.
        classes: scores to give.
        norm: as of `hidden_layers`.
        width: multiplies the hidden sizes.
        hidden: sizes of the hidden layers.
    """

    inputs = ("table", "image", "audio")
    learns: ClassVar = {"learning_rate": 0.1, "norm": "none"}

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        hidden: Sequence[int] = (64, 32),
    ) -> None:
        super().__init__()
        sizes = [prod(shape), *(max(1, round(size * width)) for size in hidden)]
        self.layers = nn.Sequential(nn.Flatten(), *hidden_layers(norm, sizes), nn.Linear(sizes[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ...) to scores (batch, classes)."""
        scores: Tensor = self.layers(x)
        return scores
