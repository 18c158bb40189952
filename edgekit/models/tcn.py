"""Temporal convolutional network: causal convolutions whose dilation doubles (Bai et al. 2018, section 3)."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.norm import Norm, normalised
from edgekit.models.sequence import Frames, SequenceNetwork, States


class FrameNorm(nn.LayerNorm):
    """Layer norm of each frame's channels: group norm's mean over time would see what comes later."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, 1, time) to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


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
        first, *_ = normalised(norm, conv)
        self.inputs = inputs
        self.layers = nn.Sequential(first, *([FrameNorm(outputs)] if norm == "group" else []), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, 1, time) to (batch, outputs, 1, time)."""
        y: Tensor = self.layers(F.pad(x, (self.before, 0)))
        return y

    def advance(self, frame: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Map the next frame (batch, inputs, 1, 1) and those before to (batch, outputs, 1, 1) and those to keep."""
        seen = torch.cat([before, frame], -1)
        return self.layers(seen), seen[..., 1:]


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

    def kept(self) -> list[tuple[int, ...]]:
        """Return the shapes of the frames that the convolutions keep."""
        return [(layer.inputs, 1, layer.before) for layer in self.layers]  # type: ignore[misc]

    def advance(self, frame: Tensor, states: States) -> tuple[Tensor, States]:
        """Map the next frame (batch, inputs, 1, 1) and what was kept to (batch, outputs, 1, 1) and what is kept now."""
        x, now = frame, []
        for layer, before in zip(self.layers, states, strict=True):
            x, kept = layer.advance(x, before)  # type: ignore[operator]
            now.append(kept)
        return F.relu(self.beside(frame) + x), tuple(now)


class TCN(SequenceNetwork):
    """Blocks whose dilation doubles from one to the next; the mean over time is read out.

    Args:
        shape: (channels, features, time), as log-mel pictures are: each column is a frame; (features, time); or
            (time,) of tokens.
        classes: scores to give.
        norm: normalisation of each convolution; `group` is of each frame alone.
        width: multiplies the channels.
        masked: whether the first feature tells padding.
        vocabulary: how many tokens there are; 0 where frames hold numbers.
        channels: of each block.
        kernel: frames that a convolution sees; two at least.

    Raises:
        ModelError: the examples are no sequences.
    """

    inputs = ("audio", "sequence", "tokens")
    learns: ClassVar = {"norm": "weight-standardised"}

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        masked: bool = False,
        vocabulary: int = 0,
        channels: Sequence[int] = (32, 32, 32),
        kernel: int = 3,
    ) -> None:
        frames = Frames(shape, "tcn", masked=masked, vocabulary=vocabulary)
        if kernel < 2 or not channels:
            raise ModelError("tcn needs a block of channels, and a kernel of two frames at least")
        super().__init__(frames, max(8, round(channels[-1] * width)), classes)
        inputs = frames.features
        blocks: list[Block] = []
        for number, wanted in enumerate(channels):
            outputs = max(8, round(wanted * width))
            blocks.append(Block(inputs, outputs, kernel, 2**number, norm))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)

    def over_time(self, frames: Tensor) -> Tensor:
        """Map frames (batch, time, features) to (batch, time, channels)."""
        y: Tensor = self.blocks(frames.transpose(1, 2)[:, :, None])
        return y[:, :, 0].transpose(1, 2)

    def kept(self) -> list[tuple[int, ...]]:
        """Return what the blocks keep, in their order."""
        return [shape for block in self.blocks for shape in block.kept()]  # type: ignore[operator]

    def advance(self, frame: Tensor, states: States) -> tuple[Tensor, States]:
        """Map the next frame (batch, features) and what was kept to (batch, channels) and what is kept now."""
        x, now = frame[:, :, None, None], []
        for number, block in enumerate(self.blocks):  # two convolutions each
            x, kept = block.advance(x, states[2 * number : 2 * number + 2])  # type: ignore[operator]
            now += kept
        return x[:, :, 0, 0], tuple(now)
