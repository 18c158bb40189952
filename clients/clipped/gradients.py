"""Gradients by example, written out only as far as their norms and sums need it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Outer:
    """Gradients of a matrix by example that are products of two vectors.

    Attributes:
        rows: of the outputs, (examples, out).
        columns: of the inputs, (examples, in).
    """

    rows: Tensor
    columns: Tensor

    def whole(self) -> Tensor:
        """Return them written out, (examples, out, in)."""
        return self.rows[:, :, None] * self.columns[:, None, :]

    def squares(self) -> Tensor:
        """Return their squared norms, (examples,), in double precision: one may be as small as the other is large."""
        return self.rows.double().square().sum(1) * self.columns.double().square().sum(1)

    def sums(self, factors: Tensor, owners: Tensor, clients: int) -> Tensor:
        """Return weighted sums by owner, (clients, out, in)."""
        rows = self.rows * factors[:, None]
        if clients == 1:
            return (rows.T @ self.columns)[None]
        parts = torch.bincount(owners, minlength=clients).tolist()
        each = zip(rows.split(parts), self.columns.split(parts), strict=True)
        return torch.stack([own.T @ columns for own, columns in each])


@dataclass
class ChannelsLast:
    """Gradients of filters by example, in the order in which they come.

    Attributes:
        each: (examples, out, height * width * in).
        kernel: height and width.
    """

    each: Tensor
    kernel: tuple[int, int]

    def whole(self) -> Tensor:
        """Return them as filters are, (examples, out, in, height, width)."""
        found: Tensor = self.each.unflatten(2, (*self.kernel, -1)).permute(0, 1, 4, 2, 3)
        return found


Each = Tensor | Outer | ChannelsLast
"""Gradients by example: (examples, ...)."""


def squares(each: Each) -> Tensor:
    """Return the squared norms of gradients by example, (examples,), in double precision."""
    if isinstance(each, Outer):
        return each.squares()
    whole = each.each if isinstance(each, ChannelsLast) else each
    found: Tensor = torch.linalg.vector_norm(whole.reshape(len(whole), -1), dim=1).double().square()
    return found


def sums(each: Each, factors: Tensor, owners: Tensor, clients: int) -> Tensor:
    """Return weighted sums of gradients by owner, (clients, ...); `owners` do not fall."""
    if isinstance(each, Outer):
        return each.sums(factors, owners, clients)
    if isinstance(each, ChannelsLast):
        return ChannelsLast(sums(each.each, factors, owners, clients), each.kernel).whole()
    flat = each.reshape(len(each), -1)
    if clients == 1:
        return (factors @ flat).view(1, *each.shape[1:])
    parts = torch.bincount(owners, minlength=clients).tolist()
    found = [f @ own for f, own in zip(factors.split(parts), flat.split(parts), strict=True)]
    return torch.stack(found).view(clients, *each.shape[1:])


def where(each: Each, kept: Tensor) -> Each:
    """Return gradients by example with zeros for examples that are not kept, (examples,)."""
    if isinstance(each, Outer):
        return Outer(torch.where(kept[:, None], each.rows, 0.0), torch.where(kept[:, None], each.columns, 0.0))
    whole = written_out(each)
    return torch.where(kept.view(-1, *[1] * (whole.dim() - 1)), whole, 0.0)


def written_out(each: Each) -> Tensor:
    """Return gradients by example as they are, (examples, ...)."""
    return each if isinstance(each, Tensor) else each.whole()


def added(parts: list[Each]) -> Each | None:
    """Return the sum of gradients by example of one parameter that was used several times; None of none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return torch.stack([written_out(one) for one in parts]).sum(0)
