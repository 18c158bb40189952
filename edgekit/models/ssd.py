"""Mamba-2's state space duality: a selective state space as one product with a mask (Dao & Gu 2024, section 3.2)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.models.attention import widened
from edgekit.models.norm import Norm
from edgekit.models.sequence import Frames, Layer, Residuals, States


class SSDLayer(Layer):
    """h_t = exp(-a dt_t) h_(t-1) + dt_t B_t x_t, y_t = C_t h_t + D x_t, where B, C and dt are of the frame itself.

    In its quadratic form: Y = (L * C B^T) (dt X), L[i, j] = exp(-a (dt_(j+1) + ... + dt_i)) for j <= i.

    Args:
        dim: channels, shared by the heads.
        state: numbers of a channel's state.
        length: frames of a sequence.
        heads: with an own `a` and `dt` each.
    """

    before: Tensor

    def __init__(self, dim: int, state: int, length: int, heads: int) -> None:
        super().__init__()
        self.heads, self.state, self.sizes = heads, (heads, dim // heads, state), [dim, dim, state, state, heads]
        self.into, self.out = nn.Linear(dim, sum(self.sizes)), nn.Linear(dim, dim)
        self.log_a, self.skip = nn.Parameter(torch.zeros(heads)), nn.Parameter(torch.ones(heads, 1, 1))
        self.register_buffer("before", torch.ones(length, length).tril(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, dim) to the same shape."""
        batch, length, dim = x.shape
        value, gate, b, c, step = self.into(x).split(self.sizes, -1)
        step = F.softplus(step).transpose(1, 2)  # (batch, heads, time)
        total = ((-self.log_a.exp()[:, None] * step) @ self.before.T)[..., None]  # running sums, as a product
        fade = torch.exp((total - total.transpose(-1, -2)) * self.before) * self.before
        value = value.reshape(batch, length, self.heads, -1).transpose(1, 2)
        seen = fade * (c @ b.transpose(-1, -2))[:, None]
        y = seen @ (value * step[..., None]) + value * self.skip
        mixed: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, dim) * F.silu(gate))
        return mixed

    def kept(self) -> list[tuple[int, ...]]:
        """Return the shape of the heads' states."""
        return [self.state]

    def advance(self, frame: Tensor, states: States) -> tuple[Tensor, States]:
        """Take the next frame, by the recurrence itself."""
        value, gate, b, c, step = self.into(frame).split(self.sizes, -1)
        step = F.softplus(step)[..., None]  # (batch, heads, 1)
        value = value.reshape(-1, self.heads, self.state[1])
        fade = torch.exp(-self.log_a.exp()[:, None] * step)[..., None]
        h = fade * states[0] + (value * step)[..., None] * b[:, None, None]
        y = (h * c[:, None, None]).sum(-1) + value * self.skip[..., 0]
        mixed: Tensor = self.out(y.reshape(frame.shape) * F.silu(gate))
        return mixed, (h,)


class SSD(Residuals):
    """Residual layers of selective state spaces.

    Args:
        shape: (channels, features, time) or (features, time); (time,) of tokens.
        classes: scores to give.
        norm: not read: frames have layer norms.
        width: multiplies `dim`.
        masked: whether the first feature tells padding.
        vocabulary: how many tokens there are; 0 where frames hold numbers.
        dim: channels of a layer.
        state: numbers of a channel's state.
        depth: layers.
        heads: of each.

    Raises:
        ModelError: the examples are no sequences.
    """

    inputs = ("audio", "sequence", "tokens")
    learns: ClassVar = {"learning_rate": 0.01}
    own_scale = True

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        masked: bool = False,
        vocabulary: int = 0,
        dim: int = 64,
        state: int = 8,
        depth: int = 2,
        heads: int = 4,
    ) -> None:
        frames, dim = Frames(shape, "ssd", masked=masked, vocabulary=vocabulary), widened(dim, width, heads)
        super().__init__(frames, [SSDLayer(dim, state, frames.time, heads) for _ in range(depth)], dim, classes)
