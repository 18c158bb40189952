"""Adapters: small layers put beside or behind a network's own, for fine-tuning with few numbers.

LoRA (Hu et al. 2022, section 4.1) adds a product of two thin matrices to a layer; a bottleneck (Houlsby et al. 2019,
section 2.1) follows it. Both begin as nothing: the network gives at first what it gave without them.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekit.arrays import is_of
from edgekit.errors import ModelError, nearest
from edgekit.models.settings import AdapterKind

Layer = nn.Linear | nn.Conv2d


class LoRA(nn.Module):
    """A layer, and beside it a narrow one.

        y = base(x) + up(down(x))

    Args:
        base: a linear layer or a convolution.
        rank: of the change.
    """

    def __init__(self, base: Layer, rank: int) -> None:
        super().__init__()
        self.base = base
        self.adapter = nn.Sequential(*_beside(base, rank))
        nn.init.zeros_(self.adapter[1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ...) to what the layer maps it to, and the change."""
        y: Tensor = self.base(x) + self.adapter(x)
        return y


class Bottleneck(nn.Module):
    """A layer, and behind it a narrow part with a shortcut.

        y = h + up(relu(down(h))), h = base(x)

    Args:
        base: a linear layer or a convolution.
        rank: width of the narrow part.
    """

    def __init__(self, base: Layer, rank: int) -> None:
        super().__init__()
        self.base = base
        down, up = _behind(base, rank)
        self.adapter = nn.Sequential(down, nn.ReLU(), up)
        nn.init.zeros_(up.weight)
        assert up.bias is not None
        nn.init.zeros_(up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ...) to what the layer maps it to, adapted."""
        h = self.base(x)
        y: Tensor = h + self.adapter(h)
        return y


def _beside(base: Layer, rank: int) -> tuple[Layer, Layer]:
    if isinstance(base, nn.Linear):
        return nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)
    how = {"stride": base.stride, "padding": base.padding, "dilation": base.dilation, "bias": False}
    down = nn.Conv2d(base.in_channels, rank, base.kernel_size, **how)  # type: ignore[arg-type]
    return down, nn.Conv2d(rank, base.out_channels, 1, bias=False)


def _behind(base: Layer, rank: int) -> tuple[Layer, Layer]:
    if isinstance(base, nn.Linear):
        return nn.Linear(base.out_features, rank), nn.Linear(rank, base.out_features)
    return nn.Conv2d(base.out_channels, rank, 1), nn.Conv2d(rank, base.out_channels, 1)


KINDS = {"lora": LoRA, "bottleneck": Bottleneck}


def adapt(model: nn.Module, layers: Sequence[str], kind: AdapterKind, rank: int, seed: int) -> None:
    """Give layers adapters: what learns in them is called `LAYER.adapter`, the layer itself `LAYER.base`.

    Args:
        model: the network; changed.
        layers: names of linear layers and convolutions; `*` stands for anything.
        kind: of adapters.
        rank: of each.
        seed: of their first weights.

    Raises:
        ModelError: a name is of no such layer.
    """
    named = model.named_modules(remove_duplicate=False)
    able = {name: layer for name, layer in named if isinstance(layer, Layer)}
    for pattern in layers:
        if not any(is_of(name, [pattern]) for name in able):
            raise ModelError(
                f"model.adapters {pattern!r} is no linear layer or convolution; {nearest(pattern, sorted(able))}"
            )
    made: dict[int, nn.Module] = {}  # a layer that stands in several places stays one
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, layer in able.items():
            if is_of(name, layers):
                if id(layer) not in made:
                    made[id(layer)] = KINDS[kind](layer, rank)
                _put(model, name, made[id(layer)])


def _put(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)


@torch.no_grad()
def merged(model: nn.Module) -> nn.Module:
    """Return a network whose LoRA layers are one layer each again, as (W + up down) x; itself where there are none.

    Those beside a grouped convolution stay: their sum is no grouped convolution.
    """
    if not any(isinstance(layer, LoRA) for layer in model.modules()):
        return model
    made, done = copy.deepcopy(model), dict[int, nn.Module]()
    for name, layer in list(made.named_modules(remove_duplicate=False)):
        if not isinstance(layer, LoRA) or getattr(layer.base, "groups", 1) != 1:
            continue
        if id(layer) not in done:
            down, up = (part.get_parameter("weight") for part in layer.adapter)
            one = copy.deepcopy(layer.base)  # whoever shares its weights keeps them as they were
            one.weight = nn.Parameter(one.weight + torch.einsum("or,ri...->oi...", up.reshape(up.shape[:2]), down))
            done[id(layer)] = one
        _put(made, name, done[id(layer)])
    return made
