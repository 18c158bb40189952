"""A neural ordinary differential equation, in fixed steps of Runge and Kutta's (Chen et al. 2018, section 3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.models.dscnn import image_shape
from edgekit.models.norm import Norm, convolution
from edgekit.models.stem import convolutions


class ODE(nn.Module):
    """A stem, then dh/dt = f(h, t) from 0 to 1 with one f for all steps, and a linear readout of the map's mean.

    Args:
        shape: (channels, height, width).
        classes: scores to give.
        norm: normalisation of the convolutions.
        width: multiplies the channels.
        channels: of the map.
        steps: of Runge-Kutta; each runs f four times.
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
        channels: int = 40,
        steps: int = 2,
    ) -> None:
        super().__init__()
        inputs, *image = image_shape(shape, "ode")
        channels = max(8, round(channels * width))
        layers, _ = convolutions(norm, inputs, (image[0], image[1]), (max(8, channels // 2), channels))
        self.stem = nn.Sequential(*layers)
        self.first = nn.Sequential(*convolution(norm, channels, channels, 3))
        self.second = nn.Sequential(*convolution(norm, channels, channels, 3))
        self.time, self.steps = nn.Parameter(torch.zeros(channels, 1, 1)), steps
        self.readout = nn.Linear(channels, classes)

    def slope(self, h: Tensor, t: float) -> Tensor:
        """Return dh/dt at a time."""
        y: Tensor = torch.tanh(self.second(F.relu(self.first(h) + self.time * t)))
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes)."""
        h, dt = self.stem(x), 1 / self.steps
        for number in range(self.steps):
            t = number * dt
            k1 = self.slope(h, t)
            k2 = self.slope(h + dt / 2 * k1, t + dt / 2)
            k3 = self.slope(h + dt / 2 * k2, t + dt / 2)
            k4 = self.slope(h + dt * k3, t + dt)
            h = h + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        scores: Tensor = self.readout(h.mean((2, 3)))
        return scores
