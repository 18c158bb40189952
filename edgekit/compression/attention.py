"""Where a network looks: maps of its activations, which a student learns from its teacher beside the answers (Zagoruyko
& Komodakis 2017, "Paying more attention to attention", section 3.1)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.errors import ModelError


def attention(activations: Tensor) -> Tensor:
    """Return the mean square over the channels of (batch, channels, height, width): (batch, height, width)."""
    return activations.square().mean(1)


def unit(maps: Tensor) -> Tensor:
    """Return maps of length one, flat: (batch, height * width)."""
    return F.normalize(maps.flatten(1), dim=1)


@torch.no_grad()
def mapped(model: nn.Module, x: Tensor) -> tuple[str, tuple[int, int]]:
    """Return the last layer that gives a map of more than a point, and the map's height and width.

    Args:
        model: the network.
        x: an example, (1, ...).

    Raises:
        ModelError: there is none.
    """
    found: list[tuple[str, tuple[int, int]]] = []

    def seen(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-2:].numel() > 1:
                found.append((name, (output.shape[-2], output.shape[-1])))

        return hook

    leaves = [
        (name, layer) for name, layer in model.named_modules() if name and not any(True for _ in layer.children())
    ]
    handles = [layer.register_forward_hook(seen(name)) for name, layer in leaves]
    was = model.training
    try:
        model.eval()(x)
    finally:
        model.train(was)
        for handle in handles:
            handle.remove()
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no layer that gives a map (channels, height, width): set "
            "compression.distil.features = 0"
        )
    return found[-1]


def attending(model: nn.Module, layer: str) -> nn.Module:
    """Return a network that gives its map behind its scores while it trains: (batch, classes + height * width); it is
    changed."""
    held = _Held()
    model.get_submodule(layer).register_forward_hook(held.keep)
    model.register_forward_hook(held.give)
    return model


class _Held:
    """The map of one forward pass."""

    def __init__(self) -> None:
        self._map: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Held":
        """Copy without it: it belongs to one step."""
        memo[id(self)] = made = _Held()
        return made

    def keep(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self._map = attention(output)

    def give(self, model: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        found, self._map = self._map, None
        return torch.cat([output, unit(found)], 1) if model.training and found is not None else output


class Watched:
    """A teacher's map, in a student's size.

    Args:
        teacher: the network.
        layer: that gives the map.
        size: height and width of the student's.
    """

    def __init__(self, teacher: nn.Module, layer: str, size: tuple[int, int]) -> None:
        self.size, self._map = size, torch.zeros(0)
        teacher.get_submodule(layer).register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        self._map = unit(F.adaptive_avg_pool2d(attention(output)[:, None], self.size)[:, 0])

    def taken(self) -> Tensor:
        """Return the map of the teacher's last pass, (batch, height * width)."""
        return self._map
