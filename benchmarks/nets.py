"""The two networks of the simulation benchmark, on 8 x 8 images, as torch modules that know nothing of edgekit."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """13.7k parameters: two dense convolutions, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(128, 64)
        self.out = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 1, 8, 8) to (batch, 10)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        scores: Tensor = self.out(F.relu(self.hidden(x.flatten(1))))
        return scores


class Depthwise(nn.Module):
    """24k parameters: a convolution and three depthwise separable blocks with group norm."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.GroupNorm(8, 32), nn.ReLU()]
        for inputs, outputs, stride in ((32, 64, 2), (64, 96, 2), (96, 128, 1)):
            layers += [nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.GroupNorm(8, inputs)]
            layers += [nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(8, outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.out = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 1, 8, 8) to (batch, 10)."""
        scores: Tensor = self.out(self.body(x).mean((2, 3)))
        return scores


def products(net: str, batch: int) -> list[tuple[int, int, int, bool]]:
    """Return the matrix products of one step: (rows, in, out, whether the input's gradient is needed) a layer.

    Convolutions count as the products of their im2col form; a depthwise one as one of the same multiply-adds.
    """
    if net == "small":
        return [(64 * batch, 9, 16, False), (16 * batch, 144, 32, True), (batch, 128, 64, True), (batch, 64, 10, True)]
    layers = [(64 * batch, 9, 32, False)]
    side = 8
    for inputs, outputs, stride in ((32, 64, 2), (64, 96, 2), (96, 128, 1)):
        side = -(-side // stride)
        layers.append((max(1, side * side * batch * inputs // 9), 9, 9, True))
        layers.append((side * side * batch, inputs, outputs, True))
    return [*layers, (batch, 128, 10, True)]


def build(net: str) -> nn.Module:
    """Build one of them, always with the same weights."""
    torch.manual_seed(0)
    return SmallCNN() if net == "small" else Depthwise()
