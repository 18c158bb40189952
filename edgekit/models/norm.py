"""Convolutions with the zoo's three choices of normalisation: group, weight-standardised, none."""

import copy
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.errors import ModelError

Norm = Literal["group", "weight-standardised", "none"]


class WeightStandardisedConv2d(nn.Conv2d):
    """Convolution whose filters have zero mean and unit norm, times a learnt gain (Brock et al. 2021, section 2).

        W_i = gain_i * (w_i - mean(w_i)) / sqrt(var(w_i) * fan_in + eps)

    It normalises weights instead of activations, so it treats each example alone, costs nothing once trained and
    folds exactly into a plain convolution (`fold_weight_standardisation`).
    """

    def __init__(self, *args: int, eps: float = 1e-4, **kwargs: int | bool) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.eps = eps
        with torch.no_grad():  # rows of unit norm: the standardised weight does not see it, its gradient does
            self.weight.div_(self.weight.square().sum((1, 2, 3), keepdim=True).sqrt())
        # sqrt(2) keeps the variance through a ReLU, as He et al. 2015 do by initialisation.
        self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), math.sqrt(2.0)))

    def standardised_weight(self) -> Tensor:
        """Return the weight that the convolution applies, (out, in / groups, height, width)."""
        filters = self.weight.flatten(1)  # few dimensions, since old runtimes take no more than five with a batch
        centred = filters - filters.mean(1, keepdim=True)
        variance = (centred * centred).mean(1, keepdim=True)
        scale = self.gain.flatten(1) * torch.rsqrt(variance * filters.shape[1] + self.eps)
        return (centred * scale).reshape(self.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (batch, in, height, width) to (batch, out, height, width)."""
        return F.conv2d(x, self.standardised_weight(), self.bias, self.stride, self.padding, self.dilation, self.groups)


def convolution(
    norm: Norm, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a convolution, same padding, and its normalisation, as layers for a Sequential.

    Raises:
        ModelError: no such normalisation.
    """
    shape = (inputs, outputs, kernel, stride, kernel // 2, 1, groups)
    if norm == "weight-standardised":
        return [WeightStandardisedConv2d(*shape)]
    if norm not in ("group", "none"):
        raise ModelError(f"model.norm {norm!r} is none of group, weight-standardised, none")
    return normalised(norm, nn.Conv2d(*shape, bias=norm == "none"))


def normalised(norm: Norm, conv: nn.Conv2d) -> list[nn.Module]:
    """Return a convolution of any shape with its normalisation, as layers for a Sequential.

    Args:
        norm: of the convolution.
        conv: a plain one; without a bias where group norm has its own.
    """
    if norm == "weight-standardised":
        return [_as_shaped(WeightStandardisedConv2d, conv)]
    # Without a norm nothing else keeps the variance from layer to layer: He et al. 2015, equation 10.
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    outputs = conv.out_channels
    return [conv] if norm == "none" else [conv, nn.GroupNorm(math.gcd(8, outputs), outputs)]


def fold_weight_standardisation(model: nn.Module) -> nn.Module:
    """Return a copy whose weight-standardised convolutions are plain ones with the same outputs."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, WeightStandardisedConv2d):
                setattr(parent, name, _plain(child))
    return _plain(model) if isinstance(model, WeightStandardisedConv2d) else model


def _plain(conv: WeightStandardisedConv2d) -> nn.Conv2d:
    plain = _as_shaped(nn.Conv2d, conv)
    with torch.no_grad():
        plain.weight.copy_(conv.standardised_weight())
        if conv.bias is not None and plain.bias is not None:
            plain.bias.copy_(conv.bias)
    return plain


def _as_shaped(kind: type[nn.Conv2d], conv: nn.Conv2d) -> nn.Conv2d:
    """Return a new convolution of a kind, of another one's shape; it has a bias where that has one."""
    shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    return kind(*shape, groups=conv.groups, bias=conv.bias is not None)  # type: ignore[arg-type]
