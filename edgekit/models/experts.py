"""Experts behind a convolutional stem: soft (Jacobs et al. 1991) or top-1 (Fedus et al. 2022, section 2.1)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.dscnn import image_shape
from edgekit.models.norm import Norm
from edgekit.models.stem import convolutions


class Experts(nn.Module):
    """A stem, a gate over its mean, and experts of two layers whose scores are joined by the gate.

    Args:
        shape: (channels, height, width).
        classes: scores to give.
        norm: normalisation of the convolutions.
        width: multiplies channels and the experts' hidden sizes.
        gating: `soft` joins all experts, `top-1` takes the one whose weight is largest, times its weight. Shapes do
            not depend on the data, so torch computes all of them either way.
        experts: how many; two at least.
        hidden: numbers between an expert's layers.
        channels: of the stem's convolutions.

    Raises:
        ModelError: there are less than two experts.
    """

    inputs = ("image", "audio")
    learns: ClassVar = {"learning_rate": 0.1}
    own_scale = True

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        gating: Literal["soft", "top-1"] = "soft",
        experts: int = 4,
        hidden: int = 64,
        channels: Sequence[int] = (16, 32, 48),
    ) -> None:
        super().__init__()
        inputs, *image = image_shape(shape, "experts")
        if experts < 2 or gating not in ("soft", "top-1"):
            raise ModelError("experts needs two experts at least, and a gating of soft or top-1")
        sizes = [max(8, round(wanted * width)) for wanted in channels]
        layers, _ = convolutions(norm, inputs, (image[0], image[1]), sizes, above=4)
        inputs = sizes[-1]
        hidden, self.gating = max(4, round(hidden * width)), gating
        self.stem, self.gate = nn.Sequential(*layers), nn.Linear(inputs, experts)
        self.up = nn.Parameter(torch.randn(experts, inputs, hidden) * (2 / inputs) ** 0.5)
        self.down = nn.Parameter(torch.randn(experts, hidden, classes) * hidden**-0.5)
        self.up_bias = nn.Parameter(torch.zeros(experts, 1, hidden))
        self.down_bias = nn.Parameter(torch.zeros(experts, 1, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to scores (batch, classes)."""
        h = self.stem(x).mean((2, 3))
        weights = self.weights(h)
        hidden = F.relu(h[:, None, None] @ self.up + self.up_bias)  # (batch, experts, 1, hidden)
        each = hidden @ self.down + self.down_bias
        return (each[:, :, 0] * weights[..., None]).sum(1)

    @torch.no_grad()
    def remarks(self, x: Tensor) -> list[str]:
        """Return a line on experts that no example is sent to, if there are some."""
        if self.gating == "soft":
            return []
        chosen = self.gate(self.stem(x).mean((2, 3))).argmax(-1)
        idle = sorted(set(range(self.gate.out_features)) - set(chosen.tolist()))
        if not idle:
            return []
        return [
            f"no calibration example is sent to {len(idle)} of {self.gate.out_features} experts (number "
            f'{", ".join(map(str, idle))}): fewer experts, or gating = "soft", wastes nothing'
        ]

    def weights(self, h: Tensor) -> Tensor:
        """Return what each expert counts, (batch, experts), for what the stem gives, (batch, channels)."""
        weights: Tensor = self.gate(h).softmax(-1)
        if self.gating == "soft":
            return weights
        # Not one_hot(argmax), which looks at its values: neither tracing nor vmap can.
        return weights * (weights >= weights.amax(-1, keepdim=True)).to(weights.dtype).detach()
