"""Functions of torch in terms of others that have operators, whatever the batch: for training graphs.

What is here runs while rules are in force, so the functions that it calls meet theirs.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair, _single
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from edgekit.errors import ExportError


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return g v / |v| (Salimans and Kingma 2016, equation 2), the norm over all dimensions but one."""
    others = [other for other in range(v.dim()) if dim in (-1, v.dim()) or other != dim % v.dim()]
    return v * (g * torch.rsqrt((v * v).sum(others, keepdim=True)))


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    if max_norm is not None or scale_grad_by_freq:
        raise ExportError("an embedding with max_norm or scale_grad_by_freq has no training graph: leave them out")
    rows = torch.tensor([float(row) for row in range(len(weight))])
    # One where the row is the input's, by arithmetic: as a product, its gradient needs nothing to be scattered.
    chosen = F.relu(1 - (input[..., None].float() - rows).abs())
    if padding_idx is not None:
        learns = torch.tensor([[float(row != padding_idx % len(weight))] for row in range(len(weight))])
        weight = weight * learns + (weight * (1 - learns)).detach()
    return F.linear(chosen, weight.transpose(0, 1))


def _bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    outputs, first, second = weight.shape
    pairs = F.linear(input1, weight.permute(0, 2, 1).reshape(outputs * second, first))
    y: Tensor = (pairs.unflatten(-1, (outputs, second)) * input2.unsqueeze(-2)).sum(-1)
    return y if bias is None else y + bias


def _between(x: Tensor, dim: int, stride: int) -> Tensor:
    """Put stride - 1 zeros between the entries of a dimension."""
    if stride == 1:
        return x
    x = x.unsqueeze(dim + 1)
    wide = torch.cat([x, *[x * 0.0] * (stride - 1)], dim + 1).flatten(dim, dim + 1)
    return wide.narrow(dim, 0, wide.shape[dim] - stride + 1)


def _flipped(weight: Tensor, dim: int) -> Tensor:
    return torch.cat(weight.split(1, dim)[::-1], dim) if weight.shape[dim] > 1 else weight


def _conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """Convolve what has zeros between its entries with the turned kernel (Dumoulin and Visin 2016, section 4)."""
    kernel, stride, dilation = weight.shape[2:], _pair(stride), _pair(dilation)
    x = _between(_between(input, 2, stride[0]), 3, stride[1])
    edges = [dilation[i] * (kernel[i] - 1) - _pair(padding)[i] for i in range(2)]
    more = _pair(output_padding)
    x = F.pad(x, (edges[1], edges[1] + more[1], edges[0], edges[0] + more[0]))
    inputs, per_group = weight.shape[:2]
    turned = _flipped(_flipped(weight, 2), 3).reshape(groups, inputs // groups, per_group, *kernel)
    turned = turned.transpose(1, 2).reshape(groups * per_group, inputs // groups, *kernel)
    return F.conv2d(x, turned, bias, 1, 0, dilation, groups)


def _conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    step, edge, more, apart = (_single(value)[0] for value in (stride, padding, output_padding, dilation))
    image, kernel = input[:, :, None], weight[:, :, None]
    y = _conv_transpose2d(image, kernel, bias, (1, step), (0, edge), (0, more), groups, (1, apart))
    return y[:, :, 0]


def _along(pool: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return one-dimensional pooling as that of images of one row."""

    def rewritten(
        input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *rest: Any, **more: Any
    ) -> Any:
        size = _single(kernel_size)[0]
        step = _single(stride)[0] if stride else size
        return pool(input[:, :, None], (1, size), (1, step), (0, _single(padding)[0]), *rest, **more)[:, :, 0]

    return rewritten


def _adaptive_avg_pool1d(input: Tensor, output_size: Any) -> Tensor:
    y: Tensor = F.adaptive_avg_pool2d(input[:, :, None], (1, _single(output_size)[0]))[:, :, 0]
    return y


def _prelu(input: Tensor, weight: Tensor) -> Tensor:
    slope = weight if weight.numel() == 1 else weight.reshape(-1, *[1] * (input.dim() - 2))
    return slope * input + (1 - slope) * F.relu(input)


def _scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017, equation 1)."""
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        later = [[-1e9 * float(j > i) for j in range(key.shape[-2])] for i in range(query.shape[-2])]
        scores = scores + torch.tensor(later)
    elif attn_mask is not None:
        scores = scores + (attn_mask if attn_mask.is_floating_point() else (attn_mask.float() - 1) * 1e9)
    weights = scores.softmax(-1)
    return F.dropout(weights, dropout_p) @ value if dropout_p else weights @ value


REWRITTEN: dict[Any, Callable[..., Any]] = {
    torch._weight_norm: _weight_norm,
    F.embedding: _embedding,
    F.bilinear: _bilinear,
    F.conv_transpose1d: _conv_transpose1d,
    F.conv_transpose2d: _conv_transpose2d,
    F.max_pool1d: _along(F.max_pool2d),
    F.avg_pool1d: _along(F.avg_pool2d),
    F.adaptive_avg_pool1d: _adaptive_avg_pool1d,
    F.prelu: _prelu,
    torch.prelu: _prelu,
    F.scaled_dot_product_attention: _scaled_dot_product_attention,
}
"""By the function that each stands for."""

IN_PLACE: dict[Any, Callable[..., Any]] = {
    Tensor.add_: torch.add,
    Tensor.sub_: torch.sub,
    Tensor.mul_: torch.mul,
    Tensor.div_: torch.div,
}
"""What gives something new in place of what writes into a tensor, as x += y does, which the converter cannot."""


class Rewriting(TorchFunctionMode):
    """A mode that calls functions as they are rewritten here; what these call, and all else, comes to `call`.

    A tensor that was written into is the new one from then on. Where a view of it is read, steps are not torch's, and
    the file is refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self._newer: dict[int, tuple[Tensor, Tensor]] = {}

    def _latest(self, one: Any) -> Any:
        while isinstance(one, Tensor) and id(one) in self._newer:
            one = self._newer[id(one)][1]
        return one

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run what stands for a function."""
        args, kwargs = tree_map(self._latest, (args, kwargs or {})) if self._newer else (args, kwargs or {})
        if func in IN_PLACE:
            with self:
                made = IN_PLACE[func](*args, **kwargs)
            self._newer[id(args[0])] = args[0], made
            return made
        if func not in REWRITTEN:
            return self.call(func, args, kwargs)
        with self:
            return REWRITTEN[func](*args, **kwargs)

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run a function that is not rewritten."""
        return func(*args, **kwargs)
