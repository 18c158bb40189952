"""Layers whose gradients by example come of their inputs and the gradients of their outputs."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from edgekit.clients.clipped.gradients import ChannelsLast, Each, Outer

if TYPE_CHECKING:
    from edgekit.clients.clipped.rows import Rows


def _of_data(rows: "Rows", x: Tensor, *learnt: Tensor | None) -> bool:
    """Whether a function is of examples, and what it learns with is not."""
    return rows.is_data(x) and not any(map(rows.is_data, learnt))


def _linear(rows: "Rows", x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not _of_data(rows, x, weight, bias) or x.dim() < 2:
        return None
    if weight.dim() != 2 or (bias is not None and bias.dim() != 1):
        return None
    inputs = x.detach()

    def rule(gradient: Tensor) -> list[Each | None]:
        if x.dim() == 2:
            return [Outer(gradient, inputs), gradient if bias is not None else None]
        flat = gradient.flatten(1, -2)
        whole = torch.bmm(flat.mT, inputs.flatten(1, -2))
        return [whole, flat.sum(1) if bias is not None else None]

    output = F.linear(x, weight.detach(), None if bias is None else bias.detach())
    return rows.note(output, [weight, weight if bias is None else bias], rule, x)


def _matmul(rows: "Rows", x: Tensor, other: Tensor) -> Tensor | None:
    if not _of_data(rows, x, other) or other.dim() != 2 or x.dim() < 2:
        return None
    inputs = x.detach()

    def rule(gradient: Tensor) -> list[Each | None]:
        if x.dim() == 2:
            return [Outer(inputs, gradient)]
        return [torch.bmm(inputs.flatten(1, -2).mT, gradient.flatten(1, -2))]

    return rows.note(torch.matmul(x, other.detach()), [other], rule, x)


def _conv2d(
    rows: "Rows",
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    if not _of_data(rows, x, weight, bias) or x.dim() != 4 or isinstance(padding, str):
        return None
    stride, padding, dilation, inputs = _pair(stride), _pair(padding), _pair(dilation), x.detach()

    def rule(gradient: Tensor) -> list[Each | None]:
        own = gradient.flatten(2).sum(2) if bias is not None else None
        return [_of_filters(inputs, gradient, weight, stride, padding, dilation, groups), own]

    plain = None if bias is None else bias.detach()
    output = F.conv2d(x, weight.detach(), plain, stride, padding, dilation, groups)
    return rows.note(output, [weight, weight if bias is None else bias], rule, x)


def _of_filters(
    x: Tensor,
    gradient: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Each:
    """Return the filters' gradients by example, (examples, out, in / groups, height, width)."""
    examples, channels = x.shape[:2]
    kernel = (weight.shape[2], weight.shape[3])
    if groups == 1:
        if kernel == (1, 1) and padding == (0, 0):
            columns = x[:, :, :: stride[0], :: stride[1]].flatten(2)
        elif dilation == (1, 1) and channels > 1:
            return ChannelsLast(torch.bmm(gradient.flatten(2), _patches(x, kernel, stride, padding)), kernel)
        else:
            columns = F.unfold(x, kernel, dilation, padding, stride)
        return torch.bmm(gradient.flatten(2), columns.mT).view(examples, *weight.shape)
    # The examples beside each other in the channels: as many groups as all of theirs together.
    beside = x.reshape(1, examples * channels, *x.shape[2:])
    outputs = gradient.reshape(1, examples * gradient.shape[1], *gradient.shape[2:])
    whole = weight.new_empty(examples * weight.shape[0], *weight.shape[1:])
    found: Tensor = torch.ops.aten.convolution_backward(
        outputs, beside, whole, None, stride, padding, dilation, False, (0, 0), examples * groups, (False, True, False)
    )[1]
    return found.view(examples, *weight.shape)


def _patches(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Return what each place of a convolution sees, (examples, places, height * width * channels)."""
    height, width = padding
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, width, width, height, height)).contiguous()
    down, along = (padded.shape[1] - kernel[0]) // stride[0] + 1, (padded.shape[2] - kernel[1]) // stride[1] + 1
    example, row, place, _ = padded.stride()
    size = (len(x), down, along, kernel[0], kernel[1] * padded.shape[3])
    seen = padded.as_strided(size, (example, row * stride[0], place * stride[1], row, 1))
    return seen.reshape(len(x), down * along, -1)


def _group_norm(
    rows: "Rows",
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    if weight is None or bias is None or not _of_data(rows, x, weight, bias):
        return None
    with torch.no_grad():
        normal = F.group_norm(x, num_groups, None, None, eps)

    def rule(gradient: Tensor) -> list[Each | None]:
        inside = gradient.flatten(2) if gradient.dim() > 2 else gradient[..., None]
        return [(inside * normal.reshape(inside.shape)).sum(2), inside.sum(2)]

    output = F.group_norm(x, num_groups, weight.detach(), bias.detach(), eps)
    return rows.note(output, [weight, bias], rule, x)


def _layer_norm(
    rows: "Rows",
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor | None:
    if weight is None or bias is None or not _of_data(rows, x, weight, bias):
        return None
    if x.dim() <= len(normalized_shape):
        return None
    with torch.no_grad():
        normal = F.layer_norm(x, normalized_shape, None, None, eps)
    between = tuple(range(1, x.dim() - len(normalized_shape)))

    def rule(gradient: Tensor) -> list[Each | None]:
        scaled = gradient * normal
        return [scaled.sum(between), gradient.sum(between)] if between else [scaled, gradient]

    output = F.layer_norm(x, normalized_shape, weight.detach(), bias.detach(), eps)
    return rows.note(output, [weight, bias], rule, x)


RULES: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    F.linear: _linear,
    F.conv2d: _conv2d,
    torch.conv2d: _conv2d,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    torch.matmul: _matmul,
    torch.Tensor.matmul: _matmul,
    torch.Tensor.__matmul__: _matmul,
}
"""What runs in place of a function that learns; it gives None where it has no rule for what it is called with."""
