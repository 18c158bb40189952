"""Train a part of a network, the rest stays as it is: `model.only`, for fine-tuning what was trained elsewhere."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from edgekit.arrays import is_of
from edgekit.errors import ModelError

ALONG = {nn.BatchNorm2d: (-1, 1, 1), nn.BatchNorm3d: (-1, 1, 1, 1)}
"""Shape of a scale of channels, by the norm."""


class FrozenBatchNorm(nn.Module):
    """Batch normalisation with statistics that stay: a scale and a shift of each channel, whatever the batch.

        y = (x - mean) / sqrt(variance + eps) * weight + bias

    No example mixes with another in it, so it can stand in private training and in a training graph.

    Args:
        norm: the layer, with the statistics that it has.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight.detach()
        shift = -norm.running_mean * scale
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift if norm.bias is None else shift + norm.bias.detach())
        # Known here, since a forward that looks at dimensions cannot be traced; None where there may be two or three.
        self.along = next((size for kind, size in ALONG.items() if isinstance(norm, kind)), None)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, ...) to the same shape."""
        if self.along is None:
            return (x.transpose(1, -1) * self.scale + self.shift).transpose(1, -1)
        return x * self.scale.reshape(self.along) + self.shift.reshape(self.along)


def train_only(model: nn.Module, only: Sequence[str]) -> None:
    """Freeze all parameters but some, and the statistics of batch norms that have none of them.

    Args:
        model: the network; changed.
        only: names of layers or parameters that learn, as `classifier`; `*` and `?` stand for others (fnmatch).

    Raises:
        ModelError: a name is of nothing, or a batch norm that shall stay has no statistics.
    """
    if not only:
        return
    names = [name for name, _ in model.named_parameters()]
    for pattern in only:
        if not any(is_of(name, [pattern]) for name in names):
            known = sorted({name.split(".")[0] for name in names})
            raise ModelError(f"model.only {pattern!r} is no layer of the network: it has {', '.join(known)}")
    for name, parameter in model.named_parameters():
        if not is_of(name, only):
            parameter.requires_grad_(False)
    for place, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm) and not isinstance(child, _InstanceNorm) and _stays(child):
                if child.running_mean is None:
                    raise ModelError(f"layer {f'{place}.{name}'.lstrip('.')!r} keeps no statistics, so it cannot stay")
                setattr(parent, name, FrozenBatchNorm(child))


def _stays(layer: nn.Module) -> bool:
    return not any(parameter.requires_grad for parameter in layer.parameters())
