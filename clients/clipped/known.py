"""Whether a network is made of nothing but what is known: only such networks are run with many examples at once.

What torch functions show of a forward pass is not all that it does: a backward pass of one's own, a scripted function
or a branch on the batch's size can mix examples unseen. So no code but ours and torch's own layers may take part.
"""

import sys
from collections.abc import Callable, Iterable
from functools import partial
from types import MethodType
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

OURS = "edgekit."
LAYERS = frozenset({
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding,
    nn.GroupNorm, nn.LayerNorm, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
    nn.Flatten, nn.ZeroPad2d,
})  # fmt: skip
"""Of torch's, that treat each example by itself and draw nothing."""


def is_known(model: nn.Module) -> bool:
    """Whether all of a network's modules, and what is hooked to them, are ours or torch's own."""
    if torch_module._has_any_global_hook():
        return False
    return all(_is_layer(layer) and all(map(_is_ours, _hooks(layer))) for layer in model.modules())


def _is_layer(layer: nn.Module) -> bool:
    kind = type(layer)
    if "forward" in vars(layer):
        return False
    return kind in LAYERS or _is_own_class(kind)


def _is_own_class(kind: type) -> bool:
    """Whether a class is one of ours, and not somebody's of the same name."""
    if not kind.__module__.startswith(OURS):
        return False
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is kind


def _hooks(layer: nn.Module) -> Iterable[Callable[..., Any]]:
    for name, held in vars(layer).items():
        if name.endswith("_hooks") and isinstance(held, dict):
            yield from held.values()


def _is_ours(hook: Callable[..., Any]) -> bool:
    while isinstance(hook, partial):
        hook = hook.func
    if isinstance(hook, MethodType):
        return _is_own_class(type(hook.__self__))
    return getattr(hook, "__module__", "").startswith(OURS)
