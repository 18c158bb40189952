"""What a network costs: multiply-adds, weights, and the numbers that it keeps, as a whole and by layer."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

BYTES = 4
"""Of a number in float32."""


@dataclass(frozen=True)
class Layer:
    """One row of a network's table.

    Attributes:
        name: of the module, as in `named_modules`; "" for the network itself.
        kind: of the module.
        output: shape of what it gives for one example; () if that is no tensor.
        parameters: its own, without those of modules within.
        macs: multiply-adds of its own convolutions and products, of one example.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int

    @property
    def weight_bytes(self) -> int:
        """Bytes of its parameters in float32."""
        return BYTES * self.parameters

    @property
    def activation_bytes(self) -> int:
        """Bytes of what it gives for one example in float32."""
        return BYTES * torch.Size(self.output).numel() if self.output else 0


def macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the multiply-accumulate operations of one inference: convolutions, linear layers and other products."""
    return sum(_counted(model, shape)[0].values())


def layers(model: nn.Module, shape: tuple[int, ...]) -> list[Layer]:
    """Return what each module costs that has parameters or products of its own.

    Args:
        model: the network.
        shape: of one example.
    """
    own, outputs = _counted(model, shape)
    rows = []
    for name, module in model.named_modules():
        parameters = sum(p.numel() for p in module.parameters(recurse=False))
        if parameters or own.get(name):
            rows.append(Layer(name, type(module).__name__, outputs.get(name, ()), parameters, own.get(name, 0)))
    return rows


@torch.no_grad()
def _counted(model: nn.Module, shape: tuple[int, ...]) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Return each module's own multiply-adds, and the shape of what it gave last, by name."""
    outputs: dict[str, tuple[int, ...]] = {}

    def seen(name: str, output: object) -> None:
        if isinstance(output, torch.Tensor):
            outputs[name] = tuple(output.shape[1:])

    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: seen(name, output))
        for name, module in model.named_modules()
    ]
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            model.eval()(torch.zeros(1, *shape))
    finally:
        for handle in handles:
            handle.remove()
    found = counter.get_flop_counts()
    top = type(model).__name__
    whole = {
        name: sum(found.get(f"{top}.{name}" if name else top, {}).values()) // 2 for name, _ in model.named_modules()
    }
    own = dict(whole)
    for name in whole:
        if name:
            own[name.rpartition(".")[0]] -= whole[name]
    return own, outputs


@torch.no_grad()
def kept(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Return how many numbers one example's forward pass leaves for the backward pass: the outputs of all layers."""
    total = 0

    def count(_: nn.Module, __: object, output: object) -> None:
        nonlocal total
        total += output.numel() if isinstance(output, torch.Tensor) else 0

    handles = [layer.register_forward_hook(count) for layer in model.modules() if not list(layer.children())]
    model.eval()(torch.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    return total
