"""Unstructured sparsity: layers whose weights are mostly zeros that stay, and which weights those are.

A sparse layer's parameter is the vector of the weights that are kept. So what clients send, what is clipped and noised,
and what an optimiser remembers are these alone, whatever trains: a cohort, a private step, a training graph.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.arrays import is_of
from edgekit.errors import ModelError

PRUNED = (nn.Linear, nn.Conv1d, nn.Conv2d)
"""Kinds of layers whose weights can be zeros; those of others stay dense."""
LEAST_INPUTS = 16
"""Of an output, below which a layer stays dense: depthwise and first convolutions, which have few weights and mind most
(Zhu and Gupta 2017, section 4.2)."""
Masks = Mapping[str, Tensor]
"""By layer, which weights stay: bool, of the weight's shape."""


class _Placed(torch.autograd.Function):
    """Puts kept weights into their places among zeros; both ways are gathers, which every runtime has."""

    generate_vmap_rule = True

    @staticmethod
    def forward(kept: Tensor, place: Tensor, taken: Tensor) -> Tensor:
        """Return the dense weights, flat.

        Args:
            kept: (weights kept,).
            place: of each weight in `kept`, its length for those that are zero, (weights,).
            taken: of each kept weight among all, (weights kept,).
        """
        return torch.cat([kept, kept.new_zeros(1)]).index_select(0, place)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep what the way back needs."""
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Take the gradient of the kept weights out of that of all."""
        (taken,) = ctx.saved_tensors
        return gradient.index_select(0, taken), None, None


class Sparse(nn.Module):
    """A linear layer or convolution of which some weights are trained, and the others are zero.

    Args:
        layer: a plain layer; its bias stays.
        mask: which weights stay, bool, of the weight's shape.

    Raises:
        ModelError: none would.
    """

    place: Tensor
    taken: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d, mask: Tensor) -> None:
        super().__init__()
        if not mask.any():
            raise ModelError("a layer of zeros alone gives the same for every example")
        flat = mask.flatten()
        taken = flat.nonzero().flatten()
        place = torch.full((flat.numel(),), len(taken))
        place[taken] = torch.arange(len(taken))
        self.kept = nn.Parameter(layer.weight.detach().flatten()[taken].clone())
        self.register_buffer("place", place)
        self.register_buffer("taken", taken)
        self.size = tuple(layer.weight.shape)
        self.layer = copy.deepcopy(layer)
        self.layer.weight = None  # type: ignore[assignment]

    @property
    def weight(self) -> Tensor:
        """The dense weight, with its zeros."""
        placed: Tensor = _Placed.apply(self.kept, self.place, self.taken)  # type: ignore[no-untyped-call]
        return placed.reshape(self.size)

    @property
    def mask(self) -> Tensor:
        """Which weights are kept, bool."""
        return (self.place < len(self.taken)).reshape(self.size)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer it was made of."""
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, self.weight, self.layer.bias)
        convolved: Tensor = self.layer._conv_forward(x, self.weight, self.layer.bias)
        return convolved

    def settle(self, weight: Tensor) -> None:
        """Take a dense weight's numbers, those that are kept."""
        self.kept.data.copy_(weight.flatten()[self.taken])

    def dense(self) -> nn.Module:
        """Return an ordinary layer, with zeros."""
        made = copy.deepcopy(self.layer)
        made.weight = nn.Parameter(self.weight.detach().clone())
        return made


def sparse(model: nn.Module, masks: Masks) -> nn.Module:
    """Return a copy of a network whose layers named have sparse weights.

    Raises:
        ModelError: a layer would have no weight left.
    """
    made = dense(model)
    for name, mask in masks.items():
        try:
            layer: Any = made.get_submodule(name)
            put(made, name, Sparse(layer, mask))
        except ModelError as error:
            raise ModelError(f"layer {name!r}: {error}: lower the sparsity, or keep the layer (keep)") from None
    return made


def dense(model: nn.Module) -> nn.Module:
    """Return a copy of a network without sparse layers: what they leave out are zeros."""
    made = copy.deepcopy(model)
    for name, layer in list(made.named_modules()):
        if isinstance(layer, Sparse):
            put(made, name, layer.dense())
    return made


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the masks of a network's sparse layers."""
    return {name: layer.mask for name, layer in model.named_modules() if isinstance(layer, Sparse)}


def weights_of(model: nn.Module, keep: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return the weights that may become zeros, by layer, sparse ones dense; those of few inputs are none.

    Args:
        model: the network.
        keep: layers that stay as they are; `*` and `?` stand for others (fnmatch).
    """
    found = {}
    inside = {f"{name}.layer" for name, layer in model.named_modules() if isinstance(layer, Sparse)}
    for name, layer in model.named_modules():
        if isinstance(layer, (*PRUNED, Sparse)) and name not in inside and not is_of(name, keep):
            weight = layer.weight.detach()
            if weight[0].numel() >= LEAST_INPUTS:
                found[name] = weight
    return found


def largest(weights: Mapping[str, Tensor], sparsity: float, scope: str, pattern: str = "") -> dict[str, Tensor]:
    """Return masks of the weights of largest magnitude (Han et al. 2015; global: Frankle and Carbin 2019, section 2).

    With a global scope magnitudes are relative to their layer's root mean square, so that layers of another scale are
    not emptied (as "global magnitude, normalised" of Blalock et al. 2020, section 2.3).

    Args:
        weights: by layer.
        sparsity: share of them that are zero.
        scope: `global` or `layer`.
        pattern: `N:M` keeps N of M neighbours along a layer's inputs (Mishra et al. 2021) instead.
    """
    if pattern:
        return {name: _n_of_m(weight, pattern) for name, weight in weights.items()}
    if scope == "layer":
        return {name: _above(weight.abs(), sparsity) for name, weight in weights.items()}
    sizes = {name: weight.abs() / weight.square().mean().sqrt().clamp(min=1e-12) for name, weight in weights.items()}
    together = _above(torch.cat([size.flatten() for size in sizes.values()]), sparsity)
    parts = together.split([size.numel() for size in sizes.values()])
    return {name: part.reshape(sizes[name].shape) for name, part in zip(sizes, parts, strict=True)}


def by_chance(masks: Masks, generator: torch.Generator) -> dict[str, Tensor]:
    """Return masks of the same densities by layer, whose places are drawn."""
    return {
        name: mask.flatten()[torch.randperm(mask.numel(), generator=generator)].reshape(mask.shape)
        for name, mask in masks.items()
    }


def sparsity_of(model: nn.Module) -> float:
    """Return the share of zeros among the weights that may be zeros."""
    weights = list(weights_of(model).values())
    return 1 - sum(int(w.count_nonzero()) for w in weights) / max(1, sum(w.numel() for w in weights))


def cubic(step: int, steps: int, sparsity: float) -> float:
    """Return the sparsity after a step of gradual pruning (Zhu and Gupta 2017, equation 1; it begins at none)."""
    return sparsity * (1 - (1 - step / steps) ** 3)


def _above(sizes: Tensor, sparsity: float) -> Tensor:
    """Return which are the largest; of equal ones the earlier."""
    keep = sizes.numel() - round(sparsity * sizes.numel())
    order = sizes.flatten().argsort(descending=True, stable=True)
    mask = torch.zeros(sizes.numel(), dtype=torch.bool)
    mask[order[:keep]] = True
    return mask.reshape(sizes.shape)


def _n_of_m(weight: Tensor, pattern: str) -> Tensor:
    keep, of = (int(part) for part in pattern.split(":"))
    rows = weight.abs().flatten(1)
    if rows.shape[1] % of:  # too narrow, as a first or a depthwise convolution is: it stays dense
        return torch.ones_like(weight, dtype=torch.bool)
    groups = rows.reshape(len(rows), -1, of)
    order = groups.argsort(dim=2, descending=True, stable=True)
    rank = order.argsort(dim=2)
    return (rank < keep).reshape(weight.shape)


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Set a layer by its name."""
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)
