"""Exact convolutions, each in the form that is fastest for its shape: a matrix, rows, patches, or torch's own."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.neuromorphic.emulator.matrices import (
    BYTE_MACS_PER_NS,
    FLOAT_MACS_PER_NS,
    GROUPED_MACS_PER_NS,
    LARGEST_MATRIX,
    WIDTH,
    Product,
    float_type,
    matrix,
)
from edgekit.neuromorphic.loihi import Integers, LoihiSynapse


@dataclass(frozen=True)
class Geometry:
    """A convolution's shapes; pairs are (height, width)."""

    source: tuple[int, int, int]
    target: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def convolution(
    synapse: LoihiSynapse, weight: Integers, source: tuple[int, ...], target: tuple[int, ...], largest: int
) -> tuple[Product, int, float]:
    """Return a convolution in its fastest form, the left shift it still lacks, and about how many ns a row takes."""
    (c, h, w), (o, p, q) = source, target
    kernel = (weight.shape[2], weight.shape[3])
    shapes = Geometry((c, h, w), (o, p, q), kernel, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
    macs = p * q * o * kernel[0] * kernel[1] * c / synapse.groups
    row_in, row_out = kernel[0] * w * c, q * o
    gathered = c / 8 if c % 8 == 0 else c  # eight channels are gathered as one element
    speed = GROUPED_MACS_PER_NS if synapse.groups > 1 else FLOAT_MACS_PER_NS
    cost = {"float": macs / speed + 0.3 * (c * h * w + o * p * q)}
    if c * h * w * o * p * q < LARGEST_MATRIX:
        cost["whole"] = c * h * w * o * p * q / BYTE_MACS_PER_NS
    if row_in * row_out < LARGEST_MATRIX // 4 and synapse.dilation[0] == 1:
        cost["rows"] = p * (row_in * row_out / BYTE_MACS_PER_NS + row_in / 8)
    if synapse.groups == 1:
        copying = 0.0 if kernel == (1, 1) else kernel[0] * (kernel[1] * gathered + 5)
        cost["patches"] = p * q * (kernel[0] * kernel[1] * c * max(o, WIDTH) / BYTE_MACS_PER_NS + copying)
    best = min(cost, key=lambda form: cost[form])
    if best == "whole":
        return *matrix(_written_out(weight, shapes), largest), cost[best]
    if best == "rows":
        inner, halved = matrix(_one_row_written_out(weight, shapes), largest)
        return _Rows(inner, shapes), halved, cost[best]
    if best == "patches":
        inner, halved = matrix(np.ascontiguousarray(weight.transpose(0, 2, 3, 1).reshape(o, -1)), largest)
        return _Patches(inner, shapes), halved, cost[best]
    return _FloatConvolution(weight, shapes, largest), 0, cost[best]


def _written_out(weight: Integers, shapes: Geometry) -> Integers:
    """Return the convolution as one matrix, (height * width * out, height * width * in)."""
    c, h, w = shapes.source
    basis = torch.eye(c * h * w).view(-1, c, h, w)
    out = F.conv2d(
        basis, torch.from_numpy(weight).float(), None, shapes.stride, shapes.padding, shapes.dilation, shapes.groups
    )
    o, p, q = shapes.target
    matrix = out.view(c, h, w, o, p, q).permute(4, 5, 3, 1, 2, 0).reshape(p * q * o, h * w * c)
    return np.ascontiguousarray(matrix.numpy().astype(np.int32))


def _one_row_written_out(weight: Integers, shapes: Geometry) -> Integers:
    """Return one row of the output as a matrix over the rows of the input it sees."""
    (c, _, w), k = shapes.source, shapes.kernel[0]
    basis = torch.eye(c * k * w).view(-1, c, k, w)
    stride, padding, dilation = (1, shapes.stride[1]), (0, shapes.padding[1]), (1, shapes.dilation[1])
    out = F.conv2d(basis, torch.from_numpy(weight).float(), None, stride, padding, dilation, shapes.groups)
    o, _, q = shapes.target
    matrix = out.view(c, k, w, o, q).permute(4, 3, 1, 2, 0).reshape(q * o, k * w * c)
    return np.ascontiguousarray(matrix.numpy().astype(np.int32))


class _Rows(Product):
    """A convolution as one matrix product a row of the output."""

    def __init__(self, inner: Product, shapes: Geometry) -> None:
        self.inner, self.shapes = inner, shapes
        self.outputs = self.width = int(np.prod(shapes.target))

    def __call__(self, rows: Tensor) -> Tensor:
        shapes = self.shapes
        pad = shapes.padding[0]
        padded = (F.pad(rows, (0, 0, 0, 0, pad, pad)) if pad else rows).contiguous()
        line = padded.shape[2] * padded.shape[3]
        seen = padded.as_strided(
            (len(rows), shapes.target[1], shapes.kernel[0], line),
            (padded.stride(0), line * shapes.stride[0], line, 1),
        )
        product = self.inner(seen.reshape(len(rows) * shapes.target[1], -1))
        return product[:, : self.inner.outputs].reshape(len(rows), -1)


class _Patches(Product):
    """A convolution as one matrix product over the patches it sees."""

    def __init__(self, inner: Product, shapes: Geometry) -> None:
        self.inner, self.shapes = inner, shapes
        self.outputs = self.width = int(np.prod(shapes.target))

    def __call__(self, rows: Tensor) -> Tensor:
        shapes = self.shapes
        (_, p, q), (kh, kw) = shapes.target, shapes.kernel
        if shapes.padding != (0, 0):
            rows = F.pad(rows, (0, 0, shapes.padding[1], shapes.padding[1], shapes.padding[0], shapes.padding[0]))
        rows = rows.contiguous()
        wide = rows.dtype is torch.int8 and rows.shape[3] % 8 == 0
        if wide:
            rows = rows.view(torch.int64)
        a, b, c, _ = rows.stride()
        patches = rows.as_strided(
            (len(rows), p, q, kh, kw, rows.shape[3]),
            (a, b * shapes.stride[0], c * shapes.stride[1], b * shapes.dilation[0], c * shapes.dilation[1], 1),
        ).reshape(len(rows) * p * q, -1)
        product = self.inner(patches.view(torch.int8) if wide else patches)
        return product[:, : self.inner.outputs].reshape(len(rows), -1)


class _FloatConvolution(Product):
    def __init__(self, weight: Integers, shapes: Geometry, largest: int) -> None:
        self.shapes = shapes
        self.outputs = self.width = int(np.prod(shapes.target))
        self.weight = torch.from_numpy(weight).to(float_type(weight, largest))

    def __call__(self, rows: Tensor) -> Tensor:
        s = self.shapes
        maps = rows.permute(0, 3, 1, 2).to(self.weight.dtype)
        out = F.conv2d(maps, self.weight, None, s.stride, s.padding, s.dilation, s.groups)
        return out.permute(0, 2, 3, 1).to(torch.int64).to(torch.int32).reshape(len(rows), -1)
