"""Structured pruning: whole channels go, and tensors shrink for real (Fang et al. 2023, DepGraph, by torch-pruning).

Weight standardisation is folded before, since it normalises what would be cut. A network is rebuilt from its history
of cuts.
"""

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgekit.arrays import is_of
from edgekit.errors import MissingExtraError, ModelError
from edgekit.models.cost import macs

STEPS, MOST_RATIO = 40, 0.95
"""In which channels go, the least important first; share of a layer's that may go in all of them."""
MOST_TRIES = 12
"""Blocks that are left whole, one after the other, where cutting them breaks a network."""
History = list[list[Any]]
"""Of cuts in their order: a layer's name, whether its outputs (or its inputs) were cut, and which."""


def check() -> None:
    """See that channels can be cut here, before hours are spent.

    Raises:
        MissingExtraError: torch-pruning is not installed.
    """
    _library()


def cut(model: nn.Module, shape: tuple[int, ...], share: float, keep: Sequence[str] = ()) -> tuple[nn.Module, History]:
    """Return a copy with less channels, and what was cut.

    Which go is told by the l2 norm of all weights that belong to a channel, over the layers that must agree, relative
    to the layer's mean (Fang et al. 2023, section 3.3). No example is looked at.

    Args:
        model: the network, without weight standardisation.
        shape: of one example.
        share: of the multiply-adds, how many may stay.
        keep: layers that keep their channels; `*` and `?` stand for others (fnmatch).

    Raises:
        MissingExtraError: torch-pruning is not installed.
        ModelError: it cannot be cut so far; the message says how far.
    """
    whole: list[str] = []
    for _ in range(MOST_TRIES):
        try:
            return _cut(copy.deepcopy(model), shape, share, [*keep, *whole])
        except _BrokenError as error:
            if error.place in whole or not error.place:
                break
            whole += [error.place, f"{error.place}.*"]
    raise ModelError(
        f"{type(model).__name__}: its channels cannot be cut (torch-pruning breaks {_where(whole)}): use "
        "compression.prune.kind = 'weights', or leave layers whole by compression.prune.keep"
    )


def _where(whole: Sequence[str]) -> str:
    return repr(whole[-2]) if whole else "it as a whole"


def rebuilt(model: nn.Module, shape: tuple[int, ...], history: History) -> nn.Module:
    """Cut a network of the same form again, as it was cut before; it is changed.

    Raises:
        MissingExtraError: torch-pruning is not installed.
        ModelError: the history is not of this network.
    """
    pruning = _library()
    try:
        graph = _quietly(lambda: pruning.DependencyGraph().build_dependency(_AsTrained(model), _example(shape)))
        graph.load_pruning_history(history)
    except Exception as error:  # a history of somebody else's may hold anything
        raise ModelError(f"the cuts do not fit the network: {' '.join(str(error).split())[:200]}") from None
    _freed(model)
    return model


class _BrokenError(Exception):
    """A network no longer runs.

    Attributes:
        place: the block in which it stops.
    """

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


def _cut(model: nn.Module, shape: tuple[int, ...], share: float, keep: Sequence[str]) -> tuple[nn.Module, History]:
    pruning = _library()
    example, before = _example(shape), macs(model, shape)
    with torch.no_grad():
        outputs = _AsTrained(model)(example).shape
    layers = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) and (is_of(name, keep) or _gives(layer, outputs))
    ]
    try:
        pruner = _quietly(
            lambda: pruning.pruner.BasePruner(
                _AsTrained(model),
                example,
                importance=pruning.importance.GroupMagnitudeImportance(p=2),
                iterative_steps=STEPS,
                pruning_ratio=MOST_RATIO,
                max_pruning_ratio=MOST_RATIO,
                ignored_layers=layers,
                global_pruning=True,
            )
        )
    except Exception:
        raise _BrokenError("") from None
    for _ in range(STEPS):
        found = macs(model, shape)
        if found <= share * before:
            break
        try:
            _quietly(pruner.step)
        except Exception:
            raise _BrokenError("") from None
        _check(model, example, outputs)
    if (found := macs(model, shape)) > share * before:
        least = math.ceil(100 * found / before) / 100
        raise ModelError(
            f"{type(model).__name__}: no more than {100 * (1 - found / before):.0f} % of its multiply-adds can be cut "
            f"by channels: set compression.prune.macs to {least:.2f} or more, or prune weights"
        )
    _freed(model)
    history = [[name, bool(out), [int(place) for place in places]] for name, out, places in pruner.DG.pruning_history()]
    return model, history


def _gives(layer: nn.Module, outputs: torch.Size) -> bool:
    """Whether a layer may be one that gives the network's answer, whose size stays."""
    size = getattr(layer, "out_features", getattr(layer, "out_channels", 0))
    return size in (outputs[1], outputs[-1])


def _check(model: nn.Module, example: Tensor, outputs: torch.Size) -> None:
    with _followed(model) as entered:
        try:
            with torch.no_grad():
                found = _AsTrained(model)(example).shape
        except Exception:
            raise _BrokenError(entered[-1] if entered else "") from None
    if found != outputs:
        raise _BrokenError("")


@contextmanager
def _followed(model: nn.Module) -> Iterator[list[str]]:
    """Give the blocks, the outer before the inner, that a forward has entered and not left."""
    entered: list[str] = []
    handles = []
    for name, layer in model.named_modules():
        if name and any(True for _ in layer.children()) and not isinstance(layer, nn.Sequential | nn.ModuleList):
            handles.append(layer.register_forward_pre_hook(lambda _, __, name=name: entered.append(name)))
            handles.append(layer.register_forward_hook(lambda _, __, ___: entered.pop() and None))
    try:
        yield entered
    finally:
        for handle in handles:
            handle.remove()


class _AsTrained(nn.Module):
    """Lets a network give all that it trains by, such as its early exits' answers, whatever asks it to be in use."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        self.model.train()
        for layer in self.model.modules():
            if isinstance(layer, _BatchNorm | nn.Dropout):  # statistics stay as they are
                layer.eval()
        found: Tensor = self.model(x)
        return found


def _freed(model: nn.Module) -> None:
    """Let parameters be leaves of their own, as those of a new network are."""
    for layer in model.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            setattr(layer, name, nn.Parameter(parameter.detach().clone().contiguous(), parameter.requires_grad))


def _example(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))


def _quietly(work: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return work()


def _library() -> Any:
    try:
        return _quietly(lambda: __import__("torch_pruning"))
    except ImportError:
        raise MissingExtraError("torch-pruning", "compress") from None
