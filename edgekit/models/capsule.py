"""Capsules and dynamic routing between them (Sabour et al. 2017, section 4 and procedure 1)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.dscnn import image_shape
from edgekit.models.norm import Norm, convolution
from edgekit.models.stem import convolutions


def squash(s: Tensor) -> Tensor:
    """Shorten vectors (..., size) to below one, keeping their direction (equation 1)."""
    square = (s * s).sum(-1, keepdim=True)
    return s * square / ((1 + square) * torch.sqrt(square + 1e-7))


class Capsule(nn.Module):
    """Two convolutions, their channels as primary capsules, and a capsule for each class; its length is the score.

    Capsules of one kind share the matrix of their votes over the map, as convolutions do: the paper's own matrices
    are one for each place.

    Args:
        shape: (channels, height, width).
        classes: scores to give; more than one.
        norm: normalisation of the convolutions.
        width: multiplies the channels of the convolutions.
        channels: of the first convolution.
        kinds: of primary capsules.
        size: numbers of a primary capsule.
        out: numbers of a class's capsule.
        routings: iterations of routing.
        side: of the map of primary capsules.

    Raises:
        ModelError: there is one class, or the image is too small.
    """

    inputs = ("image",)
    own_scale = True
    learns: ClassVar = {"learning_rate": 0.02, "norm": "weight-standardised"}

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        channels: int = 24,
        kinds: int = 8,
        size: int = 8,
        out: int = 12,
        routings: int = 3,
        side: int = 4,
    ) -> None:
        super().__init__()
        image = image_shape(shape, "capsule")
        if classes < 2:
            raise ModelError("capsule routes between classes, and there is one: give two at least")
        kinds = max(1, round(kinds * width))
        inputs, outputs = image[0], kinds * size
        layers, left = convolutions(norm, inputs, (image[1], image[2]), (max(8, round(channels * width)), outputs))
        pool = max(1, min(left) // side)
        layers += [*convolution(norm, outputs, outputs, 3), *([nn.AvgPool2d(pool)] if pool > 1 else [])]
        self.layers = nn.Sequential(*layers)
        self.kinds, self.size, self.routings = kinds, size, routings
        # Many votes add up: with the usual scale all lengths begin near one, where squashing lets no gradient through.
        self.votes = nn.Parameter(0.15 * torch.randn(kinds, size, classes * out) * (2 / size) ** 0.5)
        self.classes, self.out = classes, out

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes)."""
        u = self.layers(x).flatten(2).unflatten(1, (self.kinds, self.size)).transpose(2, 3)
        votes = squash(u) @ self.votes  # (batch, kinds, places, classes * out)
        votes = votes.flatten(1, 2).unflatten(-1, (self.classes, self.out))
        logits = torch.zeros_like(votes[..., 0])
        for _ in range(self.routings - 1):
            v = self._agreed(logits, votes)
            logits = logits + (votes * v[:, None]).sum(-1)
        v = self._agreed(logits, votes)
        # Lengths are below one: ten times, so that cross entropy can be sure of an answer.
        return 10 * torch.sqrt((v * v).sum(-1) + 1e-7)

    @staticmethod
    def _agreed(logits: Tensor, votes: Tensor) -> Tensor:
        return squash((F.softmax(logits, 2)[..., None] * votes).sum(1))
