"""Integer products of a layer's inputs with its weights: exact, over all time steps and examples at once.

Maps are kept (rows, height, width, channels), so that channels lie side by side. Each synapse takes the form that is
fastest for its shape; all give the same integers.

- Eight-bit kernels where the operands fit: weights of mixed sign are even on Loihi, so that half of them does.
- Otherwise products in floats that are wide enough to be exact: below 2^24 in float32, below 2^53 in float64.
- Event by event, in compiled loops, where spikes are so rare that this is less work.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from edgekit.neuromorphic.connections import connections
from edgekit.neuromorphic.emulator.scans import scatter
from edgekit.neuromorphic.loihi import Integers, LoihiSynapse, Weight, prepared_weight

WIDTH = 16
"""Outputs of the eight-bit product are a multiple of this: at 10 it is three times slower than at 16."""
LARGEST_MATRIX = 1 << 22
"""Entries of a convolution written out as one matrix: beyond, the matrix leaves the cache."""
MOST_LISTED_CONNECTIONS = 1 << 21
"""Connections of a synapse beyond which no list of them is made to follow single events."""

# Measured on one core of a server with eight-bit vector products; ratios are all that the choice of a form needs.
BYTE_MACS_PER_NS = 200.0
FLOAT_MACS_PER_NS = 30.0
GROUPED_MACS_PER_NS = 20.0
NS_PER_EVENT_SYNAPSE = 0.7
NS_PER_COUNTED_SOURCE = 0.3


@dataclass(frozen=True)
class Term:
    """One part of a layer's drive: product, shift and delay.

    Attributes:
        product: of the source's rows with the weights.
        shift: left shift that is still due, right if negative.
        wrap24: whether Lava wraps the result to 24 bits (convolutions).
        bound: largest activation there can be, in absolute value.
        delay: time steps.
        source: a layer's number, or INPUT.
        binary: whether any message counts as one spike.
    """

    product: "Product"
    shift: int
    wrap24: bool
    bound: int
    delay: int
    source: int
    binary: bool

    @property
    def direct(self) -> bool:
        """Whether messages go on as they are, through no synapse."""
        return isinstance(self.product, _Identity)

    def raw(self, rows: Tensor, graded: bool) -> Tensor:
        """Return the bare product, int32 (rows, width): rows (rows, ...) of messages, which may be graded."""
        return self.product((rows != 0).to(torch.int8) if graded and self.binary else rows)

    def activation(self, rows: Tensor, graded: bool) -> Tensor:
        """Return the shifted and wrapped activation, int32 (rows, outputs)."""
        raw = self.raw(rows, graded)[:, : self.product.outputs]
        shifted = raw << self.shift if self.shift >= 0 else raw >> -self.shift
        return ((shifted + (1 << 23)) & ((1 << 24) - 1)) - (1 << 23) if self.wrap24 else shifted


class Product(ABC):
    """Maps rows of a source, (rows, ...), to int32 (rows, width); columns beyond `outputs` are zero."""

    outputs: int
    width: int

    @abstractmethod
    def __call__(self, rows: Tensor) -> Tensor:
        """Return the product."""


def terms(synapse: LoihiSynapse, source: tuple[int, ...], target: tuple[int, ...], largest: int) -> list[Term]:
    """Return what a synapse's drive is made of: a term for each of its delays.

    Args:
        synapse: the synapse.
        source, target: shapes in the network's own order, (channels, height, width) or (neurons,).
        largest: message that the source can send, in absolute value.
    """
    if synapse.kind == "direct":
        return [Term(_Identity(int(np.prod(source))), 0, False, largest, 0, synapse.source, False)]
    binary = synapse.message_bits == 0
    largest = 1 if binary else largest
    found = []
    for delay, part in _by_delay(synapse):
        weight = prepared_weight(part)
        bound = _row_sum(weight) * largest
        product, halved = _product(part, weight, source, target, largest)
        if synapse.kind == "conv":
            found.append(Term(product, halved, bound >= 1 << 23, bound, delay, synapse.source, binary))
        else:
            exponent = synapse.weight_exponent
            found.append(
                Term(product, exponent + halved, False, bound << max(exponent, 0), delay, synapse.source, binary)
            )
    return found


def _by_delay(synapse: LoihiSynapse) -> Iterator[tuple[int, LoihiSynapse]]:
    """Split a synapse by its connections' delays, since each delay's sum is shifted by itself."""
    if isinstance(synapse.delay, int):
        yield synapse.delay, synapse
        return
    for delay in np.unique(synapse.delay):
        yield int(delay), synapse.with_delay(int(delay))


def _product(
    synapse: LoihiSynapse, weight: Weight, source: tuple[int, ...], target: tuple[int, ...], largest: int
) -> tuple[Product, int]:
    """Return the fastest form of a product, and the left shift it still lacks."""
    sources, targets = int(np.prod(source)), int(np.prod(target))
    if synapse.kind == "conv":
        assert isinstance(weight, np.ndarray)
        whole, halved, ns_per_row = _convolution(synapse, weight, source, target, largest)
        count = weight.size // len(weight) * targets
    elif weight.shape[0] * weight.shape[1] <= LARGEST_MATRIX or not isinstance(weight, csr_array):
        matrix = weight.toarray() if isinstance(weight, csr_array) else weight
        ordered = np.ascontiguousarray(matrix[:, _channels_last(source)][_channels_last(target)])
        whole, halved = _matrix(ordered, largest)
        speed = BYTE_MACS_PER_NS if isinstance(whole, _ByteMatrix) else FLOAT_MACS_PER_NS
        count, ns_per_row = int(np.count_nonzero(ordered)), matrix.size / speed
    else:
        return _Events(weight[_channels_last(target)][:, _channels_last(source)], targets), 0
    if count > MOST_LISTED_CONNECTIONS:
        return whole, halved
    listed = connections(replace(synapse, weight=weight), source, target)
    ordered_list = listed[_channels_last(target)][:, _channels_last(source)]
    ordered_list.data >>= halved
    return _Either(whole, _Events(ordered_list, whole.width), sources, ns_per_row), halved


def _channels_last(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return, in the order (height, width, channels), where each neuron lies in (channels, height, width)."""
    places = np.arange(int(np.prod(shape))).reshape(shape)
    return (places.transpose(1, 2, 0) if len(shape) == 3 else places).ravel()


def _row_sum(weight: Weight) -> int:
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


def _matrix(weight: Integers, largest: int) -> tuple["Product", int]:
    """Return the product with a matrix (out, in), and the left shift it still lacks."""
    if _BYTES and largest <= 127 and _row_sum(weight) * largest < 1 << 31:
        for halved in (0, 1):
            smaller = weight >> halved
            if not (weight & halved).any() and smaller.min(initial=0) >= -128 and smaller.max(initial=0) <= 127:
                return _ByteMatrix(smaller), halved
    return _FloatMatrix(weight, largest), 0


def _float_type(weight: Integers, largest: int) -> torch.dtype:
    return torch.float32 if _row_sum(weight) * largest < 1 << 24 else torch.float64


class _Identity(Product):
    def __init__(self, outputs: int) -> None:
        self.outputs = self.width = outputs

    def __call__(self, rows: Tensor) -> Tensor:
        return rows.flatten(1).to(torch.int32)


class _Events(Product):
    """A product that follows each spike to the neurons it reaches, from a list of connections."""

    def __init__(self, connected: csr_array, width: int) -> None:
        self.outputs, self.width = connected.shape[0], width
        by_source = connected.tocsc()
        self.starts = by_source.indptr.astype(np.int32)
        self.targets = by_source.indices.astype(np.int32)
        self.weights = by_source.data.astype(np.int32)

    def __call__(self, rows: Tensor) -> Tensor:
        where = torch.nonzero(flat := rows.flatten(1))
        values = flat[where[:, 0], where[:, 1]].to(torch.int32)
        out = torch.zeros(len(rows), self.width, dtype=torch.int32)
        scatter(
            where[:, 0].numpy(),
            where[:, 1].numpy(),
            values.numpy(),
            self.starts,
            self.targets,
            self.weights,
            out.numpy(),
        )
        return out


class _Either(Product):
    """A product over all neurons, or event by event where the rows at hand have few."""

    def __init__(self, whole: Product, events: _Events, sources: int, ns_per_row: float) -> None:
        self.whole, self.events = whole, events
        self.outputs, self.width = whole.outputs, whole.width
        fan_out = max(1.0, len(events.targets) / max(1, sources))
        self.most_per_row = (ns_per_row - sources * NS_PER_COUNTED_SOURCE) / (NS_PER_EVENT_SYNAPSE * fan_out)

    def __call__(self, rows: Tensor) -> Tensor:
        # Looking for events costs time too: not where less than one a row would pay.
        if self.most_per_row > 1 and int(torch.count_nonzero(rows)) < self.most_per_row * len(rows):
            return self.events(rows)
        return self.whole(rows)


class _ByteMatrix(Product):
    def __init__(self, weight: Integers) -> None:
        self.outputs = len(weight)
        self.width = -(-self.outputs // WIDTH) * WIDTH
        padded = np.pad(weight, ((0, self.width - self.outputs), (0, 0))).astype(np.int8)
        # A tensor of its own: of one input, a transposed view has strides (1, 1), which the product misreads.
        self.weight = torch.empty(weight.shape[1], self.width, dtype=torch.int8).copy_(torch.from_numpy(padded).t())

    def __call__(self, rows: Tensor) -> Tensor:
        # Contiguous: of overlapping windows a view would do for torch, but the product reads beyond it.
        return torch._int_mm(rows.flatten(1).to(torch.int8).contiguous(), self.weight)


class _FloatMatrix(Product):
    def __init__(self, weight: Integers, largest: int) -> None:
        self.outputs = self.width = len(weight)
        self.weight = torch.from_numpy(weight).to(_float_type(weight, largest))

    def __call__(self, rows: Tensor) -> Tensor:
        product = F.linear(rows.flatten(1).to(self.weight.dtype), self.weight)
        # By way of int64: what does not fit wraps, as it does in Lava.
        return product.to(torch.int64).to(torch.int32)


@dataclass(frozen=True)
class _Geometry:
    """A convolution's shapes; pairs are (height, width)."""

    source: tuple[int, int, int]
    target: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def _convolution(
    synapse: LoihiSynapse, weight: Integers, source: tuple[int, ...], target: tuple[int, ...], largest: int
) -> tuple[Product, int, float]:
    """Return a convolution in its fastest form, the left shift it still lacks, and about how many ns a row takes."""
    (c, h, w), (o, p, q) = source, target
    kernel = (weight.shape[2], weight.shape[3])
    shapes = _Geometry((c, h, w), (o, p, q), kernel, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
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
        return *_matrix(_written_out(weight, shapes), largest), cost[best]
    if best == "rows":
        inner, halved = _matrix(_one_row_written_out(weight, shapes), largest)
        return _Rows(inner, shapes), halved, cost[best]
    if best == "patches":
        inner, halved = _matrix(np.ascontiguousarray(weight.transpose(0, 2, 3, 1).reshape(o, -1)), largest)
        return _Patches(inner, shapes), halved, cost[best]
    return _FloatConvolution(weight, shapes, largest), 0, cost[best]


def _written_out(weight: Integers, shapes: _Geometry) -> Integers:
    """Return the convolution as one matrix, (height * width * out, height * width * in)."""
    c, h, w = shapes.source
    basis = torch.eye(c * h * w).view(-1, c, h, w)
    out = F.conv2d(
        basis, torch.from_numpy(weight).float(), None, shapes.stride, shapes.padding, shapes.dilation, shapes.groups
    )
    o, p, q = shapes.target
    matrix = out.view(c, h, w, o, p, q).permute(4, 5, 3, 1, 2, 0).reshape(p * q * o, h * w * c)
    return np.ascontiguousarray(matrix.numpy().astype(np.int32))


def _one_row_written_out(weight: Integers, shapes: _Geometry) -> Integers:
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

    def __init__(self, inner: Product, shapes: _Geometry) -> None:
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

    def __init__(self, inner: Product, shapes: _Geometry) -> None:
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
    def __init__(self, weight: Integers, shapes: _Geometry, largest: int) -> None:
        self.shapes = shapes
        self.outputs = self.width = int(np.prod(shapes.target))
        self.weight = torch.from_numpy(weight).to(_float_type(weight, largest))

    def __call__(self, rows: Tensor) -> Tensor:
        s = self.shapes
        maps = rows.permute(0, 3, 1, 2).to(self.weight.dtype)
        out = F.conv2d(maps, self.weight, None, s.stride, s.padding, s.dilation, s.groups)
        return out.permute(0, 2, 3, 1).to(torch.int64).to(torch.int32).reshape(len(rows), -1)
