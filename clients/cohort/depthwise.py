"""Depthwise convolution as shifted multiply-adds: faster than oneDNN's kernel on maps of a few pixels."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

Pair = tuple[int, int]
Window = tuple[Any, ...]


def shifted_depthwise(x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """y[:, c, i, j] = sum over taps (k, l) of w[c, k, l] x[:, c, i * stride + k - padding, j * stride + l - padding].

    Args:
        x: (batch, channels, height, width).
        w: (channels, 1, kernel height, kernel width).
        stride: of the taps' window.
        padding: zeros around the map.

    Returns:
        (batch, channels, output height, output width), channels-last.
    """
    y: Tensor = _ShiftedDepthwise.apply(x, w, stride, padding)  # type: ignore[no-untyped-call]
    return y


class _ShiftedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> Tensor:
        """Add up the taps."""
        batch, channels, *size = x.shape
        ctx.save_for_backward(x, w)
        ctx.geometry = stride, padding
        out = [(size[d] + 2 * padding[d] - w.shape[2 + d]) // stride[d] + 1 for d in (0, 1)]
        y = x.new_zeros(batch, *out, channels).permute(0, 3, 1, 2)
        for k, m, target, source in _taps(y, x, w, stride, padding):
            y[target].addcmul_(x[source], w[:, 0, k, m, None, None])
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        """Correlate the output's gradient with the input, and spread it over the taps."""
        (gradient,) = gradients
        x, w = ctx.saved_tensors
        of_x = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        of_w = torch.zeros_like(w)
        for k, m, target, source in _taps(gradient, x, w, *ctx.geometry):
            of_w[:, 0, k, m] = (gradient[target] * x[source]).sum((0, 2, 3))
            if of_x is not None:
                of_x[source].addcmul_(gradient[target], w[:, 0, k, m, None, None])
        return of_x, of_w, None, None


def _taps(y: Tensor, x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> Iterator[tuple[int, int, Window, Window]]:
    """Yield, for each tap, the window of the output that it reaches and the window of the input that it reads."""

    def span(tap: int, dim: int) -> tuple[slice, slice, bool]:
        step, pad = stride[dim], padding[dim]
        first = max(0, -((tap - pad) // step))
        last = min(y.shape[2 + dim], (x.shape[2 + dim] - 1 - tap + pad) // step + 1)
        start = first * step + tap - pad
        return slice(first, last), slice(start, (last - 1) * step + tap - pad + 1, step), last > first

    for k in range(w.shape[2]):
        rows, source_rows, any_row = span(k, 0)
        for m in range(w.shape[3]):
            columns, source_columns, any_column = span(m, 1)
            if any_row and any_column:
                yield k, m, (..., rows, columns), (..., source_rows, source_columns)
