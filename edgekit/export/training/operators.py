"""Differentiable operators of a training step that LiteRT runs fast, with plain and with per-example gradients.

Feature maps are held as (height, width, batch, channels). For a pointwise convolution that is a matrix of
height * width * batch rows; for a depthwise one it is one image of batch * channels channels, so the gradient by its
filter is a depthwise convolution again, with the output's gradient as the filter. Neither needs a transpose. What is
left are matrix products and element-wise operators, which XNNPACK runs although the weights are no constants;
LiteRT's own convolutions and fully connected layers with such weights are about three times slower
(docs/decisions/0006).

An operator with weights takes `each`, None or zeros of shape (batch, *weight.shape), which are not read: with it, the
weights' gradient is not summed over the batch but goes, one an example, to `each`.

The tests hold each operator's gradients against those that autograd has for torch's own.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

Pair = tuple[int, int]
Gradients = tuple[Tensor | None, ...]

FEW_CHANNELS = 4
"""Up to this many channels the windows of a convolution are stacked as rows, not as columns: measured 5 x faster."""

MOST_CHANNELS = 4832
"""LiteRT's depthwise convolution never ends if it has more channels: they exceed its buffer of this many sums."""


def apply(operator: type[Function], *arguments: Any) -> Tensor:
    """Run an operator, so that autograd knows of it."""
    result: Tensor = operator.apply(*arguments)
    return result


def padded(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Pad a map with zeros; a negative amount crops."""
    x = x[max(0, -top) : x.shape[0] - max(0, -bottom), max(0, -left) : x.shape[1] - max(0, -right)]
    amounts = [max(0, amount) for amount in (left, right, top, bottom)]
    return F.pad(x, (0,) * (2 * x.dim() - 4) + tuple(amounts)) if any(amounts) else x


def spread(x: Tensor, stride: Pair) -> Tensor:
    """Put stride - 1 rows and columns of zeros between those of a map."""
    height, width, *rest = x.shape
    down, right = stride
    if right > 1:
        gaps = torch.zeros(height, width, right - 1, *rest)
        x = torch.cat([x[:, :, None], gaps], 2).reshape(height, width * right, *rest)[:, : (width - 1) * right + 1]
    if down > 1:
        gaps = torch.zeros(height, down - 1, *x.shape[1:])
        x = torch.cat([x[:, None], gaps], 1).reshape(height * down, *x.shape[1:])[: (height - 1) * down + 1]
    return x


def out_size(x: Tensor, kernel: Pair, stride: Pair, dilation: Pair) -> Pair:
    """Return height and width of what a kernel gives on a padded map."""
    rows, columns = ((x.shape[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2))
    return rows, columns


def windows(x: Tensor, kernel: Pair, stride: Pair, dilation: Pair) -> list[Tensor]:
    """Return what each position of a kernel sees of a padded map: (height out, width out, ...) each."""
    rows, columns = out_size(x, kernel, stride, dilation)
    rest = x.shape[2:]
    down, right = stride
    if stride != (1, 1):  # strided slices are slow, so the map is cut into its phases
        x = padded(x, 0, -x.shape[0] % down, 0, -x.shape[1] % right)
    phases = x.reshape(x.shape[0] // down, down, x.shape[1] // right, right, -1)
    found = []
    for a in range(0, kernel[0] * dilation[0], dilation[0]):
        for b in range(0, kernel[1] * dilation[1], dilation[1]):
            part = phases[a // down : a // down + rows, a % down, b // right : b // right + columns, b % right]
            found.append(part.reshape(rows, columns, *rest))
    return found


def _columns(x: Tensor, kernel: Pair, stride: Pair, dilation: Pair) -> Tensor:
    """Return a convolution's windows as a matrix (positions * batch, kernel * channels)."""
    channels = x.shape[-1]
    if kernel == (1, 1) and stride == (1, 1):
        return x.reshape(-1, channels)
    if channels > FEW_CHANNELS:
        return torch.cat(windows(x, kernel, stride, dilation), -1).reshape(-1, kernel[0] * kernel[1] * channels)
    planes = [windows(plane, kernel, stride, dilation) for plane in x.unbind(-1)]
    return torch.stack([window.reshape(-1) for position in zip(*planes, strict=True) for window in position]).T


def _around(g: Tensor, size: Pair, kernel: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """Pad an output's gradient so that its correlation with the flipped kernel has the input's size."""
    edges = [dilation[i] * (kernel[i] - 1) for i in range(2)]
    top, left = edges[0] - padding[0], edges[1] - padding[1]
    return padded(g, top, size[0] + edges[0] - top - g.shape[0], left, size[1] + edges[1] - left - g.shape[1])


def _turned(weight: Tensor) -> Tensor:
    """Return a weight (out, in, height, width) with its kernels turned by 180 degrees, (out, in, height * width).

    As one dimension: tflite-runtime 2.14 reverses two at once wrongly, and says nothing.
    """
    return weight.flatten(2).flip(2) if weight[0, 0].numel() > 1 else weight.flatten(2)


class Convolution(Function):
    """Cross-correlation, groups = 1, of x (H, W, batch, in) with a weight (out, in, height, width)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, each: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        """Return (H out, W out, batch, out)."""
        outputs, _, height, width = weight.shape
        wide = padded(x, padding[0], padding[0], padding[1], padding[1])
        columns = _columns(wide, (height, width), stride, dilation)
        ctx.save_for_backward(weight, columns)
        ctx.geometry = x.shape, stride, padding, dilation
        ctx.per_example = each is not None
        product = columns @ weight.permute(2, 3, 1, 0).reshape(-1, outputs)
        return product.reshape(*out_size(wide, (height, width), stride, dilation), x.shape[2], outputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        """Return the gradients by x, weight and each."""
        weight, columns = ctx.saved_tensors
        shape, stride, padding, dilation = ctx.geometry
        outputs, inputs, height, width = weight.shape
        batch = shape[2]
        by_x = by_weight = by_each = None
        if ctx.per_example:
            seen = columns.reshape(-1, batch, columns.shape[1]).permute(1, 2, 0)
            product = seen @ g.reshape(-1, batch, outputs).permute(1, 0, 2)
            by_each = product.reshape(batch, height, width, inputs, outputs).permute(0, 4, 3, 1, 2)
        elif ctx.needs_input_grad[1]:
            product = columns.T @ g.reshape(-1, outputs)
            by_weight = product.reshape(height, width, inputs, outputs).permute(3, 2, 0, 1)
        if ctx.needs_input_grad[0]:
            wide = _around(spread(g, stride), shape[:2], (height, width), padding, dilation)
            seen = _columns(wide, (height, width), (1, 1), dilation)
            by_x = (seen @ _turned(weight).permute(2, 0, 1).reshape(-1, inputs)).reshape(shape)
        return by_x, by_weight, by_each, None, None, None


def _each_channel(x: Tensor, kernel: Tensor, stride: Pair, dilation: Pair) -> Tensor:
    """Correlate each channel of an image (H, W, channels) with its own kernel (height, width, channels)."""
    channels = x.shape[-1]
    if channels > MOST_CHANNELS:
        cuts = [slice(first, first + MOST_CHANNELS) for first in range(0, channels, MOST_CHANNELS)]
        return torch.cat([_each_channel(x[..., cut], kernel[..., cut], stride, dilation) for cut in cuts], -1)
    image, filters = x[None].permute(0, 3, 1, 2), kernel[:, :, None].permute(3, 2, 0, 1)
    return F.conv2d(image, filters, None, stride, 0, dilation, x.shape[-1]).permute(0, 2, 3, 1)[0]


class Depthwise(Function):
    """Cross-correlation of each channel of x (H, W, batch, channels) with its own filter."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, each: Tensor | None, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        """Return (H out, W out, batch, channels)."""
        batch, channels = x.shape[2:]
        wide = padded(x, padding[0], padding[0], padding[1], padding[1]).flatten(2)
        kernel = torch.cat([weight[:, 0].permute(1, 2, 0)] * batch, -1)
        ctx.save_for_backward(weight, wide)
        ctx.geometry = x.shape, stride, padding, dilation
        ctx.per_example = each is not None
        y = _each_channel(wide, kernel, stride, dilation)
        return y.reshape(*y.shape[:2], batch, channels)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        """Return the gradients by x, weight and each."""
        weight, wide = ctx.saved_tensors
        shape, stride, padding, dilation = ctx.geometry
        batch, channels = shape[2:]
        height, width = weight.shape[2:]
        by_x = by_weight = by_each = None
        if ctx.per_example or ctx.needs_input_grad[1]:
            # Where the stride leaves rows over, the product has rows of no kernel position.
            product = _each_channel(wide, g.flatten(2), dilation, stride)[:height, :width]
            product = product.unflatten(2, (batch, channels))
            if ctx.per_example:
                by_each = product.permute(2, 3, 0, 1)[:, :, None]
            else:
                by_weight = product.sum(2).permute(2, 0, 1)[:, None]
        if ctx.needs_input_grad[0]:
            kernel = torch.cat([_turned(weight)[:, 0].T.reshape(height, width, channels)] * batch, -1)
            around = _around(spread(g, stride), shape[:2], (height, width), padding, dilation)
            by_x = _each_channel(around.flatten(2), kernel, (1, 1), dilation).unflatten(2, (batch, channels))
        return by_x, by_weight, by_each, None, None, None


class Linear(Function):
    """Matrix product of x (batch, ..., inputs) with a weight (outputs, inputs)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, each: Tensor | None) -> Tensor:
        """Return (batch, ..., outputs)."""
        ctx.save_for_backward(x, weight)
        ctx.per_example = each is not None
        outputs, inputs = weight.shape
        # Written as `x @ weight.T` it would become a FULLY_CONNECTED.
        matrix = weight.reshape(outputs, 1, inputs).permute(1, 2, 0).reshape(inputs, outputs)
        return (x.reshape(-1, inputs) @ matrix).reshape(*x.shape[:-1], outputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        """Return the gradients by x, weight and each."""
        x, weight = ctx.saved_tensors
        outputs, inputs = weight.shape
        by_x = by_weight = by_each = None
        if ctx.per_example:
            seen, by_output = (array.reshape(array.shape[0], -1, array.shape[-1]) for array in (x, g))
            by_each = by_output.transpose(1, 2) @ seen
        elif ctx.needs_input_grad[1]:
            by_weight = g.reshape(-1, outputs).T @ x.reshape(-1, inputs)
        if ctx.needs_input_grad[0]:
            by_x = (g.reshape(-1, outputs) @ weight).reshape(x.shape)
        return by_x, by_weight, by_each


class Offset(Function):
    """Add a bias (channels,) to x; `batch_dim` of x is its batch, its last dimension the channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, each: Tensor | None, batch_dim: int) -> Tensor:
        """Return x + bias."""
        ctx.batch_dim, ctx.per_example = batch_dim, each is not None
        return x + bias

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        """Return the gradients by x, bias and each."""
        summed = [dim for dim in range(g.dim() - 1) if dim != ctx.batch_dim]
        each = g.sum(summed) if summed else g
        if ctx.per_example:
            return g, None, each, None
        return g, each.sum(0), None, None


class ReLU(Function):
    """max(x, 0), or with a ceiling min(max(x, 0), ceiling)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float | None) -> Tensor:
        """Return the rectified x."""
        y = F.relu(x) if ceiling is None else torch.clamp(x, 0.0, ceiling)
        ctx.save_for_backward(y)
        ctx.ceiling = ceiling
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        """Return the gradient by x: g where 0 < y < ceiling.

        The condition is arithmetic, since comparisons and choices have no fast kernels: ceil(min(d, 1)) is 1 where
        d > 0, and 0 where d = 0.
        """
        (y,) = ctx.saved_tensors
        inside = y if ctx.ceiling is None else torch.minimum(y, ctx.ceiling - y)
        return g * torch.ceil(torch.clamp(inside, max=1.0)), None
