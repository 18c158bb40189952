"""Temporal convolutional network: causal convolutions whose dilation doubles (Bai et al. 2018, section 3)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.models.norm import Norm, normalised
from edgekit.models.sequence import sequence_shape


class CausalConvolution(nn.Module):
    """A convolution over time that sees what was, and nothing later.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: frames.
        dilation: frames from one to the next.
        norm: normalisation.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        self.before = (kernel - 1) * dilation
        conv = nn.Conv2d(inputs, outputs, (1, kernel), dilation=(1, dilation), bias=norm != "group")
        self.layers = nn.Sequential(*normalised(norm, conv), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, 1, time) to (batch, outputs, 1, time)."""
        y: Tensor = self.layers(F.pad(x, (self.before, 0)))
        return y


class Block(nn.Module):
    """Two causal convolutions, added to their input (figure 1b).

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: frames.
        dilation: frames from one to the next.
        norm: normalisation.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            CausalConvolution(inputs, outputs, kernel, dilation, norm),
            CausalConvolution(outputs, outputs, kernel, dilation, norm),
        )
        self.beside = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, 1, time) to (batch, outputs, 1, time)."""
        return F.relu(self.beside(x) + self.layers(x))


class TCN(nn.Module):
    """Blocks whose dilation doubles from one to the next; the mean over time is read out.

    Args:
        shape: (channels, features, time), as log-mel pictures are: each column is a frame; or (features, time).
        classes: scores to give.
        norm: normalisation of each convolution; group norm takes a sequence's mean over time, later frames too.
        width: multiplies the channels.
        channels: of each block.
        kernel: frames that a convolution sees.

    Raises:
        ModelError: the examples are no sequences.
    """

    inputs = ("audio", "sequence")

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        channels: Sequence[int] = (32, 32, 32),
        kernel: int = 3,
    ) -> None:
        super().__init__()
        self.time, self.features = sequence_shape(shape, "tcn")
        inputs = self.features
        blocks: list[nn.Module] = []
        for number, wanted in enumerate(channels):
            outputs = max(8, round(wanted * width))
            blocks.append(Block(inputs, outputs, kernel, 2**number, norm))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.readout = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ..., time) to scores (batch, classes)."""
        scores: Tensor = self.readout(self.blocks(x.reshape(-1, self.features, 1, self.time)))
        return scores
