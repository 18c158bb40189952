"""Modules as their authors wrote them, over tensors that lie in memory otherwise than they could know."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


def view(x: Tensor, *shape: Any, **kwargs: Any) -> Tensor:
    """Stand for Tensor.view, which refuses strides that ordinary torch would not have here; a view by type is one."""
    if kwargs or (len(shape) == 1 and isinstance(shape[0], torch.dtype)):
        plain: Tensor = torch.Tensor.view(x, *shape, **kwargs)
        return plain
    return x.reshape(*shape)


class AnyLayout(TorchFunctionMode):
    """While entered, `view` works whatever the layout: images here may be channels-last."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (view if func is torch.Tensor.view else func)(*args, **(kwargs or {}))
