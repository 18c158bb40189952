"""A gated recurrent unit (Cho et al. 2014, section 2.3), a frame at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekit.models.norm import Norm
from edgekit.models.sequence import frames, sequence_shape


class GRU(nn.Module):
    """One recurrent layer, written out, so that it is trained and delivered as everything else; its states' mean is
    read out.

        r = s(W_r x + U_r h), z = s(W_z x + U_z h), n = tanh(W_n x + r U_n h), h' = (1 - z) n + z h

    Args:
        shape: (channels, features, time) or (features, time).
        classes: scores to give.
        norm: not read.
        width: multiplies `hidden`.
        hidden: numbers of the state.

    Raises:
        ModelError: the examples are no sequences.
    """

    inputs = ("audio", "sequence")
    own_scale = True

    def __init__(
        self, shape: Sequence[int], classes: int, *, norm: Norm = "none", width: float = 1.0, hidden: int = 64
    ) -> None:
        super().__init__()
        _, features = sequence_shape(shape, "gru")
        self.hidden = max(4, round(hidden * width))
        self.into, self.again = nn.Linear(features, 3 * self.hidden), nn.Linear(self.hidden, 3 * self.hidden)
        for parameter in (*self.into.parameters(), *self.again.parameters()):  # as torch's own
            nn.init.uniform_(parameter, -(self.hidden**-0.5), self.hidden**-0.5)
        self.readout = nn.Linear(self.hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ..., time) to scores (batch, classes)."""
        seen = self.into(frames(x))
        h = torch.zeros_like(seen[:, 0, : self.hidden])
        states = []
        for frame in range(seen.shape[1]):
            reset, update, new = seen[:, frame].chunk(3, -1)
            reset_again, update_again, new_again = self.again(h).chunk(3, -1)
            keep = torch.sigmoid(update + update_again)
            new = torch.tanh(new + torch.sigmoid(reset + reset_again) * new_again)
            h = new + keep * (h - new)
            states.append(h)
        scores: Tensor = self.readout(torch.stack(states, 1).mean(1))
        return scores
