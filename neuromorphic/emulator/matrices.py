"""Exact products with a matrix: by eight-bit kernels where the operands fit, else in floats that are wide enough."""

from abc import ABC, abstractmethod

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from edgekit.neuromorphic.loihi import Integers, Weight

WIDTH = 16
"""Outputs of the eight-bit product are a multiple of this: at 10 it is three times slower than at 16."""
LARGEST_MATRIX = 1 << 22
"""Entries of a convolution written out as one matrix: beyond, the matrix leaves the cache."""

# Measured on one core of a server with eight-bit vector products; ratios are all that the choice of a form needs.
BYTE_MACS_PER_NS = 200.0
FLOAT_MACS_PER_NS = 30.0
GROUPED_MACS_PER_NS = 20.0


class Product(ABC):
    """Maps rows of a source, (rows, ...), to int32 (rows, width); columns beyond `outputs` are zero."""

    outputs: int
    width: int

    @abstractmethod
    def __call__(self, rows: Tensor) -> Tensor:
        """Return the product."""


def row_sum(weight: Weight) -> int:
    """Return the largest sum of absolute weights into one neuron."""
    if isinstance(weight, csr_array):
        return int(abs(weight).sum(1, dtype=np.int64).max(initial=0))
    return int(np.abs(weight.reshape(len(weight), -1).astype(np.int64)).sum(1).max(initial=0))


def byte_products_work() -> bool:
    """Whether this build of torch multiplies eight-bit matrices, and rightly."""
    left = torch.arange(-64, 64, dtype=torch.int8).view(4, 32)
    right = torch.empty(32, WIDTH, dtype=torch.int8).copy_(torch.arange(512).remainder(251).sub(125).view(32, WIDTH))
    try:
        return bool((torch._int_mm(left, right) == left.int() @ right.int()).all())
    except RuntimeError:
        return False


_BYTES = byte_products_work()


def matrix(weight: Integers, largest: int) -> tuple["Product", int]:
    """Return the product with a matrix (out, in), and the left shift it still lacks."""
    if _BYTES and largest <= 127 and row_sum(weight) * largest < 1 << 31:
        for halved in (0, 1):
            smaller = weight >> halved
            if not (weight & halved).any() and smaller.min(initial=0) >= -128 and smaller.max(initial=0) <= 127:
                return ByteMatrix(smaller), halved
    return FloatMatrix(weight, largest), 0


def float_type(weight: Integers, largest: int) -> torch.dtype:
    """Return the floats that hold every sum exactly."""
    return torch.float32 if row_sum(weight) * largest < 1 << 24 else torch.float64


class ByteMatrix(Product):
    """A product by eight-bit kernels."""

    def __init__(self, weight: Integers) -> None:
        self.outputs = len(weight)
        self.width = -(-self.outputs // WIDTH) * WIDTH
        padded = np.pad(weight, ((0, self.width - self.outputs), (0, 0))).astype(np.int8)
        # A tensor of its own: of one input, a transposed view has strides (1, 1), which the product misreads.
        self.weight = torch.empty(weight.shape[1], self.width, dtype=torch.int8).copy_(torch.from_numpy(padded).t())

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the product."""
        # Contiguous: of overlapping windows a view would do for torch, but the product reads beyond it.
        return torch._int_mm(rows.flatten(1).to(torch.int8).contiguous(), self.weight)


class FloatMatrix(Product):
    """A product in floats that hold every sum exactly."""

    def __init__(self, weight: Integers, largest: int) -> None:
        self.outputs = self.width = len(weight)
        self.weight = torch.from_numpy(weight).to(float_type(weight, largest))

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the product."""
        product = F.linear(rows.flatten(1).to(self.weight.dtype), self.weight)
        # By way of int64: what does not fit wraps, as it does in Lava.
        return product.to(torch.int64).to(torch.int32)
