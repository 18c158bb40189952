"""Attention over tokens: by softmax, in linear time by random features, and within windows."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from edgekit.errors import ModelError


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2), of each token to all.

    Args:
        dim: numbers of a token.
        heads: that share them.
        tokens: of a sequence.
    """

    def __init__(self, dim: int, heads: int, tokens: int) -> None:
        super().__init__()
        if dim % heads:
            raise ModelError(f"{dim} numbers a token cannot be shared by {heads} heads: choose a multiple")
        self.heads, self.tokens = heads, tokens
        self.into, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, dim) to the same shape."""
        batch, tokens, dim = x.shape
        q, k, v = (part.reshape(batch, tokens, self.heads, -1).transpose(1, 2) for part in self.into(x).chunk(3, -1))
        y: Tensor = self.out(self.mixed(q, k, v).transpose(1, 2).reshape(batch, tokens, dim))
        return y

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax(q k^T / sqrt(d)) v of (batch, heads, tokens, d)."""
        weights: Tensor = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        return weights @ v


class Favor(Attention):
    """Attention in time linear in the tokens, by positive orthogonal random features (Choromanski et al. 2021, FAVOR+).

    softmax's kernel exp(q k) is a mean over features exp(w q - |q|^2 / 2) exp(w k - |k|^2 / 2) with w drawn once, in
    orthogonal blocks (lemma 1 and section 3.2); they are drawn alike for each network.

    Args:
        dim, heads, tokens: as for `Attention`.
        features: random ones of each head.
    """

    projection: Tensor

    def __init__(self, dim: int, heads: int, tokens: int, features: int = 32) -> None:
        super().__init__(dim, heads, tokens)
        size, random = dim // heads, torch.Generator().manual_seed(7)
        blocks = [torch.linalg.qr(torch.randn(size, size, generator=random))[0] for _ in range(-(-features // size))]
        norms = torch.randn(features, size, generator=random).norm(dim=1, keepdim=True)
        self.register_buffer("projection", (torch.cat(blocks)[:features] * norms).T.contiguous(), persistent=False)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return an estimate of `Attention.mixed` whose cost is linear in the tokens."""
        q, k = self._features(q, (-1,)), self._features(k, (-1, -2))
        return (q @ (k.transpose(-1, -2) @ v)) / (q @ k.sum(-2, keepdim=True).transpose(-1, -2))

    def _features(self, x: Tensor, common: tuple[int, ...]) -> Tensor:
        x = x * x.shape[-1] ** -0.25
        raised = x @ self.projection - (x * x).sum(-1, keepdim=True) / 2
        # What all keys, or all features of a query, have in common cancels; exp stays finite so.
        return torch.exp(raised - raised.amax(common, keepdim=True).detach()) + 1e-4


class Windowed(Attention):
    """Attention within a window around each token (Beltagy et al. 2020, Longformer, section 3.1).

    Args:
        dim, heads, tokens: as for `Attention`.
        window: tokens to either side that one attends to.
    """

    distant: Tensor

    def __init__(self, dim: int, heads: int, tokens: int, window: int = 8) -> None:
        super().__init__(dim, heads, tokens)
        places = torch.arange(tokens)
        far = (places[:, None] - places).abs() > window
        self.register_buffer("distant", far.float() * -1e9, persistent=False)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax(q k^T / sqrt(d) + mask) v; products with what is far away are computed, and count nothing."""
        weights: Tensor = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + self.distant).softmax(-1)
        return weights @ v


ATTENTION: dict[str, Callable[[int, int, int], Attention]] = {
    "softmax": Attention,
    "performer": Favor,
    "longformer": Windowed,
}


class Block(nn.Module):
    """A transformer's block, norms first (Xiong et al. 2020, figure 1b).

    Args:
        dim: numbers of a token.
        heads: of the attention.
        tokens: of a sequence.
        attention: which one.
        hidden: numbers between the two layers behind the attention.
    """

    def __init__(self, dim: int, heads: int, tokens: int, attention: str, hidden: int) -> None:
        super().__init__()
        if attention not in ATTENTION:
            raise ModelError(f"attention {attention!r} is none of {', '.join(ATTENTION)}")
        self.first, self.second = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = ATTENTION[attention](dim, heads, tokens)
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, dim) to the same shape."""
        x = x + self.attention(self.first(x))
        y: Tensor = x + self.layers(self.second(x))
        return y


class Encoder(nn.Module):
    """Learnt positions, transformer blocks, and a linear readout of the tokens' mean.

    Args:
        dim, heads, tokens, attention: as for `Block`.
        depth: blocks.
        classes: scores to give.
    """

    def __init__(self, dim: int, heads: int, tokens: int, attention: str, depth: int, classes: int) -> None:
        super().__init__()
        # As large as tokens are: with the usual 0.02, SGD hardly finds where a token lies (digits: .35 instead of .94).
        self.positions = nn.Parameter(torch.randn(tokens, dim) * 0.5)
        self.blocks = nn.Sequential(*(Block(dim, heads, tokens, attention, 2 * dim) for _ in range(depth)))
        self.norm, self.readout = nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (batch, tokens, dim) to scores (batch, classes)."""
        scores: Tensor = self.readout(self.norm(self.blocks(x + self.positions)).mean(1))
        return scores


def widened(dim: int, width: float, heads: int) -> int:
    """Return a multiple of the heads near dim * width."""
    return heads * max(1, math.floor(dim * width / heads + 0.5))
