"""Pooling of a training step; see `operators` for how feature maps are held."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from edgekit.export.training.operators import Gradients, Pair, padded, spread, windows

LOWEST = -1e30
"""Below what activations are: what pooling sees around a map."""


class AveragePool(Function):
    """Mean over windows of `kernel`, side by side, of x (H, W, ...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Pair) -> Tensor:
        """Return (H / height, W / width, ...)."""
        ctx.kernel = kernel
        ctx.shape = x.shape
        seen = windows(x, kernel, kernel, (1, 1))
        return sum(seen[1:], seen[0]) * (1 / (kernel[0] * kernel[1]))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        """Return the gradient by x."""
        part = g * (1 / (ctx.kernel[0] * ctx.kernel[1]))
        return _tiled([part] * (ctx.kernel[0] * ctx.kernel[1]), ctx.kernel, ctx.shape), None


class MaxPool(Function):
    """Maximum over windows of `kernel`, side by side, of x (H, W, ...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Pair) -> Tensor:
        """Return (H / height, W / width, ...)."""
        seen = windows(x, kernel, kernel, (1, 1))
        y = _largest(seen)
        ctx.save_for_backward(y, *seen)
        ctx.kernel, ctx.shape = kernel, x.shape
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        """Return the gradient by x: it goes to the first position that holds the maximum, as torch's does."""
        y, *seen = ctx.saved_tensors
        return _tiled(list(_shares(g, y, seen)), ctx.kernel, ctx.shape), None


class OverlappingMaxPool(Function):
    """Maximum over windows of `kernel`, any stride and padding, of x (H, W, ...); `extra` pads at the far ends."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Pair, stride: Pair, padding: Pair, extra: Pair) -> Tensor:
        """Return (H out, W out, ...)."""
        wide = x
        if any(padding) or any(extra):
            wide = padded(x, padding[0], padding[0] + extra[0], padding[1], padding[1] + extra[1])
            wide = wide + _border(x, padding, extra)
        seen = windows(wide, kernel, stride, (1, 1))
        y = _largest(seen)
        ctx.save_for_backward(y, *seen)
        ctx.geometry = x.shape, kernel, stride, padding
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        """Return the gradient by x: it goes to the first position that holds the maximum, as torch's does."""
        y, *seen = ctx.saved_tensors
        shape, kernel, stride, padding = ctx.geometry
        total = None
        for number, share in enumerate(_shares(g, y, seen)):
            part = spread(share, stride)
            top, left = number // kernel[1] - padding[0], number % kernel[1] - padding[1]
            part = padded(part, top, shape[0] - part.shape[0] - top, left, shape[1] - part.shape[1] - left)
            total = part if total is None else total + part
        return total, None, None, None, None


def _largest(seen: list[Tensor]) -> Tensor:
    y = seen[0]
    for window in seen[1:]:
        y = torch.maximum(y, window)
    return y


def _shares(g: Tensor, y: Tensor, seen: list[Tensor]) -> Iterator[Tensor]:
    """Yield what of an output's gradient goes to each position: all of it to the first that holds the maximum."""
    for window in seen:
        below = torch.ceil(torch.clamp(y - window, max=1.0))
        yield g - g * below
        g = g * below


def _border(x: Tensor, padding: Pair, extra: Pair) -> Tensor:
    """Return what takes the place of infinity around a map, whose products with zero are none, and 0 within it."""
    rows, columns = (
        [LOWEST] * edge + [0.0] * size + [LOWEST] * (edge + more)
        for edge, more, size in zip(padding, extra, x.shape, strict=False)
    )
    # `tensor` of a list is a constant of the graph.
    return torch.tensor([[min(row, column) for column in columns] for row in rows])[..., None, None]


def _tiled(parts: list[Tensor], kernel: Pair, shape: torch.Size) -> Tensor:
    """Lay arrays (h, w, ...), one a kernel position, into a map side by side; what no window saw is zero."""
    height, width = kernel
    h, w, *rest = parts[0].shape
    lines = [torch.stack(parts[a * width : (a + 1) * width], 2).reshape(h, w * width, *rest) for a in range(height)]
    tiled = torch.stack(lines, 1).reshape(h * height, w * width, *rest)
    return padded(tiled, 0, shape[0] - h * height, 0, shape[1] - w * width)
