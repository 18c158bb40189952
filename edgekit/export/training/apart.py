"""Gradients of single examples, whatever a network does with its parameters.

Operators know the gradient by one example (`operators`). Any other function that meets the batch and something computed
from parameters runs under `torch.vmap`, example by example, with a copy of the parameter for each: the gradient by a
copy is one example's, whatever the function is. Only such functions pay for it.

Where the batch is in a tensor is not guessed by sizes: the network runs twice before, on batches of two sizes, and the
dimension that differs is the batch's.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.utils._pytree import tree_flatten, tree_unflatten

from edgekit.errors import ExportError
from edgekit.export.training.operators import Gradients, apply
from edgekit.export.training.rewritten import Rewriting
from edgekit.export.training.rules import WEIGHTED, Rules

Forward = Callable[[Tensor], Any]


class Place(NamedTuple):
    """Where a tensor holds the batch.

    Attributes:
        dim: the dimension.
        times: how many entries there one example has, as where (batch, time) was made one dimension.
    """

    dim: int
    times: int


@dataclass(frozen=True)
class Call:
    """One call of a torch function in a forward pass.

    Attributes:
        function: what was called.
        inputs: where each tensor among the arguments holds the batch, None where it does not.
        outputs: likewise of the results.
    """

    function: Any
    inputs: list[Place | None]
    outputs: list[Place | None]


class Copies(Function):
    """A parameter as many times as there are examples; the gradients by them go to `each`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, each: Tensor) -> Tensor:
        """Return (batch, *weight.shape)."""
        return weight.expand(each.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        """Return the gradient by each."""
        return None, g


class Apart(Rules):
    """Rules for one run of a module whose gradients shall be per example.

    Args:
        batch: examples.

    Attributes:
        batch: examples.
        used: the weights that functions used and, one for each, the zeros that stand for them in each example.
    """

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.used: list[tuple[Tensor, Tensor]] = []
        self._calls: list[Call] = []
        self._number = 0
        # What is computed from parameters alone; held, so that no other tensor can get an id of theirs.
        self._derived: dict[int, Tensor] = {}
        self._copies: dict[int, Tensor] = {}

    def prepare(self, forward: Forward, parameters: Iterable[Tensor], x: Tensor) -> None:
        """Find out where each step of a forward pass holds the batch.

        Args:
            forward: what will run, of a batch.
            parameters: that it reads.
            x: (batch, ...), as it will be given; its values are not looked at.
        """
        self._derived = {id(parameter): parameter for parameter in parameters}
        self._calls = _calls(forward, tuple(x.shape[1:]), self.batch)

    def each(self, weight: Tensor) -> Tensor:
        """Return zeros that stand for a weight in each example."""
        zeros = torch.zeros(self.batch, *weight.shape, requires_grad=True)
        if weight.requires_grad:
            self.used.append((weight, zeros))
        return zeros

    def own(self, weight: Tensor) -> Tensor:
        """Return a weight cut off: its gradient reaches it by `each` alone, and what comes otherwise is an error."""
        return weight.detach()

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run a function so that the examples' gradients by what it reads are known."""
        if _is_getter(func) and not _shapes(result := func(*args, **kwargs)):
            return result
        call = self._next(func)
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        if len(tensors) != len(call.inputs):
            raise ExportError("the network does other things for another batch, so no step of it can be traced")
        ours = [id(x) in self._derived for x in tensors]
        batched = [place is not None and not own for place, own in zip(call.inputs, ours, strict=True)]
        if not any(batched) and not any(call.outputs):
            return self._from_parameters(func(*args, **kwargs), any(ours))
        if func not in WEIGHTED or (call.inputs[0] == (0, 1) and batched[0] and not any(batched[1:])):
            result = self.ruled(func, args, kwargs)
            if result is not NotImplemented:
                return result
        if not any(own and x.requires_grad for own, x in zip(ours, tensors, strict=True)) or not call.outputs:
            return func(*args, **kwargs)
        return self._alone(func, leaves, spec, call, batched)

    def _next(self, func: Any) -> Call:
        if self._number >= len(self._calls) or self._calls[self._number].function != func:
            raise ExportError("the network does other things each time it runs, so no step of it can be traced")
        self._number += 1
        return self._calls[self._number - 1]

    def _from_parameters(self, result: Any, derived: bool) -> Any:
        if derived:
            self._derived |= {id(x): x for x in tree_flatten(result)[0] if isinstance(x, Tensor)}
        return result

    def _copied(self, weight: Tensor) -> Tensor:
        """Return a weight for each example, one for all functions that read it."""
        if id(weight) not in self._copies:
            self._copies[id(weight)] = apply(Copies, self.own(weight), self.each(weight))
        return self._copies[id(weight)]

    def _alone(self, func: Any, leaves: list[Any], spec: Any, call: Call, batched: list[bool]) -> Any:
        """Run a function for each example alone, with its own copy of what is computed from parameters."""
        outputs = [place for place in call.outputs if place is not None]
        if len(outputs) < len(call.outputs):
            raise ExportError(f"{_name(func)} mixes the examples of a batch, so no gradient is one example's")
        inputs: list[Tensor] = []
        dims: list[int | None] = []
        where: list[int] = []
        places = iter(zip(call.inputs, batched, strict=True))
        for number, x in enumerate(leaves):
            if not isinstance(x, Tensor):
                continue
            place, is_data = next(places)
            where.append(number)
            if id(x) in self._derived:
                inputs.append(self._copied(x) if x.requires_grad else x)
                dims.append(0 if x.requires_grad else None)
            elif is_data and place is not None:  # with a batch of one, so that the function's own dimensions hold
                inputs.append(x.unflatten(place.dim, (self.batch, place.times)))
                dims.append(place.dim)
            else:
                inputs.append(x)
                dims.append(None)
        made: list[Any] = []
        structure: Any = None

        def one(*parts: Tensor) -> tuple[Tensor, ...]:
            nonlocal structure
            filled = list(leaves)
            for number, part in zip(where, parts, strict=True):
                filled[number] = part
            again, more = tree_unflatten(filled, spec)
            made[:], structure = tree_flatten(func(*again, **more))
            results = [x for x in made if isinstance(x, Tensor)]
            if any(batched):
                return tuple(results)
            # Made of parameters alone, and as long as the batch: each example's part of it.
            return tuple(x.narrow(place.dim, 0, place.times) for x, place in zip(results, outputs, strict=True))

        try:
            results = torch.vmap(one, tuple(dims))(*inputs)
        except Exception as error:  # torch.func raises many kinds
            line = " ".join(str(error).split())[:120] or type(error).__name__
            raise ExportError(
                f"{_name(func)} cannot run on single examples, so the gradient by one is not known ({line}): leave "
                "train_dp out (edgekit export --no-private)"
            ) from error
        found = iter(
            x.movedim(0, place.dim).flatten(place.dim, place.dim + 1) for x, place in zip(results, outputs, strict=True)
        )
        return tree_unflatten([next(found) if isinstance(x, Tensor) else x for x in made], structure)


def _calls(forward: Forward, shape: tuple[int, ...], batch: int) -> list[Call]:
    """Run a forward pass on batches of two sizes, and tell where each call holds the batch."""
    sizes = (batch + 1, batch + 2)
    runs = [_recorded(forward, torch.zeros(size, *shape)) for size in sizes]
    if [function for function, *_ in runs[0]] != [function for function, *_ in runs[1]]:
        raise ExportError("the network does other things for another batch, so no step of it can be traced")
    return [
        Call(function, _places(inputs, others[1], sizes, function), _places(outputs, others[2], sizes, function))
        for (function, inputs, outputs), others in zip(*runs, strict=True)
    ]


Shapes = list[tuple[int, ...]]


class _Recorder(Rewriting):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Shapes, Shapes]] = []

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        inputs = _shapes((args, kwargs))
        result = func(*args, **kwargs)
        if not _is_getter(func) or _shapes(result):
            self.calls.append((func, inputs, _shapes(result)))
        return result


def _recorded(forward: Forward, x: Tensor) -> list[tuple[Any, Shapes, Shapes]]:
    recorder = _Recorder()
    with disable_proxy_modes_tracing(), torch.no_grad(), recorder:
        forward(x)
    return recorder.calls


def _is_getter(func: Any) -> bool:
    """Whether it reads an attribute; those that are no tensors are read as modules please, once or again."""
    return getattr(func, "__name__", "") == "__get__"


def _shapes(tree: Any) -> Shapes:
    return [tuple(x.shape) for x in tree_flatten(tree)[0] if isinstance(x, Tensor)]


def _places(one: Shapes, other: Shapes, sizes: tuple[int, int], func: Any) -> list[Place | None]:
    return [_place(a, b, sizes, func) for a, b in zip(one, other, strict=True)]


def _place(one: tuple[int, ...], other: tuple[int, ...], sizes: tuple[int, int], func: Any) -> Place | None:
    """Return where a tensor holds the batch, by its shapes for two batches' sizes."""
    if one == other:
        return None
    differ = [dim for dim, (a, b) in enumerate(zip(one, other, strict=False)) if a != b]
    if len(one) == len(other) and len(differ) == 1:
        a, b = one[differ[0]], other[differ[0]]
        if a % sizes[0] == 0 and b == a // sizes[0] * sizes[1]:
            return Place(differ[0], a // sizes[0])
    raise ExportError(f"{_name(func)} mixes the examples of a batch, so no gradient is one example's")


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", func))
