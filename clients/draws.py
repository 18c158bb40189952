"""Random layers whose draws belong to one client or example, whoever runs beside it: dropout in vectorised steps."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from edgekit.errors import TrainingError

T = TypeVar("T")
Makes = Callable[[], Sequence[torch.Generator]]
"""Gives a generator for each client (or example) that runs; called when the first layer draws."""


class Draws(TorchFunctionMode):
    """While entered, dropout draws its masks from generators of the rows that run: a client alone, or many under vmap.

    A mask is drawn for as many examples as its row has, so a client sees the same draws alone and beside others. Random
    functions other than dropout have no rule here: under `vmap` torch refuses them.

    Args:
        make: gives the rows' generators.
        sizes: examples of each row, where rows are filled up to the largest; None where none is.
        together: whether rows run under `vmap`; else there is one, of a client alone.
    """

    def __init__(self, make: Makes, sizes: Sequence[int] | None = None, *, together: bool = False) -> None:
        super().__init__()
        self._rows, self._together = _Rows(make, sizes), together

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _WHOLE_CHANNELS:
            return func(*args, **(kwargs or {}))
        x, p, training = _arguments(*args, **(kwargs or {}))
        if not training or p == 0:
            return x
        if not self._together:
            return x * self._rows.mask(0, x.shape, p, _WHOLE_CHANNELS[func])
        together: Callable[..., Tensor] = _Masked.apply
        return together(x, float(p), self._rows, _WHOLE_CHANNELS[func])


class _Rows:
    """Draws masks for rows; arguments as of `Draws`."""

    def __init__(self, make: Makes, sizes: Sequence[int] | None) -> None:
        self._make, self._sizes = once(make), sizes

    def mask(self, row: int, shape: Sequence[int], p: float, channels: int) -> Tensor:
        """Return a row's mask, scaled so that means stay: (batch, ...), zero where a value is dropped.

        Args:
            row: which.
            shape: of its values, with the rows' largest batch first.
            p: chance to be dropped.
            channels: how many trailing dimensions are dropped together.
        """
        size = shape[0] if self._sizes is None else self._sizes[row]
        kept = len(shape) - channels
        drawn = torch.rand((size, *shape[1:kept]), generator=self._make()[row]) >= p
        mask = torch.zeros((shape[0], *shape[1:kept]))
        mask[:size] = drawn / (1 - p) if p < 1 else 0.0
        return mask.reshape(*mask.shape, *[1] * channels)

    def masks(self, rows: int, shape: Sequence[int], p: float, channels: int) -> Tensor:
        """Return all rows' masks, (rows, batch, ...)."""
        return torch.stack([self.mask(row, shape, p, channels) for row in range(rows)])


class _Masked(torch.autograd.Function):
    """Multiplies each row by its own mask under `vmap`, whose operations are differentiated."""

    @staticmethod
    def forward(x: Tensor, p: float, rows: _Rows, channels: int) -> Tensor:
        raise TrainingError("a layer drops values that are the same for all clients: they cannot run together")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: there is no plain call."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, p: float, rows: _Rows, channels: int) -> Any:
        x = x.expand(info.batch_size, *x.shape) if in_dims[0] is None else x.movedim(in_dims[0], 0)
        return x * rows.masks(info.batch_size, x.shape[1:], p, channels), 0


def _arguments(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> tuple[Tensor, float, bool]:
    """Return what dropout is called with, by its own names."""
    return input, p, training


_WHOLE_CHANNELS: dict[Callable[..., Any], int] = {F.dropout: 0, F.dropout1d: 1, F.dropout2d: 2, F.dropout3d: 3}
"""Functions with a rule, and how many trailing dimensions each drops together."""


def generator_of(seed: int) -> torch.Generator:
    """Return a generator of its own."""
    made = torch.Generator()
    made.manual_seed(seed)
    return made


def once(make: Callable[[], T]) -> Callable[[], T]:
    """Return what calls a maker when it is first asked."""
    made: list[T] = []

    def given() -> T:
        if not made:
            made.append(make())
        return made[0]

    return given


def of_examples(generators: Sequence[torch.Generator], sizes: Sequence[int]) -> list[torch.Generator]:
    """Return a generator for each example of clients' steps.

    Args:
        generators: one a client.
        sizes: examples of each.
    """
    made = []
    for generator, size in zip(generators, sizes, strict=True):
        made += [generator_of(seed) for seed in torch.randint(2**62, (size,), generator=generator).tolist()]
    return made


def part_of(generators: Makes, part: slice) -> Sequence[torch.Generator]:
    """Return some of the generators, made when somebody asks."""
    return generators()[part]
