"""Quantisation-aware training: a network that rounds where its integer file will (Jacob et al. 2018, section 3).

Rounding is done around the functions that a forward pass calls, by their number, so that no layer has to be rewritten:
whatever trains a network trains this one. Gradients pass as if nothing were rounded, inside the range alone
(straight-through, Bengio et al. 2013).
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgekit.errors import ModelError

LOW, HIGH = -128, 127
FIXED = ((1 / 256, LOW), (1 / 128, 0))
"""Scale and zero point that the format prescribes, for what ends in a sigmoid, a softmax or a tanh."""
LAYERS = ("conv1d", "conv2d", "linear")
"""Functions whose second argument is a weight."""
LEAST_SCALE, MOST_CALLS = 1e-30, 100_000
"""Of a plan that is read."""
LEAST = 1e-3
"""Of what a learnt range is multiplied with."""


@dataclass(frozen=True)
class Call:
    """What is rounded at one call of a function.

    Attributes:
        name: of the function.
        number: of the call, among those of this function that give floats: what else a trainer does between them, as
            putting sparse weights into their places, does not matter.
        bits: of its second argument, a weight; 0 leaves it.
        each: whether each of the weight's rows has a scale, or all one.
        reads: number of the grid of its first argument; -1 leaves it.
        writes: of what it gives.
    """

    name: str
    number: int
    bits: int = 0
    each: bool = True
    reads: int = -1
    writes: int = -1

    @property
    def sound(self) -> bool:
        """Whether it is a call at all; of another program's file it may hold anything."""
        counted = type(self.name) is str and type(self.number) is int and self.number >= 0 and type(self.each) is bool
        layer = self.name in LAYERS or (self.bits == 0 and self.reads == -1)
        return counted and type(self.bits) is int and self.bits in (0, 4, 8) and layer


@dataclass(frozen=True)
class Plan:
    """Where a network rounds, and to what.

    Attributes:
        grids: scale and zero point of int8, each.
        calls: at which functions.
        given: number of the grid of the network's input; -1 leaves it.
    """

    grids: tuple[tuple[float, int], ...] = ()
    calls: tuple[Call, ...] = ()
    given: int = -1

    def told(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Plan":
        """Return what plain data tells.

        Raises:
            ModelError: it is no plan.
        """
        try:
            grids = tuple((float(scale), int(zero)) for scale, zero in told["grids"])
            calls = tuple(Call(**one) for one in told["calls"])
            used = [int(told["given"]), *(place for call in calls for place in (call.reads, call.writes))]
            sound = all(LEAST_SCALE < scale < 1 / LEAST_SCALE and LOW <= zero <= HIGH for scale, zero in grids)
            sound &= len(calls) <= MOST_CALLS and all(call.sound for call in calls)
            sound &= all(type(place) is int and -1 <= place < len(grids) for place in used)
            sound &= len({(call.name, call.number) for call in calls}) == len(calls)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"where the network rounds is not told: {error}") from None
        if not sound:
            raise ModelError("where the network rounds is told with numbers that cannot be")
        return cls(grids, calls, int(told["given"]))


@dataclass(frozen=True)
class Integers:
    """What a network was trained to compute with, an attribute `integers` of it.

    Attributes:
        format: the preset.
        grids: scale and zero point, by names of the tensors of its float32 file.
    """

    format: str
    grids: Mapping[str, tuple[float, int]]


def integers_of(model: nn.Module) -> Integers | None:
    """Return what a network was trained to compute with; None if it was not."""
    return getattr(model, "integers", None)


Key = tuple[str, int]
"""A function's name, and the number of the call."""


class Counting(TorchFunctionMode):
    """While entered, calls of functions that give floats are counted, by the function's name."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, int] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        key = (func.__name__, self._counts.get(func.__name__, 0))
        given = self.called(key, func, args, kwargs or {})
        if isinstance(given, Tensor) and given.is_floating_point():
            self._counts[func.__name__] = key[1] + 1
        return given

    def called(self, key: Key, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what the function gives; `key` is its name and the number of the call, should it be counted."""
        raise NotImplementedError


class Rounding(Counting):
    """While entered, what functions read and write is rounded as a plan says.

    Args:
        plan: where.
        stretch: by which the grids' scales are multiplied, (grids,); None leaves them.
    """

    def __init__(self, plan: Plan, stretch: Tensor | None = None) -> None:
        super().__init__()
        self._plan, self._stretch = plan, stretch
        self._calls = {(call.name, call.number): call for call in plan.calls}
        self.done = 0

    def called(self, key: Key, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Round, call, round."""
        call = self._calls.get(key)
        if call is None:
            return func(*args, **kwargs)
        if call.reads >= 0:
            args = (self.rounded(args[0], call.reads), *args[1:])
        if call.bits:
            args = (args[0], rounded_weight(args[1], call.bits, call.each), *args[2:])
        given = func(*args, **kwargs)
        if not (isinstance(given, Tensor) and given.is_floating_point()):  # of integers, which are not counted
            return given
        self.done += 1
        return given if call.writes < 0 else self.written(call, self.rounded(given, call.writes))

    def rounded(self, x: Tensor, grid: int) -> Tensor:
        """Return numbers on a grid; gradients pass inside its range, and to its scale as Esser et al. 2020 have it."""
        scale, zero = self._plan.grids[grid]
        whole: Any = scale
        if self._stretch is not None and (scale, zero) not in FIXED:
            own, damped = self._stretch[grid], 1 / math.sqrt(max(1, x.numel()) * HIGH)
            own = own * damped + (own - own * damped).detach()
            whole = scale * own.clamp(min=LEAST)
        # One bound at a time: the gradient of both at once has no form in training graphs.
        steps = (x / whole).clamp(min=LOW - zero).clamp(max=HIGH - zero)
        made: Tensor = (steps + (torch.round(steps) - steps).detach()) * whole
        return made

    def written(self, call: Call, given: Tensor) -> Tensor:
        """Return what a call gives, rounded."""
        return given


def rounded_weight(weight: Tensor, bits: int, each: bool = True) -> Tensor:
    """Return a weight, (rows, ...), on the symmetric grid that holds its largest number; gradients pass unchanged."""
    top = 2 ** (bits - 1) - 1
    now = weight.detach()
    largest = now.abs().flatten(1).amax(1) if each else now.abs().amax().expand(len(now))
    scale = (largest.clamp(min=1e-30) / top).reshape(-1, *[1] * (now.dim() - 1))
    made: Tensor = weight + (torch.round(now / scale) * scale - now)
    return made


class _Quantised(nn.Module):
    """Mixed into a network: it rounds as its plan says."""

    plan: Plan
    stretch: Tensor | None

    def forward(self, x: Tensor, *others: Any) -> Any:
        """Return what the network gives, computed on the grids."""
        mode = Rounding(self.plan, self.stretch)
        if self.plan.given >= 0:
            x = mode.rounded(x, self.plan.given)
        with mode:
            y = super().forward(x, *others)
        if mode.done != len(self.plan.calls):
            raise ModelError(f"the network rounds at {len(self.plan.calls)} places, and came by {mode.done} of them")
        return y


def quantised(model: nn.Module, plan: Plan, learnt: bool = False) -> nn.Module:
    """Return a copy of a network that rounds.

    Args:
        model: the network; its parameters keep their names.
        plan: where it rounds.
        learnt: whether the ranges are trained too: a parameter `stretch` multiplies the scales.
    """
    made: Any = copy.deepcopy(plain(model))
    kind = type(made)
    made.__class__ = type(f"Quantised{kind.__name__}", (_Quantised, kind), {})
    made.plan, made.stretch = plan, None
    if learnt:
        del made.stretch
        made.stretch = nn.Parameter(torch.ones(len(plan.grids)))
    return made  # type: ignore[no-any-return]


def plan_of(model: nn.Module) -> Plan | None:
    """Return where a network rounds, its learnt ranges included; None if it does not."""
    if not isinstance(model, _Quantised):
        return None
    if model.stretch is None:
        return model.plan
    stretches = model.stretch.detach().clamp(min=LEAST).tolist()
    grids = tuple(
        (scale, zero) if (scale, zero) in FIXED else (scale * own, zero)
        for (scale, zero), own in zip(model.plan.grids, stretches, strict=True)
    )
    return Plan(grids, model.plan.calls, model.plan.given)


def plain(model: nn.Module) -> nn.Module:
    """Return the network without its rounding, and with the numbers that it has been trained with."""
    if not isinstance(model, _Quantised):
        return model
    made: Any = copy.deepcopy(model)
    made.__class__ = type(made).__mro__[2]
    del made.plan, made.stretch
    return made  # type: ignore[no-any-return]


def on_grid(model: nn.Module, x: Tensor) -> nn.Module:
    """Return the plain network with its weights rounded: an integer file of them has the very same.

    Args:
        model: a network that rounds; its layers own their weights.
        x: an example, (1, ...).
    """
    plan = plan_of(model)
    made = plain(model)
    if plan is None:
        return made
    handles = []
    with torch.no_grad():
        mode = _Settling(plan, list(made.parameters()))
        for layer in made.modules():
            if hasattr(layer, "settle"):
                handles.append(layer.register_forward_pre_hook(lambda layer, _: mode.entered(layer)))
        with mode:
            made.eval()(x)
    for handle in handles:
        handle.remove()
    return made


class _Settling(Counting):
    """While entered, weights that a plan rounds are rounded in their place."""

    def __init__(self, plan: Plan, owned: Sequence[Tensor]) -> None:
        super().__init__()
        self._calls, self._owned = {(call.name, call.number): call for call in plan.calls if call.bits}, owned
        self._seen: set[int] = set()
        self._inside: Any = None

    def entered(self, layer: nn.Module) -> None:
        """Hear which layer runs that computes its weight of fewer numbers, and takes it back by `settle`."""
        self._inside = layer

    def called(self, key: Key, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Round a weight, and call."""
        call = self._calls.get(key)
        if call is not None and id(args[1]) not in self._seen:
            own = any(one is args[1] for one in self._owned)
            made = rounded_weight(args[1].detach(), call.bits, call.each)
            if own:
                self._seen.add(id(args[1]))
                args[1].data.copy_(made)
            elif self._inside is not None:
                self._inside.settle(made)
            self._inside = None
        return func(*args, **kwargs)
