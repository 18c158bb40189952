"""Linear expressions over spikes: what stands between one layer of neurons and the next.

Conversion reads a network as neurons joined by affine maps. Pooling, normalisation, residual additions and linear
bottlenecks are all affine, so each is folded, exactly, into the synapses and biases of the neurons that follow.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.errors import ConversionError


@dataclass(frozen=True)
class Term:
    """One source's part: average pooling by `pool`, then a convolution or a matrix, or neither.

    Attributes:
        source: a layer's number, or -1 for the input.
        shape: the source's shape.
        pool: window and stride of the average pooling.
        gain: what its result is multiplied by.
        kind: `none`, `conv` or `dense`.
        weight: of the convolution or matrix; acts on the unpooled source.
        stride, padding, groups: of the convolution.
    """

    source: int
    shape: tuple[int, ...]
    pool: tuple[int, int] = (1, 1)
    gain: float = 1.0
    kind: str = "none"
    weight: Tensor | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1


@dataclass(frozen=True)
class Expression:
    """A sum of terms and a bias.

    Attributes:
        terms: one for each way from a source.
        bias: of `shape`.
        shape: (channels, height, width) or (features,).
    """

    terms: tuple[Term, ...]
    bias: Tensor
    shape: tuple[int, ...]


def of_source(source: int, shape: tuple[int, ...]) -> Expression:
    """Return a source's spikes as they are."""
    return Expression((Term(source, shape),), torch.zeros(shape), shape)


def conv2d(
    x: Expression,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    groups: int,
    name: str,
    dilation: tuple[int, int] = (1, 1),
) -> Expression:
    """Convolve an expression; a dilated kernel is written out with zeros.

    Raises:
        ConversionError: the expression is no map, or a convolution follows another without neurons between, and is not
            1 x 1.
    """
    if len(x.shape) != 3:
        raise ConversionError(f"layer {name!r}: a convolution needs a map, and gets {x.shape}")
    if dilation != (1, 1):
        spread = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
        written = weight.new_zeros(*weight.shape[:2], *spread)
        written[:, :, :: dilation[0], :: dilation[1]] = weight
        weight = written
    new_bias = F.conv2d(x.bias[None], weight, bias, stride, padding, 1, groups)[0]
    terms = tuple(_convolved(term, weight, stride, padding, groups, name) for term in x.terms)
    return Expression(terms, new_bias, tuple(new_bias.shape))


def _convolved(
    term: Term, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], groups: int, name: str
) -> Term:
    if term.kind == "none":
        (p, q) = term.pool
        spread = weight.repeat_interleave(p, 2).repeat_interleave(q, 3) * (term.gain / (p * q))
        return replace(
            term,
            pool=(1, 1),
            gain=1.0,
            kind="conv",
            weight=spread,
            stride=(stride[0] * p, stride[1] * q),
            padding=(padding[0] * p, padding[1] * q),
            groups=groups,
        )
    if term.kind == "conv" and weight.shape[2:] == (1, 1) and stride == (1, 1) and padding == (0, 0):
        assert term.weight is not None
        first, second = ungrouped(term.weight, term.groups), ungrouped(weight, groups)
        return replace(term, weight=torch.einsum("om,mcij->ocij", second[:, :, 0, 0], first), groups=1)
    raise ConversionError(
        f"layer {name!r}: a convolution after a linear layer, with no activation between, has no spiking form unless "
        "it is 1 x 1: put a ReLU between them"
    )


def as_map(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a sequence's shape, (channels, length), as that of a map of one row; others as they are."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def same_padding(kernel: Sequence[int], dilation: Sequence[int], where: str) -> tuple[int, int]:
    """Return the padding that keeps a map's size.

    Raises:
        ConversionError: the kernel is even; it would differ from side to side.
    """
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(size % 2 for size in reach):
        raise ConversionError(f"{where}: 'same' padding needs an odd kernel")
    return reach[0] // 2, reach[1] // 2


def ungrouped(weight: Tensor, groups: int) -> Tensor:
    """Return a grouped convolution's weight as that of a plain one, zeros between the groups."""
    if groups == 1:
        return weight
    parts = weight.chunk(groups)
    blocks = [
        F.pad(part, (0, 0, 0, 0, i * part.shape[1], (groups - 1 - i) * part.shape[1])) for i, part in enumerate(parts)
    ]
    return torch.cat(blocks)


def linear(x: Expression, weight: Tensor, bias: Tensor | None, name: str) -> Expression:
    """Multiply a flat expression with a matrix (out, in).

    Raises:
        ConversionError: the expression is a convolution, with no activation between.
    """
    terms = []
    for term in x.terms:
        if term.kind == "none":
            matrix = weight
            if len(term.shape) == 3 and term.pool != (1, 1):
                (p, q), (channels, height, width) = term.pool, term.shape
                pooled = weight.view(len(weight), channels, height // p, width // q)
                matrix = (pooled.repeat_interleave(p, 2).repeat_interleave(q, 3) / (p * q)).flatten(1)
            terms.append(replace(term, pool=(1, 1), gain=1.0, kind="dense", weight=matrix * term.gain))
        elif term.kind == "dense":
            assert term.weight is not None
            terms.append(replace(term, weight=weight @ term.weight))
        else:
            raise ConversionError(
                f"layer {name!r}: a fully connected layer after a convolution, with no activation between, has no "
                "spiking form: put a ReLU between them"
            )
    new_bias = F.linear(x.bias.flatten()[None], weight, bias)[0]
    return Expression(tuple(terms), new_bias, tuple(new_bias.shape))


def average_pool(x: Expression, window: tuple[int, int], name: str, gain: float = 1.0) -> Expression:
    """Average-pool an expression; window and stride are the same.

    Args:
        x: the expression.
        window: of the pooling.
        name: of the layer, for errors.
        gain: what the means are multiplied by; the window's size makes sums of them.

    Raises:
        ConversionError: the map is not a multiple of the window, or a linear layer comes before.
    """
    if any(size % part for size, part in zip(x.shape[1:], window, strict=True)):
        raise ConversionError(
            f"layer {name!r}: a map of {x.shape[1:]} is not a multiple of the pooling window {window}"
        )
    terms = []
    for term in x.terms:
        if term.kind != "none":
            raise ConversionError(
                f"layer {name!r}: average pooling of a linear layer has no spiking form: put a ReLU before it"
            )
        pool = (term.pool[0] * window[0], term.pool[1] * window[1])
        terms.append(replace(term, pool=pool, gain=term.gain * gain))
    bias = F.avg_pool2d(x.bias[None], window)[0] * gain
    return Expression(tuple(terms), bias, tuple(bias.shape))


def flatten(x: Expression) -> Expression:
    """Flatten the shape; the terms keep their source's."""
    bias = x.bias.flatten()
    return Expression(x.terms, bias, tuple(bias.shape))


def add(x: Expression, y: Expression, name: str) -> Expression:
    """Add two expressions: a residual.

    Raises:
        ConversionError: their shapes differ.
    """
    if x.shape != y.shape:
        raise ConversionError(f"{name!r}: {x.shape} and {y.shape} are added, which has no spiking form")
    return Expression(x.terms + y.terms, x.bias + y.bias, x.shape)


def scale_channels(x: Expression, scale: Tensor, shift: Tensor) -> Expression:
    """Multiply each channel by a number and add another: a frozen normalisation."""
    channels = len(scale)
    terms = []
    for term in x.terms:
        if term.kind == "none":
            if len(x.shape) == 1 and term.pool != (1, 1):
                return linear(x, torch.diag(scale), shift, "norm")
            if len(x.shape) == 1:
                terms.append(replace(term, gain=1.0, kind="dense", weight=torch.diag(scale * term.gain)))
                continue
            (p, q) = term.pool
            weight = scale.view(-1, 1, 1, 1).expand(channels, 1, p, q) * (term.gain / (p * q))
            shared: dict[str, Any] = {"pool": (1, 1), "gain": 1.0, "stride": (p, q), "padding": (0, 0)}
            terms.append(replace(term, kind="conv", weight=weight, groups=channels, **shared))
        else:
            assert term.weight is not None
            if len(scale) != len(term.weight):
                raise ConversionError("a norm over a flattened convolution has no spiking form: put it before Flatten")
            terms.append(replace(term, weight=term.weight * scale.view(-1, *[1] * (term.weight.dim() - 1))))
    columns = (-1, *[1] * (len(x.shape) - 1))
    return Expression(tuple(terms), x.bias * scale.view(columns) + shift.view(columns), x.shape)
