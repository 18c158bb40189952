"""Batching rules that let many clients' networks run as one, faster than torch.func's own.

`vmap(forward)` runs any module for many clients at once. Inside `with ClientsInChannels():` a few functions take the
rules below instead of torch's: the clients sit beside each other in the channel dimension, channels-last, as
(batch, clients * channels, height, width). One client's convolution is then one group of a grouped convolution, its
group norm a set of groups, and pooling needs nothing. Functions without a rule keep torch's own, so no module has to
be rewritten. Autograd runs outside `vmap`, over ordinary tensors.

A rule takes the number of clients, for each argument the dimension that holds the clients (None if shared), and the
arguments; it returns the result and its client dimension.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

from edgekit.clients.cohort.depthwise import shifted_depthwise
from edgekit.models.any_layout import view

Dims = tuple[int | None, ...]
Pair = tuple[int, int]

TINY_MAP = 9
"""Depthwise convolutions on maps up to this many pixels run as shifted multiply-adds (measured: 2x oneDNN's)."""


def _beside(x: Tensor, dim: int | None, clients: int) -> Tensor:
    """Bring the clients into the channels: (batch, clients * channels, ...), channels-last if an image."""
    x = x.unsqueeze(1).expand(-1, clients, *x.shape[1:]) if dim is None else x.movedim(dim, 1)
    x = x.flatten(1, 2)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def _leading(parameter: Tensor | None, dim: int | None, clients: int) -> Tensor | None:
    """Bring the clients to the front of a parameter."""
    if parameter is None:
        return None
    return parameter.expand(clients, *parameter.shape) if dim is None else parameter.movedim(dim, 0)


def _flat(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.flatten()


def _products(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply each client's rows with its matrix: (rows, clients, in), (clients, out, in) -> (rows, clients, out)."""
    return torch.bmm(x.transpose(0, 1), weight.mT).transpose(0, 1)


def _conv2d(
    clients: int,
    dims: Dims,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair | str,
    dilation: Pair,
    groups: int,
) -> tuple[Tensor, int]:
    x = _beside(x, dims[0], clients)
    stacked = _leading(weight, dims[1], clients)
    assert stacked is not None
    stacked_bias = _leading(bias, dims[2], clients)
    pointwise = stacked.shape[3:] == (1, 1) and groups == 1 and padding == (0, 0)
    depthwise = stacked.shape[2] == 1 and groups == stacked.shape[1] and dilation == (1, 1)
    if pointwise:  # as batched matrix products: a grouped 1 x 1 convolution misses oneDNN's fast path
        rows = x[:, :, :: stride[0], :: stride[1]].permute(0, 2, 3, 1)
        y = _products(rows.reshape(-1, clients, stacked.shape[2]), stacked.flatten(2))
        y = y if stacked_bias is None else y + stacked_bias
        y = y.reshape(*rows.shape[:3], -1).permute(0, 3, 1, 2)
    elif depthwise and not isinstance(padding, str) and x.shape[2] * x.shape[3] <= TINY_MAP:
        y = shifted_depthwise(x, stacked.flatten(0, 1), stride, padding)
        y = y if stacked_bias is None else y + stacked_bias.flatten()[:, None, None]
    else:
        y = F.conv2d(x, stacked.flatten(0, 1), _flat(stacked_bias), stride, padding, dilation, clients * groups)
    return y.unflatten(1, (clients, -1)), 1


def _linear(clients: int, dims: Dims, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, int]:
    x = x.expand(clients, *x.shape).movedim(0, -2) if dims[0] is None else x.movedim(dims[0], -2)
    stacked = _leading(weight, dims[1], clients)
    assert stacked is not None
    y = _products(x.reshape(-1, *x.shape[-2:]), stacked)
    if bias is not None:
        stacked_bias = _leading(bias, dims[2], clients)
        assert stacked_bias is not None
        y = y + stacked_bias
    return y.unflatten(0, x.shape[:-2]), x.dim() - 2


def _group_norm(
    clients: int, dims: Dims, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, int]:
    x = _beside(x, dims[0], clients)
    weight, bias = _leading(weight, dims[2], clients), _leading(bias, dims[3], clients)
    y = F.group_norm(x, clients * groups, _flat(weight), _flat(bias), eps)
    return y.unflatten(1, (clients, -1)), 1


def _pooling(plain: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, int]]:
    def rule(clients: int, dims: Dims, x: Tensor, *settings: Any) -> tuple[Tensor, int]:
        return plain(_beside(x, dims[0], clients), *settings).unflatten(1, (clients, -1)), 1

    return rule


def _with_rule(plain: Callable[..., Tensor], rule: Callable[..., tuple[Tensor, int]]) -> Callable[..., Tensor]:
    """Return the plain function, with our rule in place of torch's under vmap."""

    class Ruled(torch.autograd.Function):
        @staticmethod
        def forward(*arguments: Any) -> Tensor:
            return plain(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            """Nothing to keep: under vmap the rule's own operations are differentiated."""

        @staticmethod
        def vmap(info: Any, in_dims: Dims, *arguments: Any) -> tuple[Tensor, int]:
            return rule(info.batch_size, in_dims, *arguments)

    apply: Callable[..., Tensor] = Ruled.apply
    return apply


_ruled_conv2d = _with_rule(F.conv2d, _conv2d)
_ruled_linear = _with_rule(F.linear, _linear)
_ruled_group_norm = _with_rule(F.group_norm, _group_norm)
_ruled_max_pool2d = _with_rule(F.max_pool2d, _pooling(F.max_pool2d))
_ruled_adaptive_avg_pool2d = _with_rule(F.adaptive_avg_pool2d, _pooling(F.adaptive_avg_pool2d))
_ruled_avg_pool2d = _with_rule(F.avg_pool2d, _pooling(F.avg_pool2d))


def conv2d(
    x: Tensor, weight: Tensor, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Tensor:
    """Stand for torch.nn.functional.conv2d."""
    if x.dim() != 4:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    padding = padding if isinstance(padding, str) else _pair(padding)
    return _ruled_conv2d(x, weight, bias, _pair(stride), padding, _pair(dilation), groups)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Stand for torch.nn.functional.linear."""
    return _ruled_linear(x, weight, bias)


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Stand for torch.nn.functional.group_norm."""
    return _ruled_group_norm(x, num_groups, weight, bias, eps)


def max_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """Stand for torch.nn.functional.max_pool2d."""
    if return_indices:
        raise ValueError("max pooling that returns its indices has no rule")
    if x.dim() != 4:
        plain: Tensor = torch.max_pool2d(x, kernel_size, stride or kernel_size, padding, dilation, ceil_mode)
        return plain
    return _ruled_max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode)


def avg_pool2d(x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *settings: Any) -> Tensor:
    """Stand for torch.nn.functional.avg_pool2d."""
    if x.dim() != 4:
        return F.avg_pool2d(x, kernel_size, stride, padding, *settings)
    return _ruled_avg_pool2d(x, kernel_size, stride, padding, *settings)


def adaptive_avg_pool2d(x: Tensor, output_size: Any) -> Tensor:
    """Stand for torch.nn.functional.adaptive_avg_pool2d."""
    return F.adaptive_avg_pool2d(x, output_size) if x.dim() != 4 else _ruled_adaptive_avg_pool2d(x, output_size)


def embedding(
    x: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Stand for torch.nn.functional.embedding, whose rule under `vmap` lets the padding row learn."""
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise ValueError("an embedding with max_norm, scale_grad_by_freq or sparse gradients has no rule")
    if padding_idx is not None:
        row = torch.arange(len(weight)) == padding_idx % len(weight)
        weight = torch.where(row[:, None], weight.detach(), weight)
    return F.embedding(x, weight)


RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    F.conv2d: conv2d,
    F.linear: linear,
    F.group_norm: group_norm,
    F.max_pool2d: max_pool2d,
    F.avg_pool2d: avg_pool2d,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d,
    F.embedding: embedding,
    torch.Tensor.view: view,
    torch.Tensor.data.__get__: torch.Tensor.detach,  # type: ignore[attr-defined]
}


class ClientsInChannels(TorchFunctionMode):
    """While entered, functions with a rule here take it under `vmap`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return RULES.get(func, func)(*args, **(kwargs or {}))
