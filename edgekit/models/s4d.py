"""S4D: diagonal state spaces, run as one causal convolution (Gu et al. 2022, "On the parameterization", section 3)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.models.norm import Norm
from edgekit.models.sequence import Frames, Layer, Residuals, States

SHORTEST, LONGEST = 0.005, 0.1
"""Steps of time that layers begin with."""


class S4DLayer(Layer):
    """For each channel x' = A x + B u, y = C x + D u, with a diagonal complex A that begins as -1/2 + i pi n (S4D-Lin).

    In real arithmetic, with dt the step, over l frames back:

        K[l] = 2 dt sum_n exp(-a_n dt l) (Re C_n cos(w_n dt l) - Im C_n sin(w_n dt l))

    Args:
        dim: channels.
        state: complex numbers of a channel's state.
        length: frames of a sequence.
    """

    times: Tensor

    def __init__(self, dim: int, state: int, length: int) -> None:
        super().__init__()
        spread = math.log(LONGEST) - math.log(SHORTEST)
        self.log_step = nn.Parameter(torch.rand(dim, 1) * spread + math.log(SHORTEST))
        self.log_decay = nn.Parameter(torch.full((dim, state), math.log(0.5)))
        self.angle = nn.Parameter(math.pi * torch.arange(state, dtype=torch.float32).repeat(dim, 1))
        self.real, self.imaginary = (nn.Parameter(torch.randn(dim, state) * state**-0.5) for _ in range(2))
        self.skip = nn.Parameter(torch.ones(dim))
        self.out = nn.Linear(dim, dim)
        self.length = length
        self.register_buffer("times", torch.arange(length, dtype=torch.float32), persistent=False)

    def kernel(self) -> Tensor:
        """Return what each channel adds up of the frames before, (dim, length)."""
        step = self.log_step.exp()
        decay = (-self.log_decay.exp() * step)[..., None] * self.times
        angle = (self.angle * step)[..., None] * self.times
        waves = self.real[..., None] * torch.cos(angle) - self.imaginary[..., None] * torch.sin(angle)
        return 2 * step * (torch.exp(decay) * waves).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, dim) to the same shape."""
        before = F.pad(x.transpose(1, 2), (self.length - 1, 0))
        y = F.conv1d(before, self.kernel().flip(1)[:, None], groups=x.shape[2]).transpose(1, 2)
        return self.mixed(y, x)

    def mixed(self, y: Tensor, x: Tensor) -> Tensor:
        """Return what the layer gives, of what the states give and what came in."""
        mixed: Tensor = self.out(F.gelu(y + x * self.skip, approximate="tanh"))
        return mixed

    def kept(self) -> list[tuple[int, ...]]:
        """Return the shapes of the states' real and imaginary parts."""
        return [tuple(self.real.shape)] * 2

    def advance(self, frame: Tensor, states: States) -> tuple[Tensor, States]:
        """Take the next frame: x' = exp((-a + i w) dt) x + u, y = 2 dt Re(C x)."""
        step = self.log_step.exp()
        fade, angle = torch.exp(-self.log_decay.exp() * step), self.angle * step
        along, across = fade * torch.cos(angle), fade * torch.sin(angle)
        real = along * states[0] - across * states[1] + frame[..., None]
        imaginary = across * states[0] + along * states[1]
        y = 2 * step[:, 0] * (self.real * real - self.imaginary * imaginary).sum(-1)
        return self.mixed(y, frame), (real, imaginary)


class S4D(Residuals):
    """Residual layers of diagonal state spaces.

    Args:
        shape: (channels, features, time) or (features, time); (time,) of tokens.
        classes: scores to give.
        norm: not read: frames have layer norms.
        width: multiplies `dim`.
        masked: whether the first feature tells padding.
        vocabulary: how many tokens there are; 0 where frames hold numbers.
        dim: channels of a layer.
        state: complex numbers of a channel's state.
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
        state: int = 8,
        depth: int = 3,
    ) -> None:
        frames, dim = Frames(shape, "s4d", masked=masked, vocabulary=vocabulary), max(4, round(dim * width))
        super().__init__(frames, [S4DLayer(dim, state, frames.time) for _ in range(depth)], dim, classes)
