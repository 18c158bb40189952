"""Read a torch module as layers of neurons joined by linear expressions."""

import math
import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from edgekit.errors import ConversionError
from edgekit.models.freezing import FrozenBatchNorm
from edgekit.models.norm import fold_weight_standardisation
from edgekit.models.qcfs import QCFS
from edgekit.neuromorphic import expression as ex
from edgekit.neuromorphic.expression import Expression

_RELU = {F.relu, torch.relu, "relu"}
_RELU6 = {F.relu6}
_ADD = {operator.add, operator.iadd, torch.add, "add", "add_"}
_FLATTEN = {torch.flatten, "flatten"}
_MEAN = {torch.mean, "mean"}


@dataclass(frozen=True)
class Neurons:
    """A layer of neurons.

    Attributes:
        name: of the activation in the network.
        drive: what the neurons integrate.
        ceiling: largest activation, infinite for ReLU, 6 for ReLU6, the threshold for QCFS.
        levels: that the activation is rounded to (QCFS), whose trained threshold is the ceiling; 0 for none.
    """

    name: str
    drive: Expression
    ceiling: float
    levels: int = 0


@dataclass(frozen=True)
class Traced:
    """A network as neurons.

    Attributes:
        input_shape: of the input, (channels, height, width) or (features,); sequences (channels, length) are maps of
            one row.
        layers: in order; sources are numbered by it, -1 is the input.
        readout: the scores.
        frozen: names of norms whose statistics were frozen.
    """

    input_shape: tuple[int, ...]
    layers: tuple[Neurons, ...]
    readout: Expression
    frozen: tuple[str, ...]


@torch.no_grad()
def trace(model: nn.Module, shape: tuple[int, ...], calibration: Tensor) -> Traced:
    """Walk the network's graph.

    Args:
        model: the trained network.
        shape: one example's shape.
        calibration: examples (batch, ...); norms are frozen at their statistics.

    Raises:
        ConversionError: a layer has no spiking form; it is named.
    """
    model = fold_weight_standardisation(model).eval()
    try:
        graph = torch.fx.GraphModule(model, _Tracer().trace(model))
    except Exception as error:  # torch.fx raises many kinds
        raise ConversionError(f"the network's graph depends on its data, so it has no spiking form: {error}") from None
    statistics = _Statistics(model, calibration)
    input_shape = ex.as_map(shape)
    layers: list[Neurons] = []
    values: dict[torch.fx.Node, Any] = {}
    result: Expression | None = None
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = ex.of_source(-1, input_shape)
        elif node.op == "get_attr":
            raise ConversionError(f"{node.target!r}: a bare parameter has no spiking form")
        elif node.op == "output":
            result = values[node.args[0]] if isinstance(node.args[0], torch.fx.Node) else None
        else:
            values[node] = _apply(node, graph, values, layers, statistics)
    if not isinstance(result, Expression):
        raise ConversionError("the network must return its scores as one tensor")
    if not layers:
        raise ConversionError("the network has no ReLU, so there is nothing that could spike")
    if any(term.kind != "dense" for term in result.terms):
        raise ConversionError("the network must end in a linear layer, whose voltages are the scores")
    return Traced(input_shape, tuple(layers), result, tuple(statistics.frozen))


class _Tracer(torch.fx.Tracer):
    """Keeps layers of ours whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether not to look inside."""
        return isinstance(m, QCFS | FrozenBatchNorm) or super().is_leaf_module(m, module_qualified_name)


def _apply(
    node: torch.fx.Node,
    graph: torch.fx.GraphModule,
    values: dict[torch.fx.Node, Any],
    layers: list[Neurons],
    statistics: "_Statistics",
) -> Expression:
    arguments = [values.get(a, a) if isinstance(a, torch.fx.Node) else a for a in node.args]
    x = arguments[0] if arguments else None
    if not isinstance(x, Expression):
        raise ConversionError(f"{node.name!r} has no spiking form")
    if node.op == "call_module":
        return _module(str(node.target), graph.get_submodule(str(node.target)), x, layers, statistics)
    target, name = node.target, node.name
    if target in _ADD and isinstance(arguments[1], Expression):
        if node.kwargs.get("alpha", 1) != 1:
            raise ConversionError(f"{name!r}: an addition with a factor (alpha) has no spiking form")
        return ex.add(x, arguments[1], name)
    if target in _RELU or target in _RELU6:
        return _neurons(name, x, 6.0 if target in _RELU6 else math.inf, layers)
    if target in _FLATTEN:
        given = [*arguments[1:], *node.kwargs.values()]
        if given not in ([], [1], [1, -1]):
            raise ConversionError(f"{name!r}: only flattening all dimensions but the first has a spiking form")
        return ex.flatten(x)
    if target in _MEAN and len(x.shape) == 3:
        dims = node.kwargs.get("dim", arguments[1] if len(arguments) > 1 else None)
        whole = dims in (2, -1) if x.shape[1] == 1 else False
        if whole or (isinstance(dims, tuple | list) and sorted(int(d) % 4 for d in dims) == [2, 3]):
            pooled = ex.average_pool(x, (x.shape[1], x.shape[2]), name)
            keep = bool(node.kwargs.get("keepdim", arguments[2] if len(arguments) > 2 else False))
            return pooled if keep else ex.flatten(pooled)
    if target is F.avg_pool2d and len(arguments) == 2 and not node.kwargs:
        return ex.average_pool(x, _pair(arguments[1]), name)
    if target is F.adaptive_avg_pool2d and _pair(arguments[1]) == (1, 1):
        return ex.average_pool(x, (x.shape[1], x.shape[2]), name)
    if target is F.dropout:
        return x
    raise ConversionError(f"{getattr(target, '__name__', target)} (in {name!r}) has no spiking form")


def _module(name: str, layer: nn.Module, x: Expression, layers: list[Neurons], statistics: "_Statistics") -> Expression:
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        return _convolution(name, layer, x)
    if isinstance(layer, nn.Linear):
        if len(x.shape) != 1:
            raise ConversionError(f"layer {name!r}: a fully connected layer needs a flat input: put Flatten before it")
        return ex.linear(x, layer.weight, layer.bias, name)
    if isinstance(layer, nn.ReLU6):
        return _neurons(name, x, 6.0, layers)
    if isinstance(layer, nn.ReLU):
        return _neurons(name, x, math.inf, layers)
    if isinstance(layer, QCFS):
        threshold = layer.threshold.item()
        if threshold <= 0:
            raise ConversionError(f"layer {name!r}: its threshold fell to {threshold:.3g}; neurons need one above 0")
        return _neurons(name, x, threshold, layers, layer.levels)
    if isinstance(layer, nn.AvgPool1d | nn.AvgPool2d):
        window, stride = (
            _pair(value) if isinstance(layer, nn.AvgPool2d) else (1, _pair(value)[-1])
            for value in (layer.kernel_size, layer.stride)
        )
        if stride != window or any(n != 0 for n in _pair(layer.padding)) or getattr(layer, "divisor_override", None):
            raise ConversionError(f"layer {name!r}: average pooling needs a stride equal to its window, and no padding")
        return ex.average_pool(x, window, name)
    if isinstance(layer, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d) and set(_pair(layer.output_size)) <= {1, (1,)}:
        return ex.average_pool(x, (x.shape[1], x.shape[2]), name)
    if isinstance(layer, nn.Flatten):
        if (layer.start_dim, layer.end_dim) != (1, -1):
            raise ConversionError(f"layer {name!r}: only flattening all dimensions but the first has a spiking form")
        return ex.flatten(x)
    if isinstance(layer, nn.Identity | nn.Dropout | nn.Dropout2d):
        return x
    if isinstance(layer, FrozenBatchNorm):
        return ex.scale_channels(x, layer.scale, layer.shift)
    if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d | nn.GroupNorm | nn.LayerNorm):
        return ex.scale_channels(x, *statistics.affine(name, layer))
    hint = ": use average pooling" if isinstance(layer, nn.MaxPool1d | nn.MaxPool2d) else ""
    raise ConversionError(f"layer {name!r} ({type(layer).__name__}) has no spiking form{hint}")


def _convolution(name: str, layer: nn.Conv1d | nn.Conv2d, x: Expression) -> Expression:
    """Convolve; one-dimensional layers act on maps of one row."""
    if layer.padding_mode != "zeros":
        raise ConversionError(f"layer {name!r}: padding by {layer.padding_mode!r} has no spiking form: use zeros")
    flat = isinstance(layer, nn.Conv1d)
    weight = layer.weight.detach()
    weight = weight.unsqueeze(2) if flat else weight

    def pair(value: Any) -> tuple[int, int]:
        return (1, int(value[0])) if flat else _pair(value)

    dilation, stride = pair(layer.dilation), pair(layer.stride)
    if layer.padding == "same":
        padding = ex.same_padding(weight.shape[2:], dilation, f"layer {name!r}")
    elif layer.padding == "valid":
        padding = (0, 0)
    else:
        padding = (0, int(layer.padding[0])) if flat else _pair(layer.padding)
    return ex.conv2d(x, weight, layer.bias, stride, padding, layer.groups, name, dilation)


def _neurons(name: str, drive: Expression, ceiling: float, layers: list[Neurons], levels: int = 0) -> Expression:
    if len(drive.shape) == 1 and any(term.kind == "conv" for term in drive.terms):
        raise ConversionError(f"layer {name!r}: neurons of a flattened map have no spiking form: put Flatten after it")
    if any(term.kind == "none" for term in drive.terms):
        # Spikes that go on without a weight: each neuron gets its source's, through a weight of one.
        ones = torch.ones(drive.shape[0])
        drive = ex.scale_channels(drive, ones, torch.zeros_like(ones))
    layers.append(Neurons(name, drive, ceiling, levels))
    return ex.of_source(len(layers) - 1, drive.shape)


class _Statistics:
    """Normalisation layers as fixed scales and shifts, from their inputs on the calibration examples."""

    def __init__(self, model: nn.Module, calibration: Tensor) -> None:
        self.model = model
        self.calibration = calibration
        self.frozen: list[str] = []
        self._inputs: dict[str, Tensor] | None = None

    def affine(self, name: str, layer: nn.Module) -> tuple[Tensor, Tensor]:
        """Return (scale, shift), each (channels,), of a norm.

        Batch norm's own statistics are fixed already. A group or layer norm's differ from example to example; here
        each is frozen at its mean over the calibration examples: scale = w E[1 / s], shift = b - w E[m / s].
        """
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            if layer.running_mean is None or layer.running_var is None:
                raise ConversionError(f"layer {name!r} keeps no statistics: use track_running_stats=True")
            weight, bias = _affine_of(layer, len(layer.running_mean))
            scale = weight * torch.rsqrt(layer.running_var + layer.eps)
            return scale, bias - scale * layer.running_mean
        assert isinstance(layer, nn.GroupNorm | nn.LayerNorm)
        self.frozen.append(name)
        x = self._input_of(name)
        channels = layer.num_channels if isinstance(layer, nn.GroupNorm) else x.shape[1]
        groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else 1
        if isinstance(layer, nn.LayerNorm) and x.dim() != 2:
            raise ConversionError(f"layer {name!r}: a layer norm over a map has no spiking form: use a group norm")
        grouped = x.reshape(len(x), groups, -1)
        mean = grouped.mean(2)
        inverse = torch.rsqrt(grouped.var(2, unbiased=False) + layer.eps)
        weight, bias = _affine_of(layer, channels)
        each = channels // groups
        scale = weight * inverse.mean(0).repeat_interleave(each)
        return scale, bias - weight * (mean * inverse).mean(0).repeat_interleave(each)

    def _input_of(self, name: str) -> Tensor:
        if self._inputs is None:
            self._inputs = {}
            handles = []
            for layer_name, layer in self.model.named_modules():
                if isinstance(layer, nn.GroupNorm | nn.LayerNorm):

                    def keep(_: nn.Module, inputs: tuple[Tensor, ...], key: str = layer_name) -> None:
                        assert self._inputs is not None
                        self._inputs[key] = inputs[0]

                    handles.append(layer.register_forward_pre_hook(keep))
            self.model(self.calibration)
            for handle in handles:
                handle.remove()
        return self._inputs[name]


def _affine_of(layer: Any, channels: int) -> tuple[Tensor, Tensor]:
    weight = layer.weight if layer.weight is not None else torch.ones(channels)
    bias = layer.bias if layer.bias is not None else torch.zeros(channels)
    return weight, bias
