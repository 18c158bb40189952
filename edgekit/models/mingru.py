"""minGRU: gates of the frame alone, so that all states are had at once (Feng et al. 2024, section 3.1)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.models.norm import Norm
from edgekit.models.sequence import Frames, Layer, Residuals, States


class MinGRULayer(Layer):
    """h_t = (1 - z_t) h_(t-1) + z_t n_t, with z_t = s(W_z x_t) and n_t = W_n x_t.

    In closed form h_t = sum_(j <= t) z_j n_j prod_(j < i <= t) (1 - z_i): products as exp of sums of
    log(1 - s(g)) = -softplus(g), and sums as one product with a constant matrix.

    Args:
        dim: numbers of a frame, and of the state.
        length: frames of a sequence.
    """

    before: Tensor

    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.register_buffer("before", torch.ones(length, length).tril(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, dim) to the same shape."""
        gate, new = self.into(x).transpose(1, 2).chunk(2, 1)  # (batch, dim, time)
        total = (-F.softplus(gate) @ self.before.T)[..., None]
        fade = torch.exp((total - total.transpose(-1, -2)) * self.before) * self.before
        h = fade @ (torch.sigmoid(gate) * new)[..., None]
        mixed: Tensor = self.out(h[..., 0].transpose(1, 2))
        return mixed

    def kept(self) -> list[tuple[int, ...]]:
        """Return the shape of the state."""
        return [(self.out.in_features,)]

    def advance(self, frame: Tensor, states: States) -> tuple[Tensor, States]:
        """Take the next frame, by the recurrence itself."""
        gate, new = self.into(frame).chunk(2, -1)
        h = states[0] + torch.sigmoid(gate) * (new - states[0])
        mixed: Tensor = self.out(h)
        return mixed, (h,)


class MinGRU(Residuals):
    """Residual layers of minGRUs.

    Args:
        shape: (channels, features, time) or (features, time); (time,) of tokens.
        classes: scores to give.
        norm: not read: frames have layer norms.
        width: multiplies `dim`.
        masked: whether the first feature tells padding.
        vocabulary: how many tokens there are; 0 where frames hold numbers.
        dim: numbers of a layer's state.
        depth: layers.

    Raises:
        ModelError: the examples are no sequences.
    """

    inputs = ("audio", "sequence", "tokens")
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
        depth: int = 2,
    ) -> None:
        frames, dim = Frames(shape, "mingru", masked=masked, vocabulary=vocabulary), max(4, round(dim * width))
        super().__init__(frames, [MinGRULayer(dim, frames.time) for _ in range(depth)], dim, classes)
