"""An autoencoder of fully connected layers, for anomaly detection (Koizumi et al. 2019, ToyADMOS; the anomaly task of
MLPerf Tiny, Banbury et al. 2021, has eight layers of 128 around a code of 8)."""

from collections.abc import Sequence
from math import prod
from typing import ClassVar

from torch import Tensor, nn

from edgekit.models.mlp import hidden_layers
from edgekit.models.norm import Norm


class Autoencoder(nn.Module):
    """Layers down to a narrow code, and the same up again, ReLU between them; the code too.

    Args:
        shape: one example's shape; what comes out has it, too.
        classes: not used: it gives examples back (`objective.name = "reconstruction"`).
        norm: as of `hidden_layers`.
        width: multiplies the hidden sizes, but for the code's.
        hidden: sizes of the layers before the code.
        code: numbers of the code.
    """

    inputs = ("table", "audio", "image")
    learns: ClassVar = {"learning_rate": 1.0, "norm": "none"}
    aim = "reconstruction"

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        hidden: Sequence[int] = (64, 32),
        code: int = 8,
    ) -> None:
        super().__init__()
        self.shape = tuple(shape)
        between = [max(1, round(size * width)) for size in hidden]
        sizes = [prod(shape), *between, code, *reversed(between)]
        self.layers = nn.Sequential(nn.Flatten(), *hidden_layers(norm, sizes), nn.Linear(sizes[-1], sizes[0]))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, *shape) to the same shape."""
        y: Tensor = self.layers(x)
        return y.reshape(-1, *self.shape)
