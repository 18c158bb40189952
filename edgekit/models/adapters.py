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
    able = {name: layer for name, layer in model.named_modules() if isinstance(layer, Layer)}
    for pattern in layers:
        if not any(is_of(name, [pattern]) for name in able):
            raise ModelError(
                f"model.adapters {pattern!r} is no linear layer or convolution; {nearest(pattern, sorted(able))}"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, layer in able.items():
            if is_of(name, layers):
                parent, _, own = name.rpartition(".")
                setattr(model.get_submodule(parent), own, KINDS[kind](layer, rank))


@torch.no_grad()
def merged(model: nn.Module) -> nn.Module:
    """Return a network whose LoRA layers are one layer each again, as (W + up down) x; itself where there are none.

    Those beside a grouped convolution stay: their sum is no grouped convolution.
    """
    if not any(isinstance(layer, LoRA) for layer in model.modules()):
        return model
    made = copy.deepcopy(model)
    for name, layer in list(made.named_modules()):
        if not isinstance(layer, LoRA) or getattr(layer.base, "groups", 1) != 1:
            continue
        down, up = (part.get_parameter("weight") for part in layer.adapter)
        layer.base.weight += torch.einsum("or,ri...->oi...", up.reshape(up.shape[:2]), down)
        parent, _, own = name.rpartition(".")
        setattr(made.get_submodule(parent), own, layer.base)
    return made
