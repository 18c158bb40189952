"""Two inputs in one network: joined late (Ngiam et al. 2011) or by cross-attention (Tsai et al. 2019, section 3.1)."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.attention import widened
from edgekit.models.norm import Norm
from edgekit.models.stem import convolutions

HEADS = 4
TOKENS = 4
"""That a row of numbers becomes."""


class Encoder(nn.Module):
    """An input as tokens: an image's map behind three convolutions, or a row behind two layers.

    Args:
        shape: (channels, height, width) or (features,).
        norm: of the convolutions.
        dim: numbers of a token.
    """

    def __init__(self, shape: Sequence[int], norm: Norm, dim: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        if len(shape) == 3:
            layers, _ = convolutions(norm, shape[0], (shape[1], shape[2]), (max(8, dim // 2), dim, dim))
        else:
            layers = [nn.Linear(shape[0], 2 * dim), nn.ReLU(), nn.Linear(2 * dim, TOKENS * dim), nn.ReLU()]
        self.layers, self.dim = nn.Sequential(*layers), dim

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, numbers of the input) to tokens (batch, tokens, dim)."""
        h: Tensor = self.layers(x.reshape(-1, *self.shape))
        return h.flatten(2).transpose(1, 2) if len(self.shape) == 3 else h.reshape(-1, TOKENS, self.dim)


class CrossAttention(nn.Module):
    """Each token of one input looks at all of the other: x + softmax(Q K^T / sqrt(d)) V, Q of x, K and V of the other.

    Args:
        dim: numbers of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.norm_other = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.keys, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Map tokens (batch, tokens, dim) and the other's (batch, others, dim) to (batch, tokens, dim)."""
        q = self._by_head(self.query(self.norm(x)))
        k, v = (self._by_head(part) for part in self.keys(self.norm_other(other)).chunk(2, -1))
        seen = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        y: Tensor = x + self.out(seen.transpose(1, 2).reshape(x.shape))
        return y

    @staticmethod
    def _by_head(x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], HEADS, -1).transpose(1, 2)


class Fusion(nn.Module):
    """An encoder an input; what both say is read out together.

    An example is a row of both inputs, one behind the other, as `npz:` files with `x` and `x2` give it.

    Args:
        shape: (numbers of both inputs,).
        classes: scores to give.
        norm: normalisation of the encoders' convolutions.
        width: multiplies `dim`.
        first: shape of the first input, (channels, height, width) or (features,); data of two inputs tells it.
        second: of the second; () is a row of what remains.
        kind: `late` joins the means of both inputs' tokens; `cross-attention` lets each look at the other before.
        dim: numbers of a token.

    Raises:
        ModelError: the two shapes are not the examples'.
    """

    inputs = ("two inputs",)
    usual: ClassVar = {"first": [1, 28, 28]}
    own_scale = True

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        first: Sequence[int] = (),
        second: Sequence[int] = (),
        kind: Literal["late", "cross-attention"] = "late",
        dim: int = 32,
    ) -> None:
        super().__init__()
        whole = shape[0] if len(shape) == 1 else 0
        second = second or (whole - math.prod(first),)
        fit = bool(first) and all(len(one) in (1, 3) and min(one) > 0 for one in (first, second))
        if not fit or math.prod(first) + math.prod(second) != whole:
            raise ModelError(
                f"fusion needs examples of two inputs in one row, not {tuple(shape)}, and their shapes, as "
                f"model.arguments = {{first = [1, 28, 28], second = [16]}}; {list(first)} and {list(second)} do not "
                "add up"
            )
        if kind not in ("late", "cross-attention"):
            raise ModelError(f"fusion.kind {kind!r} is none of late, cross-attention")
        dim = widened(dim, width, HEADS)
        self.split = [math.prod(first), math.prod(second)]
        self.encoders = nn.ModuleList(Encoder(one, norm, dim) for one in (first, second))
        self.looks = nn.ModuleList(CrossAttention(dim) for _ in range(2 if kind == "cross-attention" else 0))
        self.readout = nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, numbers of both) to scores (batch, classes)."""
        a, b = (encode(part) for encode, part in zip(self.encoders, x.split(self.split, -1), strict=True))
        if self.looks:
            a, b = self.looks[0](a, b), self.looks[1](b, a)
        scores: Tensor = self.readout(torch.cat([a.mean(1), b.mean(1)], -1))
        return scores
