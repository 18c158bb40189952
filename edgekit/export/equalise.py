"""Cross-layer equalisation: channels of like ranges lose less as integers (Nagel et al. 2019, section 4.1).

relu(s x) = s relu(x) for s > 0, so a channel that one layer divides by s, the next may multiply by s: the network's
answers stay, the ranges do not.
"""

import copy
from collections import Counter
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn

FIRST = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.GroupNorm)
"""Layers whose last step is a weight and a bias of each channel."""
NEXT = (nn.Conv1d, nn.Conv2d, nn.Linear)
BETWEEN = (nn.ReLU, nn.Identity, nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d)
"""Layers through which a positive scale of a channel passes."""
ROUNDS = 20
SMALLEST, LARGEST = 1e-2, 1e2
"""Of scales; beyond them a channel is off, or nothing is won."""


def equalised(model: nn.Module) -> tuple[nn.Module, int]:
    """Return a copy of a network with the same answers and like ranges, and how many pairs of layers were changed.

    A pair is two layers of which the second alone reads the first, behind ReLUs and poolings; the scale of channel i is
    sqrt(r1_i r2_i) / r2_i with r the largest weights (equation 11). Networks that torch.fx cannot trace stay as they
    are.

    Args:
        model: the trained network.
    """
    model = copy.deepcopy(model).eval()
    try:
        graph = torch.fx.symbolic_trace(model).graph
    except Exception:  # a forward may do whatever it likes
        return model, 0
    modules = dict(model.named_modules(remove_duplicate=False))
    shared = _used_elsewhere(graph, modules)
    pairs = [pair for node in graph.nodes if (pair := _pair(node, modules)) is not None]
    pairs = [pair for pair in pairs if not {id(layer) for layer in pair} & shared]
    changed: set[int] = set()
    for _ in range(ROUNDS):  # each pair moves the ones beside it
        moved = {number for number, pair in enumerate(pairs) if _equalise(*pair)}
        changed |= moved
        if not moved:
            break
    return model, len(changed)


def _used_elsewhere(graph: torch.fx.Graph, modules: dict[str, nn.Module]) -> set[int]:
    """Return layers that are called more than once, or whose numbers something else reads."""
    calls = Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    read = [str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"]
    found = {layer for layer, times in calls.items() if times > 1} | {id(modules[name]) for name in read}
    owners: dict[int, set[int]] = {}
    for layer in modules.values():
        for parameter in layer.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(layer))
    return found | {layer for layers in owners.values() if len(layers) > 1 for layer in layers}


def _pair(node: torch.fx.Node, modules: dict[str, nn.Module]) -> tuple[Any, Any] | None:
    """Return a layer and the one that alone reads it, where a channel's scale passes from one to the other."""
    first = _layer(node, modules)
    if not isinstance(first, FIRST) or first.weight is None:
        return None
    while len(node.users) == 1:
        (node,) = node.users
        layer = _layer(node, modules)
        if isinstance(layer, NEXT):
            return (first, layer) if _channels_in(layer) == len(first.weight) else None
        if not isinstance(layer, BETWEEN) and node.target not in (torch.relu, nn.functional.relu, "relu"):
            return None
    return None


def _layer(node: torch.fx.Node, modules: dict[str, nn.Module]) -> nn.Module | None:
    return modules.get(str(node.target)) if node.op == "call_module" else None


def _channels_in(layer: Any) -> int:
    if isinstance(layer, nn.Linear):
        return layer.in_features
    depthwise = layer.groups == layer.in_channels == layer.out_channels
    return int(layer.in_channels) if layer.groups == 1 or depthwise else -1


@torch.no_grad()
def _equalise(first: Any, second: Any) -> bool:
    reads = second.weight if _is_depthwise(second) else second.weight.transpose(0, 1)
    ranges = [weight.abs().flatten(1).amax(1) for weight in (first.weight.reshape(len(first.weight), -1), reads)]
    both = ranges[0] * ranges[1]
    scale: Tensor = torch.where(both > 0, ranges[0] / both.sqrt().clamp(min=1e-30), torch.ones_like(both))
    scale = scale.clamp(SMALLEST, LARGEST)  # by which the first layer is divided
    if torch.allclose(scale, torch.ones_like(scale), rtol=1e-3):
        return False
    first.weight /= _along(scale, first.weight)
    if first.bias is not None:
        first.bias /= scale
    if _is_depthwise(second):
        second.weight *= _along(scale, second.weight)
    else:
        second.weight *= scale.reshape(1, -1, *[1] * (second.weight.dim() - 2))
    return True


def _is_depthwise(layer: Any) -> bool:
    return not isinstance(layer, nn.Linear) and layer.groups > 1


def _along(scale: Tensor, weight: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (weight.dim() - 1))
