"""What a network costs: multiply-adds, and the numbers that training keeps for the backward pass."""

import torch
from torch import nn


@torch.no_grad()
def macs(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the multiply-accumulate operations of one inference: convolutions and linear layers."""
    total = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
        total += layer.weight[0].numel() * output.numel()

    counted = [layer for layer in model.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in counted]
    model.eval()(torch.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    return total


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
