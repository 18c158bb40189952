"""Sums of single examples' clipped gradients where all examples share one set of weights: a pass over the batch."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgekit.clients.clipped.gradients import Each, squares, sums, where
from edgekit.clients.clipped.rows import MeetError, Rows
from edgekit.objectives import objective_of
from edgekit.privacy.tensors import shortened

MOST_AT_ONCE = 256
"""Examples; more gain nothing, and what is written out of them leaves the cache."""


class ClippedSums:
    """Takes clipped sums of a network's gradients in passes over many examples.

    Args:
        model: the network; it is copied.
        memory_bytes: bound on what gradients by example may take at once.
    """

    def __init__(self, model: nn.Module, memory_bytes: int = 512 << 20) -> None:
        self.model = copy.deepcopy(model).train()
        self.names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self._at_once = max(1, min(MOST_AT_ONCE, memory_bytes // (12 * max(1, weights))))

    def sums(
        self, weights: Sequence[Tensor], owners: Tensor, clients: int, x: Tensor, y: Tensor, clip: float
    ) -> list[Tensor]:
        """Return, for each client, the sum of its examples' gradients, each clipped to l2 norm `clip`.

        An example whose gradient is not finite counts as zero, as of `privacy.tensors.clipped`.

        Args:
            weights: of the trained parameters, in the order of `names`, shared by all.
            owners: each example's client, (examples,); they do not fall.
            clients: how many.
            x: (examples, ...).
            y: labels, (examples, ...).
            clip: largest norm.

        Returns:
            (clients, ...) each.

        Raises:
            Exception: MeetError, or whatever torch raises; the network is none that can be run so.
        """
        found = [w.new_zeros(clients, *w.shape) for w in weights]
        for first in range(0, len(y), self._at_once):
            part = slice(first, first + self._at_once)
            for total, one in zip(
                found, self._part(weights, owners[part], clients, x[part], y[part], clip), strict=True
            ):
                if one is not None:
                    total += one
        return found

    def _part(
        self, weights: Sequence[Tensor], owners: Tensor, clients: int, x: Tensor, y: Tensor, clip: float
    ) -> list[Tensor | None]:
        own = [w.detach().clone().requires_grad_() for w in weights]
        given, x = x, x.detach().clone()  # a network may change what it is given
        rows = Rows(x)
        with torch.enable_grad():
            with rows:
                scores = functional_call(self.model, dict(zip(self.names, own, strict=True)), (x,))
            if not rows.is_data(scores):
                raise MeetError("the network gives no scores by example")
            loss = objective_of(self.model).each(scores, y, given).sum()
            each = rows.gradients(loss, own)
        with torch.no_grad():
            return _clipped_sums(each, clip, owners, clients, x)


def _clipped_sums(
    each: Sequence[Each | None], clip: float, owners: Tensor, clients: int, x: Tensor
) -> list[Tensor | None]:
    there = [one for one in each if one is not None]
    if not there:
        return [None] * len(each)
    norms = torch.stack([squares(one) for one in there]).sum(0)
    factors, finite = shortened(norms, clip)
    factors = factors.to(x.dtype)
    if not bool(finite.all()):  # what is not finite is no product with zero
        each = [None if one is None else where(one, finite) for one in each]
    return [None if one is None else sums(one, factors, owners, clients) for one in each]
