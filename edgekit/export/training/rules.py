"""Which of torch's functions become which operators, while a module runs inside `with Rules(...)`.

Any module can be run: a function without a rule is torch's own. Feature maps then exist twice, as torch sees them,
(batch, channels, height, width), and as the operators hold them; the former is only computed where a function without
a rule reads it, since what nothing reads is not traced into the file.
"""

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.utils import _pair

from edgekit.errors import ExportError
from edgekit.export.training import norms, operators, pooling, recurrent
from edgekit.export.training.operators import Pair
from edgekit.export.training.rewritten import Rewriting
from edgekit.models.any_layout import view


class Rules(Rewriting):
    """The mode, for one run of a module whose gradients are summed over the batch; see `apart` for the other one."""

    def prepare(self, forward: Callable[[Tensor], Any], parameters: Iterable[Tensor], x: Tensor) -> None:
        """Get ready for the run of a forward pass; nothing to do here."""

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run a function's rule, if it has one for these arguments."""
        result = self.ruled(func, args, kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result

    def ruled(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return what a function's rule gives; NotImplemented if it has none for these arguments."""
        rule = RULES.get(func)
        return NotImplemented if rule is None else rule(self, *args, **kwargs)

    def each(self, weight: Tensor) -> Tensor | None:
        """Return zeros that stand for a weight in each example, None if gradients are summed anyway."""
        return None

    def own(self, weight: Tensor) -> Tensor:
        """Return a weight as an operator takes it beside `each`."""
        return weight


def as_map(x: Tensor) -> Tensor:
    """Return an image batch as the operators hold it."""
    held: Tensor | None = getattr(x, "_edgekit_map", None)
    return x.permute(2, 3, 0, 1) if held is None else held


def as_images(held: Tensor) -> Tensor:
    """Return a map (H, W, batch, channels) as torch sees it, (batch, channels, H, W)."""
    x = held.permute(2, 3, 0, 1)
    x._edgekit_map = held  # type: ignore[attr-defined]
    return x


def _is_map(x: Any) -> bool:
    return hasattr(x, "_edgekit_map")


def _offset(rules: Rules, x: Tensor, bias: Tensor | None, batch_dim: int) -> Tensor:
    if bias is None:
        return x
    return operators.apply(operators.Offset, x, rules.own(bias), rules.each(bias), batch_dim)


def _conv2d(
    rules: Rules,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair | str = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Any:
    if input.dim() != 4 or isinstance(padding, str):
        return NotImplemented
    x = as_map(input)
    geometry = (_pair(stride), _pair(padding), _pair(dilation))
    outputs, per_group = weight.shape[:2]
    if groups > 1 and per_group == 1 and outputs == groups:
        y = operators.apply(operators.Depthwise, x, rules.own(weight), rules.each(weight), *geometry)
    elif groups == 1:
        y = operators.apply(operators.Convolution, x, rules.own(weight), rules.each(weight), *geometry)
    else:
        each = rules.each(weight)
        size = outputs // groups
        parts = [
            operators.apply(
                operators.Convolution,
                x[..., group * per_group : (group + 1) * per_group],
                rules.own(weight)[group * size : (group + 1) * size],
                None if each is None else each[:, group * size : (group + 1) * size],
                *geometry,
            )
            for group in range(groups)
        ]
        y = torch.cat(parts, -1)
    return as_images(_offset(rules, y, bias, 2))


def _conv1d(
    rules: Rules,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] | str = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
) -> Any:
    if input.dim() != 3 or isinstance(padding, str):
        return NotImplemented
    along = [value[0] if isinstance(value, tuple) else value for value in (stride, padding, dilation)]
    x, kernel = input[:, :, None], weight[:, :, None]
    y = _conv2d(rules, x, kernel, bias, (1, along[0]), (0, along[1]), (1, along[2]), groups)
    return y[:, :, 0]


def _linear(rules: Rules, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if input.dim() < 2:
        return NotImplemented
    y = operators.apply(operators.Linear, input, rules.own(weight), rules.each(weight))
    return _offset(rules, y, bias, 0)


def _group_norm(
    rules: Rules,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    if input.dim() not in (2, 4):
        return NotImplemented
    x = as_map(input) if input.dim() == 4 else input[None, None]
    gain = torch.ones(x.shape[-1]) if weight is None else weight
    shift = torch.zeros(x.shape[-1]) if bias is None else bias
    each = rules.each(gain), rules.each(shift)
    y = operators.apply(norms.GroupNorm, x, rules.own(gain), rules.own(shift), *each, num_groups, eps)
    return as_images(y) if input.dim() == 4 else y[0, 0]


def _layer_norm(
    rules: Rules,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    if input.dim() == 2:
        return _group_norm(rules, input, 1, weight, bias, eps)
    size = prod(normalized_shape)
    x = input.reshape(*input.shape[: -len(normalized_shape)], size)
    gain = torch.ones(size) if weight is None else weight.reshape(size)
    shift = torch.zeros(size) if bias is None else bias.reshape(size)
    each = rules.each(gain), rules.each(shift)
    y = operators.apply(norms.LayerNorm, x, rules.own(gain), rules.own(shift), *each, eps)
    return y.reshape(input.shape)


def _rectified(ceiling: float | None) -> Callable[..., Any]:
    def rule(rules: Rules, input: Tensor, inplace: bool = False) -> Any:
        if _is_map(input):
            return as_images(operators.apply(operators.ReLU, as_map(input), ceiling))
        return operators.apply(operators.ReLU, input, ceiling)

    return rule


def _hardtanh(rules: Rules, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    return NotImplemented if min_val else _rectified(max_val)(rules, input)


def _side_by_side(input: Tensor, kernel: Any, stride: Any, padding: Any) -> Pair | None:
    """Return a pooling's kernel if its windows lie side by side and cover whole images, else None."""
    size = _pair(kernel)
    beside = input.dim() == 4 and _pair(padding) == (0, 0) and (not stride or _pair(stride) == size)
    return size if beside else None


def _avg_pool2d(
    rules: Rules,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    kernel = _side_by_side(input, kernel_size, stride, padding)
    if kernel is None or ceil_mode or divisor_override:
        return NotImplemented
    return as_images(operators.apply(pooling.AveragePool, as_map(input), kernel))


def _adaptive_avg_pool2d(rules: Rules, input: Tensor, output_size: Any) -> Any:
    if input.dim() != 4:
        return NotImplemented
    height, width = input.shape[2:]
    rows, columns = (
        have if wanted is None else wanted for wanted, have in zip(_pair(output_size), (height, width), strict=True)
    )
    if (rows, columns) == (1, 1):
        return as_images(as_map(input).flatten(0, 1).mean(0)[None, None])
    if height % rows or width % columns:
        return NotImplemented
    return as_images(operators.apply(pooling.AveragePool, as_map(input), (height // rows, width // columns)))


def _max_pool2d(
    rules: Rules,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    if input.dim() != 4 or _pair(dilation) != (1, 1) or return_indices:
        return NotImplemented
    if kernel := _side_by_side(input, kernel_size, stride, padding):
        return as_images(operators.apply(pooling.MaxPool, as_map(input), kernel))
    geometry = _pair(kernel_size), _pair(stride or kernel_size), _pair(padding)
    beyond = [_beyond(*one) if ceil_mode else 0 for one in zip(input.shape[2:], *geometry, strict=True)]
    extra = beyond[0], beyond[1]
    return as_images(operators.apply(pooling.OverlappingMaxPool, as_map(input), *geometry, extra))


def _beyond(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return how far the last window reaches beyond the padding where sizes are rounded up (`ceil_mode`)."""
    whole = size + 2 * padding
    outputs = -(-(whole - kernel) // stride) + 1
    if (outputs - 1) * stride >= size + padding:  # a window that begins in the padding behind is left out
        outputs -= 1
    return max(0, (outputs - 1) * stride + kernel - whole)


def _flatten(rules: Rules, input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Any:
    if not _is_map(input) or input.shape[2:] != (1, 1) or (start_dim, end_dim) != (1, -1):
        return NotImplemented
    return as_map(input)[0, 0]


def _view(rules: Rules, input: Tensor, *shape: Any, **options: Any) -> Tensor:
    return view(input, *shape, **options)


def _mean(rules: Rules, input: Tensor, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
    places = {place % 4 for place in dim} if isinstance(dim, tuple | list) else None
    if not _is_map(input) or places != {2, 3} or options:
        return NotImplemented
    mean = as_map(input).flatten(0, 1).mean(0)
    return mean[:, :, None, None] if keepdim else mean


def _element_wise(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def rule(rules: Rules, input: Any, other: Any, **options: Any) -> Any:
        alike = all(_is_map(x) or not isinstance(x, Tensor) for x in (input, other))
        if not alike or options:
            return NotImplemented
        x, y = (as_map(x) if isinstance(x, Tensor) else x for x in (input, other))
        return as_images(function(x, y))

    return rule


def _draws(name: str) -> Callable[..., Any]:
    def rule(rules: Rules, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not training or not p:
            return input
        raise ExportError(f"{name} draws random numbers, which a training graph cannot: set its p to 0")

    return rule


def _batch_norm(*_: Any, **__: Any) -> Any:
    raise ExportError(
        "batch norm keeps running statistics, which a training graph cannot: use group norm or weight standardisation"
    )


_relu, _relu6 = _rectified(None), _rectified(6.0)
_add, _mul, _sub = (_element_wise(function) for function in (torch.add, torch.mul, torch.sub))

RULES: dict[Any, Callable[..., Any]] = {
    F.conv1d: _conv1d,
    F.conv2d: _conv2d,
    F.linear: _linear,
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
    F.relu: _relu,
    torch.relu: _relu,
    torch.relu_: _relu,
    Tensor.relu: _relu,
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    F.avg_pool2d: _avg_pool2d,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.max_pool2d: _max_pool2d,
    F.dropout: _draws("dropout"),
    F.dropout1d: _draws("dropout"),
    F.dropout2d: _draws("dropout"),
    torch.flatten: _flatten,
    Tensor.flatten: _flatten,
    Tensor.view: _view,
    torch.mean: _mean,
    Tensor.mean: _mean,
    torch.add: _add,
    Tensor.add: _add,
    Tensor.__add__: _add,
    Tensor.__radd__: _add,
    torch.mul: _mul,
    Tensor.mul: _mul,
    Tensor.__mul__: _mul,
    Tensor.__rmul__: _mul,
    torch.sub: _sub,
    Tensor.sub: _sub,
    Tensor.__sub__: _sub,
}
RULES |= recurrent.RULES

WEIGHTED = (F.conv1d, F.conv2d, F.linear, F.group_norm, F.layer_norm)
"""Functions whose rules take the batch in the first dimension of their first argument, and weights in the others."""
