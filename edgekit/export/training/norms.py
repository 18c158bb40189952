"""Normalisations of a training step; see `operators` for how feature maps are held."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from edgekit.export.training.operators import Gradients


class GroupNorm(Function):
    """Group normalisation of x (H, W, batch, channels) (Wu and He 2018, section 3.1).

        y = (x - mean) / sqrt(variance + eps) * weight + bias

    with mean and variance over each example's groups of channels.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        each_weight: Tensor | None,
        each_bias: Tensor | None,
        groups: int,
        eps: float,
    ) -> Tensor:
        """Return y."""
        positions = x.shape[0] * x.shape[1]
        centred = x - _group_means(x.sum((0, 1)), groups, positions)
        scale = torch.rsqrt(_group_means((centred * centred).sum((0, 1)), groups, positions) + eps)
        factor = scale * weight
        ctx.save_for_backward(centred, scale, factor, weight)
        ctx.groups, ctx.per_example = groups, each_weight is not None
        return centred * factor + bias

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        """Return the gradients by x, weight, bias and their twos of each."""
        centred, scale, factor, weight = ctx.saved_tensors
        positions = g.shape[0] * g.shape[1]
        by_bias, by_weight = g.sum((0, 1)), (g * centred).sum((0, 1)) * scale
        # The chain rule through mean and variance; all but two terms live on (batch, channels) alone.
        shift = scale * _group_means(by_bias * weight, ctx.groups, positions)
        slope = scale * scale * _group_means(by_weight * weight, ctx.groups, positions)
        by_x = g * factor - centred * slope - shift
        if ctx.per_example:
            return by_x, None, None, by_weight, by_bias, None, None
        return by_x, by_weight.sum(0), by_bias.sum(0), None, None, None, None


class LayerNorm(Function):
    """Layer normalisation of x (batch, ..., channels) over its last dimension (Ba et al. 2016, equation 4).

    y = (x - mean) / sqrt(variance + eps) * weight + bias
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        each_weight: Tensor | None,
        each_bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        """Return y."""
        centred = x - x.mean(-1, keepdim=True)
        scale = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + eps)
        normal = centred * scale
        ctx.save_for_backward(normal, scale, weight)
        ctx.per_example = each_weight is not None
        return normal * weight + bias

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        """Return the gradients by x, weight, bias and their twos of each."""
        normal, scale, weight = ctx.saved_tensors
        inner = g * weight
        along = (inner * normal).mean(-1, keepdim=True)
        by_x = scale * (inner - inner.mean(-1, keepdim=True) - normal * along)
        summed = list(range(1, g.dim() - 1))
        by_weight, by_bias = (x.sum(summed) if summed else x for x in (g * normal, g))
        if ctx.per_example:
            return by_x, None, None, by_weight, by_bias, None
        return by_x, by_weight.sum(0), by_bias.sum(0), None, None, None


def _group_means(sums: Tensor, groups: int, positions: int) -> Tensor:
    """Turn each channel's sum over the positions into its group's mean, at each of the group's channels.

    As two products with constants, which take fewer operators than a reduction and a broadcast.

    Args:
        sums: (batch, channels).
        groups: of the channels.
        positions: summed over.
    """
    channels = sums.shape[1]
    member, mean = _membership(channels, groups), 1 / (positions * (channels // groups))
    # `tensor` of a list is a constant of the graph; what `eye` gives would be computed in it.
    averages = torch.tensor([[mean * one for one in row] for row in member])
    return (sums @ averages) @ torch.tensor(member).T


@lru_cache
def _membership(channels: int, groups: int) -> list[list[float]]:
    size = channels // groups
    return [[float(channel // size == group) for group in range(groups)] for channel in range(channels)]
