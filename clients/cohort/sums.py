"""Clipped sums of a cohort's examples: in passes over those that share their weights, where a pass is worth it."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.clients.clipped.sums import ClippedSums
from edgekit.clients.cohort.vectorised import Vectorised
from edgekit.clients.draws import Makes, once
from edgekit.clients.per_example import fits_at_once
from edgekit.data.federated import Integers

WORTH_A_PASS = 16
"""Examples of one client a step, from which on a pass of its own is faster than steps of all clients together."""


class PrivateSums:
    """Takes the clipped sums of a cohort's clients.

    Args:
        model: the network; it is copied.
        network: the same for many clients together.
        memory_bytes: bound on what gradients by example may take at once.
    """

    def __init__(self, model: nn.Module, network: Vectorised, memory_bytes: int) -> None:
        self._model, self._network, self._passes = model, network, ClippedSums(model, memory_bytes)

    def __call__(
        self,
        stacked: Sequence[Tensor],
        owners: Integers,
        x: Tensor,
        y: Tensor,
        clip: float,
        each: Makes,
        expected: Sequence[float] | None,
    ) -> list[Tensor]:
        """Return each client's clipped sum, (clients, ...).

        Args:
            stacked: weights, (clients, ...) each.
            owners: each example's client, (examples,); they do not fall.
            x: (examples, ...).
            y: labels, (examples, ...).
            clip: largest norm.
            each: gives each example's random numbers, for layers that draw.
            expected: examples that each client has in a step on average; None where all share their weights.
        """
        rows, clients = torch.from_numpy(owners.astype(np.int64)), len(stacked[0])
        fits = fits_at_once(self._model, x.shape[1:])
        if fits and expected is None:
            return self._passes.sums([tensor[0] for tensor in stacked], rows, clients, x, y, clip)
        # By a client's expected number alone: its bits depend neither on the others nor on what was drawn.
        worth = np.array([fits and one >= WORTH_A_PASS for one in expected or [0.0] * clients])
        sums = [torch.zeros_like(tensor) for tensor in stacked]
        for row in np.flatnonzero(worth):
            place = rows == int(row)
            nobody = torch.zeros(int(place.sum()), dtype=torch.int64)
            found = self._passes.sums([tensor[row] for tensor in stacked], nobody, 1, x[place], y[place], clip)
            for total, one in zip(sums, found, strict=True):
                total[row] = one[0]
        if not worth.all():
            rest = torch.from_numpy(~worth[owners])
            generators = once(lambda: [one for one, kept in zip(each(), rest.tolist(), strict=True) if kept])
            alone = self._network.clipped_sums(stacked, rows[rest], x[rest], y[rest], clip, generators)
            torch._foreach_add_(sums, alone)
        return sums
