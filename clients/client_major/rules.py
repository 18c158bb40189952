"""From operators of a traced forward pass to layers: a rule an operator."""

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgekit.clients.client_major import fields as f
from edgekit.clients.client_major.parts import Place
from edgekit.clients.client_major.tiles import UNIT
from edgekit.errors import ModelError

if TYPE_CHECKING:
    from edgekit.clients.client_major.program import Program

aten = torch.ops.aten
TRACED = 2
"""Examples of the traced batch."""
BOUNDED = (f.CONVOLUTION, f.DEPTHWISE, f.SUM, f.NORM)
"""Layers that can bound what they give."""
SAME = (aten.detach.default, aten.alias.default, aten.lift_fresh_copy.default, aten.clone.default)
PLAIN = (*SAME, aten.t.default)
"""Operators that rules know of parameters alone."""


@dataclass(frozen=True)
class Computed:
    """What a network computes of its parameters alone: an operator and what it is given."""

    node: torch.fx.Node
    given: tuple[Any, ...]

    def of(self, parameters: Mapping[str, Tensor]) -> Any:
        """Compute it of these parameters."""
        given = [
            one.of(parameters) if isinstance(one, Computed) else parameters[one] if isinstance(one, str) else one
            for one in self.given
        ]
        return self.node.target(*given, **self.node.kwargs)  # type: ignore[operator]

    def leaves(self) -> Iterator[Any]:
        """Give the parameters' names and the numbers that it is computed of."""
        for one in self.given:
            yield from one.leaves() if isinstance(one, Computed) else (one,)


def _place(value: Any) -> Place:
    if not isinstance(value, Place):
        raise ModelError("what it does with parameters alone has no rule")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise ModelError("weights that are computed have no rule")
    return value


def _filled(channels: int) -> int:
    return -(-channels // UNIT) * UNIT


def _convolution(
    p: "Program", node: Any, x: Any, weight: Any, bias: Any, stride: Any, pads: Any, dilation: Any, transposed: Any,
    _: Any, groups: int,
) -> Place:  # fmt: skip
    x, gain, eps = _place(x), "", 0.0
    if isinstance(weight, Computed):
        weight, gain, eps = _standardised(p, weight)
    weight = _name(weight)
    if len(stride) != 2 or transposed or set(dilation) != {1} or x.flat:
        raise ModelError("a convolution that is dilated, transposed or not of images has no rule")
    out, inner, kh, kw = p.shapes[weight]
    if pads[0] >= kh or pads[1] >= kw:
        raise ModelError("a convolution that pads by its whole kernel has no rule")
    channelwise = groups > 1
    if channelwise and not (groups == x.channels == out and x.filled % UNIT == 0):
        raise ModelError("a grouped convolution other than depthwise has no rule")
    height, width = ((size + 2 * pad - k) // s + 1
                     for size, pad, k, s in zip((x.height, x.width), pads, (kh, kw), stride, strict=True))  # fmt: skip
    gives = Place(out, height, width, _filled(out))
    p.pack(weight, (kh, kw, 1 if channelwise else x.filled, gives.filled), (kh, kw, inner, out))
    x.pads = [max(one, other) for one, other in zip(x.pads, pads, strict=True)]
    return p.add(
        f.DEPTHWISE if channelwise else f.CONVOLUTION, [x], gives, kernel=(kh, kw), stride=tuple(stride),
        pads=tuple(pads), weight=weight, bias=_bias(p, bias, gives), gain=_vector(p, gain, gives), eps=eps,
    )  # fmt: skip


def _standardised(p: "Program", computed: Computed) -> tuple[str, str, float]:
    """Return the filters, gains and epsilon of weights, if the network standardises them: it is computed, on some."""
    leaves = list(dict.fromkeys(computed.leaves()))
    names = [one for one in leaves if isinstance(one, str)]
    numbers = {one for one in leaves if isinstance(one, float)}
    if len(names) == 2 and len(numbers) == 1 and 0 < min(numbers) < 1:
        (eps,) = numbers
        filters, gain = sorted(names, key=lambda name: -math.prod(p.shapes[name]))
        if math.prod(p.shapes[gain]) == p.shapes[filters][0]:
            drawn = torch.Generator().manual_seed(0)
            for size in (0.05, 1.0, 30.0):  # a formula that bends somewhere is another one
                parameters = {
                    name: size * torch.randn(p.shapes[name], generator=drawn, dtype=torch.float64) for name in names
                }
                v = parameters[filters]
                columns = (-1, *[1] * (v.dim() - 1))
                apart = v - v.flatten(1).mean(1).reshape(columns)
                scale = parameters[gain].flatten() / (apart.flatten(1).square().sum(1) + eps).sqrt()
                if not torch.allclose(computed.of(parameters), apart * scale.reshape(columns), atol=1e-10):
                    break
            else:
                return filters, gain, eps
    raise ModelError("weights that are computed have no rule, but for standardised ones")


def _norm(
    p: "Program", node: Any, given: Any, gain: Any, shift: Any, examples: int, channels: int, pixels: int, groups: int,
    eps: float,
) -> tuple[Place]:  # fmt: skip
    x = _place(given)
    if x.flat or x.filled % UNIT or gain is None or shift is None:
        raise ModelError("a norm without gain and shift, or of examples or what is flattened, has no rule")
    gives = Place(x.channels, x.height, x.width, x.filled)
    made = p.add(f.NORM, [x], gives, gain=_vector(p, gain, gives), bias=_bias(p, shift, gives), groups=groups, eps=eps)
    return (made,)


def _bias(p: "Program", bias: Any, gives: Place) -> str:
    return "" if bias is None else _vector(p, bias, gives)


def _vector(p: "Program", name: Any, gives: Place) -> str:
    if name:
        p.pack(_name(name), (1, 1, 1, gives.filled), (1, 1, 1, gives.channels))
    return str(name)


class _Turned(str):
    """A parameter's name, of its transpose."""


def _transpose(p: "Program", node: Any, value: Any) -> _Turned:
    return _Turned(_name(value))


def _matrix(p: "Program", node: Any, bias: Any, x: Any, weight: Any) -> Place:
    x = _place(x)
    if not isinstance(weight, _Turned) or not (x.flat or (x.height, x.width) == (1, 1)):
        raise ModelError("a matrix product other than a linear layer's has no rule")
    out = p.shapes[weight][0]
    gives = Place(out, 1, 1, _filled(out))
    p.pack(str(weight), (x.height, x.width, x.filled, gives.filled), (x.height, x.width, x.channels, out))
    return p.add(f.CONVOLUTION, [x], gives, kernel=(x.height, x.width), weight=str(weight), bias=_bias(p, bias, gives))


def _mm(p: "Program", node: Any, x: Any, weight: Any) -> Place:
    return _matrix(p, node, None, x, weight)


def _relu(p: "Program", node: Any, given: Any, low: float = 0.0, high: float = math.inf) -> Place:
    x = _place(given)
    if low != 0 or high not in (6, math.inf):
        raise ModelError("a bound other than ReLU's and ReLU6's has no rule")
    maker, alone = x.maker, x.readers == 0 and p.alone(x)
    while maker is not None and maker.kind == f.MAXIMUM:  # the largest of bounded numbers is the bounded largest
        alone, maker = alone and p.alone(maker.takes[0]), maker.takes[0].maker
    if maker is None or maker.act or not alone or maker.kind not in BOUNDED:
        raise ModelError("a ReLU of what other layers read too, or of no convolution, norm or sum, has no rule")
    maker.act = 2 if high == 6 else 1
    return x


def _maximum(
    p: "Program", node: Any, x: Any, kernel: Any, stride: Any = (), pads: Any = (0,), dilation: Any = (1,),
    ceil: bool = False,
) -> tuple[Place]:  # fmt: skip
    x = _place(x)
    if ceil or set(dilation) != {1} or x.flat or x.filled % UNIT:
        raise ModelError("a pooling that is dilated, rounds up or reads examples has no rule")
    kernel, pads = _pair(kernel), _pair(pads)
    stride = _pair(stride) if stride else kernel
    return (p.add(f.MAXIMUM, [x], _pooled(x, kernel, stride, pads), kernel=kernel, stride=stride, pads=pads),)


def _pair(value: Any) -> tuple[int, int]:
    values = tuple(value)
    return (values[0], values[-1])


def _pooled(x: Place, kernel: Any, stride: Any, pads: Any) -> Place:
    height, width = ((size + 2 * pad - k) // s + 1
                     for size, pad, k, s in zip((x.height, x.width), pads, kernel, stride, strict=True))  # fmt: skip
    return Place(x.channels, height, width, x.filled)


def _average(p: "Program", x: Place, kernel: tuple[int, int], stride: tuple[int, int]) -> Place:
    if x.flat:
        raise ModelError("a mean of what is flattened has no rule")
    return p.add(f.AVERAGE, [x], _pooled(x, kernel, stride, (0, 0)), kernel=kernel, stride=stride)


def _average_pool(
    p: "Program", node: Any, x: Any, kernel: Any, stride: Any = (), pads: Any = (0,), ceil: bool = False, *more: Any
) -> Place:
    if ceil or set(pads) != {0} or (more and more[-1] is not None and more[-1] is not True):
        raise ModelError("a mean of padded windows has no rule")
    return _average(p, _place(x), _pair(kernel), _pair(stride) if stride else _pair(kernel))


def _adaptive(p: "Program", node: Any, x: Any, size: Any) -> Place:
    x, sides = _place(x), _pair(size)
    if x.height % sides[0] or x.width % sides[1]:
        raise ModelError("a pooling of windows of several sizes has no rule")
    kernel = (x.height // sides[0], x.width // sides[1])
    return _average(p, x, kernel, kernel)


def _mean(p: "Program", node: Any, x: Any, dims: Any, keep: bool = False) -> Place:
    x = _place(x)
    if x.flat or sorted(dim % 4 for dim in dims) != [2, 3]:
        raise ModelError("a mean over others than the pixels has no rule")
    return _average(p, x, (x.height, x.width), (x.height, x.width))


def _sum(p: "Program", node: Any, x: Any, y: Any) -> Place:
    x, y = _place(x), _place(y)
    alike = [(one.channels, one.height, one.width, one.filled, one.flat) for one in (x, y)]
    if alike[0] != alike[1] or x is y or x.flat or x.filled % UNIT:
        raise ModelError("a sum of two shapes, or of one thing twice, has no rule")
    return p.add(f.SUM, [x, y], Place(x.channels, x.height, x.width, x.filled))


def _view(p: "Program", node: Any, given: Any, size: Any) -> Place:
    x = _place(given)
    shape = list(node.meta["tensor_meta"].shape)
    count = x.channels * x.height * x.width
    if shape == [TRACED, count]:
        if x.readers or not p.alone(x):
            raise ModelError("a result that is read flattened and as it is has no rule")
        x.flat = (x.height, x.width) != (1, 1)
        return x
    if not x.flat and shape == [TRACED, x.channels, x.height, x.width]:
        return x
    raise ModelError(f"a change of shape to {shape[1:]} has no rule")


def _item(p: "Program", node: Any, values: Any, place: int) -> Any:
    if not isinstance(values, tuple) or place >= len(values):
        raise ModelError("the places of largest numbers have no rule")
    return values[place]


RULES: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: _convolution,
    aten.t.default: _transpose,
    aten.addmm.default: _matrix,
    aten.mm.default: _mm,
    aten.relu.default: _relu,
    aten.relu_.default: _relu,
    aten.hardtanh_.default: _relu,
    aten.hardtanh.default: _relu,
    aten.max_pool2d_with_indices.default: _maximum,
    aten.avg_pool2d.default: _average_pool,
    aten._adaptive_avg_pool2d.default: _adaptive,
    aten.mean.dim: _mean,
    aten.native_group_norm.default: _norm,
    aten.add.Tensor: _sum,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    operator.getitem: _item,
}
