"""Narrower forms of a network: what their layers multiply by, or leave out at random, while clients train them.

Both are hooks around layers, so that parameters keep their names, and a weights file its form.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.arrays import Weights, corner
from edgekit.errors import ModelError
from edgekit.models.norm import WeightStandardisedConv2d, fold_weight_standardisation

SCALE, ORDERED = "scale", "ordered"
"""Steps of what is done to a network (`edgekit.compression.record`)."""
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
NEARLY = 0.05
"""Of the largest score, how far a corner may be off: rounded to eights, channels may come out equal and bring a
residual path (mobilenetv2 is off by 0.02; gates and heads in one matrix by 0.4 to 1)."""
_BITS = 16
"""Of a drawn number."""


def trained_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's trained parameters, each once."""
    return {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}


def readout_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters of the last layer, whose rows are the classes."""
    layers = [name for name, layer in model.named_modules() if isinstance(layer, LAYERS)]
    return (
        tuple(f"{layers[-1]}.{part}" for part, _ in model.get_submodule(layers[-1]).named_parameters())
        if layers
        else ()
    )


def hidden(model: nn.Module, narrower: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the layers of which a narrower network has fewer outputs: (outputs, the narrower one's), by name."""
    sizes = {name: len(layer.weight) for name, layer in narrower.named_modules() if isinstance(layer, LAYERS)}
    found = {name: len(layer.weight) for name, layer in model.named_modules() if isinstance(layer, LAYERS)}
    return {name: (size, sizes[name]) for name, size in found.items() if sizes.get(name, size) < size}


def scales(model: nn.Module, narrower: nn.Module) -> dict[str, float]:
    """Return what makes up for outputs that a narrower network lacks, by layer (Diao et al. 2021, section 3.2).

    A layer's sum is over fewer inputs then, as under dropout, whose remedy this is: the inputs that are left count for
    all. Layers that take each input by itself have no such sum before them, and standardised weights need no remedy.
    """
    return {
        name: size / left
        for name, (size, left) in hidden(model, narrower).items()
        if not isinstance(layer := model.get_submodule(name), WeightStandardisedConv2d)
        and getattr(layer, "groups", 1) == 1
    }


def scaled(model: nn.Module, by: Mapping[str, float]) -> nn.Module:
    """Return a network that multiplies the outputs of some layers; it is changed.

    Raises:
        ModelError: there is no such layer, or a factor cannot be.
    """
    for name, factor in by.items():
        if not 1 <= factor <= 1e6:
            raise ModelError(f"layer {name!r} would be multiplied by {factor!r}")
        _layer(model, name).register_forward_hook(partial(_times, float(factor)))
    return model


def _times(factor: float, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output * factor


def folded(weights: Weights, steps: Sequence[Mapping[str, Any]]) -> Weights:
    """Return the weights with which a network gives by itself what it gives with scaled layers."""
    made = dict(weights)
    for step in steps:
        for layer, factor in step["by"].items():
            for name in (f"{layer}.weight", f"{layer}.bias"):
                if name in made:
                    made[name] = (made[name] * factor).astype(made[name].dtype)
    return made


def counts(model: nn.Module, narrower: Sequence[nn.Module]) -> dict[str, list[int]]:
    """Return how many outputs the layers have in a network and in narrower ones, by name, of those where it differs."""
    names = dict.fromkeys(name for one in narrower for name in hidden(model, one))
    every = [model, *narrower]
    return {name: [len(_layer(one, name).weight) for one in every] for name in names}


def ordered(model: nn.Module, outputs: Mapping[str, Sequence[int]]) -> nn.Module:
    """Return a network that leaves out the last outputs of its layers while it trains, as many as it draws; it is
    changed (ordered dropout: Horvath et al. 2021, section 3).

    Each step draws one of the widths, all with the same chance.

    Args:
        model: the network.
        outputs: how many each layer has in each width, the widest first.

    Raises:
        ModelError: there is no such layer, or its widths cannot be.
    """
    if not outputs:
        raise ModelError("no layer of the network has narrower forms")
    for name, sizes in outputs.items():
        most = len(_layer(model, name).weight)
        if list(sizes) != sorted(sizes, reverse=True) or not 0 < sizes[-1] <= sizes[0] == most:
            raise ModelError(f"layer {name!r} of {most} outputs cannot have the widths {list(sizes)}")
    _hooked(model, outputs)
    return model


def _hooked(model: nn.Module, outputs: Mapping[str, Sequence[int]]) -> "Ladder":
    """Return what draws a network's widths from here on."""
    ladder = Ladder(outputs)
    model.register_forward_pre_hook(ladder.begin)
    model.register_forward_hook(ladder.end)
    for name in outputs:
        _layer(model, name).register_forward_hook(partial(ladder.cut, name))
    return ladder


class Ladder:
    """Draws the width of a step; arguments as of `ordered`.

    Attributes:
        fixed: a width that is always taken, in evaluation too; None draws in training alone.
    """

    def __init__(self, outputs: Mapping[str, Sequence[int]]) -> None:
        self.outputs = {name: [int(size) for size in sizes] for name, sizes in outputs.items()}
        if len({len(sizes) for sizes in self.outputs.values()}) > 1:
            raise ModelError("layers have different numbers of widths")
        self.fixed: int | None = None
        self._drawn: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Ladder":
        """Copy without what is drawn, which belongs to one step."""
        made = Ladder(self.outputs)
        made.fixed = self.fixed
        memo[id(self)] = made
        return made

    def begin(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Draw a number between 0 and 1 for a step."""
        if self.fixed is not None:
            self._drawn = torch.tensor((self.fixed + 0.5) / len(next(iter(self.outputs.values()))))
        elif model.training:
            # By dropout, whose draws belong to one client, whoever trains beside it (`clients.draws`); made from the
            # examples, so that it is each client's own under vmap.
            ones = torch.zeros_like(inputs[0].flatten(1)[:, :1], dtype=torch.float32) + torch.ones(_BITS)
            self._drawn = (F.dropout(ones, 0.5, True)[0] * 0.5 ** torch.arange(2, _BITS + 2)).sum()

    def end(self, model: nn.Module, inputs: Any, output: Any) -> None:
        """Forget it."""
        self._drawn = None

    def cut(self, name: str, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Leave out a layer's last outputs."""
        if self._drawn is None:
            return output
        sizes = self.outputs[name]
        left = output.new_tensor(float(sizes[0]))
        for place in range(1, len(sizes)):  # a sum of steps, which runs under vmap
            left = left - (self._drawn >= place / len(sizes)).to(output.dtype) * (sizes[place - 1] - sizes[place])
        axis = -1 if isinstance(layer, nn.Linear) else 1
        mask = (torch.arange(output.shape[axis]) < left).to(output.dtype)
        return output * (mask if axis == -1 else mask.reshape(-1, *[1] * (output.dim() - 2)))


@torch.no_grad()
def is_corner(model: nn.Module, narrower: nn.Module, x: Tensor) -> bool:
    """Whether a narrower network is the corner of a wider one: what that gives where all other weights are zero.

    Norms are taken out of both, since they are of all channels that there are. Gates or heads that share one matrix,
    and channels that are shuffled, are no corners.

    Args:
        model: the wider network.
        narrower: the other.
        x: examples.
    """
    wide, narrow = (_without_norms(fold_weight_standardisation(one).eval()) for one in (model, narrower))
    held = dict(narrow.named_parameters())
    draw = torch.Generator().manual_seed(0)
    for name, parameter in wide.named_parameters():
        own = held[name]
        own.copy_(torch.randn(own.shape, generator=draw) / max(1, own[0].numel() if own.dim() else 1) ** 0.5)
        parameter.zero_()
        parameter[corner(own.shape)] = own
    found, wanted = wide(x), narrow(x)
    return bool((found - wanted).abs().max() <= NEARLY * wanted.abs().max())


def _without_norms(model: nn.Module) -> nn.Module:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm | nn.LayerNorm):
                setattr(parent, name, nn.Identity())
    return model


@torch.no_grad()
def problem_with_order(model: nn.Module, narrower: Sequence[nn.Module], x: Tensor) -> str:
    """Say why a network that leaves outputs out is not the narrower one, "" if it is.

    Args:
        model: the network, not changed yet.
        narrower: networks of its further widths, the widest first.
        x: examples.
    """
    outputs = counts(model, narrower)
    for place, one in enumerate(narrower, 1):
        tried, other = copy.deepcopy(model).eval(), copy.deepcopy(one).eval()
        _hooked(tried, outputs).fixed = place
        held = dict(tried.named_parameters())
        for name, parameter in other.named_parameters():
            parameter.copy_(held[name][corner(parameter.shape)])
        found, wanted = tried(x), other(x)
        if not torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())):
            return "a norm or another layer mixes the channels that are left out with those that stay"
    return ""


def _layer(model: nn.Module, name: str) -> Any:
    try:
        layer = model.get_submodule(name)
    except AttributeError:
        raise ModelError(f"the network has no layer {name!r}") from None
    if not isinstance(layer, LAYERS):
        raise ModelError(f"layer {name!r} is {type(layer).__name__}, of which there are no slices")
    return layer
