"""Functions that leave the examples of a batch apart: those that are known, and when."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from edgekit.clients.clipped.rows import Rows

FACTS: set[Callable[..., Any]] = {
    torch.Tensor.size, torch.Tensor.dim, torch.Tensor.stride, torch.Tensor.numel, torch.Tensor.__len__,
    torch.Tensor.is_floating_point, torch.Tensor.is_contiguous,
    *(getattr(torch.Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "requires_grad", "layout")),
}  # fmt: skip
"""What tells of a tensor but not of what is in it."""


def _always(rows: "Rows", *args: Any, **kwargs: Any) -> bool:
    return True


def _beside(rows: "Rows", *args: Any, **kwargs: Any) -> bool:
    """Whether a function by element has its examples beside each other in all that it takes."""
    tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)]
    most = max(one.dim() for one in tensors)
    for one in tensors:
        if rows.is_data(one) and one.dim() != most:
            return False
        if not rows.is_data(one) and one.dim() == most and len(one) != 1:
            return False
    return not any(isinstance(one, Tensor) for pair in args if isinstance(pair, list | tuple) for one in pair)


def _image(rows: "Rows", x: Tensor, *args: Any, **kwargs: Any) -> bool:
    return x.dim() == 4


def _keeps_first(rows: "Rows", x: Tensor, *sizes: Any, **kwargs: Any) -> bool:
    """Whether a new shape begins with the examples: rows of memory stay whole then."""
    shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else sizes
    return not kwargs and len(shape) > 0 and shape[0] == rows.examples


def _flattens(rows: "Rows", x: Tensor, start_dim: int = 0, end_dim: int = -1) -> bool:
    return start_dim % x.dim() > 0


def _over(rows: "Rows", x: Tensor, dim: Any = None, *args: Any, **kwargs: Any) -> bool:
    """Whether what is taken over dimensions leaves the first one."""
    dims = dim if isinstance(dim, list | tuple) else [dim]
    return dim is not None and all(isinstance(one, int) and one % x.dim() > 0 for one in dims)


def _swaps(rows: "Rows", x: Tensor, *dims: Any) -> bool:
    return len(dims) == 2 and all(isinstance(one, int) and one % x.dim() > 0 for one in dims)


def _permutes(rows: "Rows", x: Tensor, *dims: Any) -> bool:
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    return len(order) == x.dim() and order[0] == 0


def _adds_axis(rows: "Rows", x: Tensor, dim: int) -> bool:
    return dim % (x.dim() + 1) > 0


def _products(rows: "Rows", x: Any, other: Any) -> bool:
    both = rows.is_data(x) and rows.is_data(other)
    return both and x.dim() == other.dim() >= 3


_BY_ELEMENT = (
    F.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_, F.relu6, F.hardswish, F.hardsigmoid,
    F.hardtanh, torch.sigmoid, torch.Tensor.sigmoid, F.sigmoid, F.silu, F.gelu, torch.tanh, torch.Tensor.tanh, F.tanh,
    F.softplus, torch.exp, torch.Tensor.exp, F.leaky_relu, F.elu, torch.square, torch.Tensor.square, torch.sqrt,
    torch.Tensor.sqrt, torch.rsqrt, torch.Tensor.rsqrt, torch.Tensor.contiguous, torch.Tensor.float, torch.Tensor.neg,
    torch.Tensor.__neg__, torch.Tensor.clone,
)  # fmt: skip
_OF_TWO = (
    torch.add, torch.sub, torch.mul, torch.div, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.sub, torch.Tensor.mul,
    torch.Tensor.mul_, torch.Tensor.div, torch.Tensor.__add__, torch.Tensor.__radd__, torch.Tensor.__iadd__,
    torch.Tensor.__sub__, torch.Tensor.__rsub__, torch.Tensor.__mul__, torch.Tensor.__rmul__, torch.Tensor.__imul__,
    torch.Tensor.__truediv__, torch.Tensor.__pow__, torch.Tensor.pow,
)  # fmt: skip
APART: dict[Callable[..., Any], Callable[..., bool]] = {
    **dict.fromkeys(_BY_ELEMENT, _always),
    **dict.fromkeys(_OF_TWO, _beside),
    **dict.fromkeys((F.avg_pool2d, F.max_pool2d, torch.max_pool2d, F.adaptive_avg_pool2d), _image),
    **dict.fromkeys((torch.Tensor.view, torch.Tensor.reshape, torch.reshape), _keeps_first),
    **dict.fromkeys((torch.flatten, torch.Tensor.flatten), _flattens),
    **dict.fromkeys((torch.mean, torch.Tensor.mean, torch.sum, torch.Tensor.sum), _over),
    **dict.fromkeys((torch.softmax, torch.Tensor.softmax, F.softmax), _over),
    **dict.fromkeys((torch.transpose, torch.Tensor.transpose), _swaps),
    **dict.fromkeys((torch.permute, torch.Tensor.permute), _permutes),
    **dict.fromkeys((torch.unsqueeze, torch.Tensor.unsqueeze), _adds_axis),
    **dict.fromkeys((torch.bmm, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__), _products),
}
"""Functions that leave examples apart, where what they are called with says so."""
