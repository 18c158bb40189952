"""A gated recurrent unit (Cho et al. 2014, section 2.3), a frame at a time."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from edgekit.models.norm import Norm
from edgekit.models.sequence import Frames, SequenceNetwork, States


class GRU(SequenceNetwork):
    """One recurrent layer, written out, so that it is trained and delivered as everything else; its states' mean is
    read out.

        r = s(W_r x + U_r h), z = s(W_z x + U_z h), n = tanh(W_n x + r U_n h), h' = (1 - z) n + z h

    Args:
        shape: (channels, features, time) or (features, time); (time,) of tokens.
        classes: scores to give.
        norm: not read.
        width: multiplies `hidden`.
        masked: whether the first feature tells padding.
        vocabulary: how many tokens there are; 0 where frames hold numbers.
        hidden: numbers of the state.

    Raises:
        ModelError: the examples are no sequences.
    """

    inputs = ("audio", "sequence", "tokens")
    learns: ClassVar = {"learning_rate": 0.2}
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
        hidden: int = 64,
    ) -> None:
        hidden = max(4, round(hidden * width))
        super().__init__(Frames(shape, "gru", masked=masked, vocabulary=vocabulary), hidden, classes)
        self.into, self.again = nn.Linear(self.frames.features, 3 * hidden), nn.Linear(hidden, 3 * hidden)
        for parameter in (*self.into.parameters(), *self.again.parameters()):  # as torch's own
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def over_time(self, frames: Tensor) -> Tensor:
        """Map frames (batch, time, features) to states (batch, time, hidden)."""
        seen = self.into(frames)
        h = torch.zeros_like(seen[:, 0, : self.dim])
        states = []
        for frame in range(seen.shape[1]):
            h = self.next(seen[:, frame], h)
            states.append(h)
        return torch.stack(states, 1)

    def next(self, seen: Tensor, h: Tensor) -> Tensor:
        """Return the next state (batch, hidden), of what the gates see of a frame, (batch, 3 hidden), and the last."""
        reset, update, new = seen.chunk(3, -1)
        reset_again, update_again, new_again = self.again(h).chunk(3, -1)
        keep = torch.sigmoid(update + update_again)
        new = torch.tanh(new + torch.sigmoid(reset + reset_again) * new_again)
        return new + keep * (h - new)

    def kept(self) -> list[tuple[int, ...]]:
        """Return the shape of the state."""
        return [(self.dim,)]

    def advance(self, frame: Tensor, states: States) -> tuple[Tensor, States]:
        """Take the next frame."""
        h = self.next(self.into(frame), states[0])
        return h, (h,)
