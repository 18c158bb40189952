"""Ranges of activations for integer files: taken from examples, and wide enough for what integers can say."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.arrays import Array
from edgekit.export.metadata import operators_of, packed, parsed

Inputs = Mapping[str, Sequence[Mapping[str, Array]]]
"""Examples by signature: each its inputs by name, batch 1 first."""
Ranges = dict[str, dict[str, Any]]
"""`min` and `max` by the name of the tensor, as the quantiser takes them."""
SAMPLED = 2048
"""Values of a tensor and example that percentiles are taken of, at most."""
LARGEST_BIAS = 2.0**30
"""A bias is an int32 in units of input scale times weight scale; half of that leaves room for the sum."""
LARGEST_RATIO = 128.0
"""Of input scale times weight scale to output scale; XNNPACK takes no file with 256 or more."""
WEIGHTS_LEVELS, ACTIVATION_LEVELS = 127.0, 255.0
BIAS_UNIT = WEIGHTS_LEVELS * ACTIVATION_LEVELS / LARGEST_BIAS
"""The least product of input range and largest weight for a bias of 1."""


def from_examples(made: Any, inputs: Inputs, float32: bytes, percentile: float = 100.0) -> Ranges:
    """Return each tensor's range over all examples.

    Given all at once, the quantiser would take a moving average of each example's extremes, and large scores saturate:
    on the built-in example the largest error was ten times this one's.

    Args:
        made: the quantiser.
        inputs: the examples.
        float32: the file.
        percentile: share of the values, in percent, that the range shall hold; the rest saturates.
    """
    found: Ranges = {}
    for signature, examples in inputs.items():
        for example in examples:
            for tensor, one in made.calibrate({signature: [dict(example)]}).items():
                before = found.get(tensor, one)
                found[tensor] = {
                    **one,
                    "min": np.minimum(before["min"], one["min"]),
                    "max": np.maximum(before["max"], one["max"]),
                }
    if percentile < 100:
        for tensor, many in values(float32, inputs, set(found) - ends(float32), SAMPLED).items():
            low, high = np.percentile(np.concatenate(many), [100 - percentile, percentile])
            one = found[tensor]
            found[tensor] = {**one, "min": np.full_like(one["min"], low), "max": np.full_like(one["max"], high)}
    return found


def values(content: bytes, inputs: Inputs, wanted: Iterable[str], sampled: int = 0) -> dict[str, list[Array]]:
    """Return the values of a file's tensors for each example, flat.

    Args:
        content: the file.
        inputs: the examples.
        wanted: names of tensors.
        sampled: how many values of each, evenly drawn, at most; 0 gives all.
    """
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that keeping all tensors takes memory
        interpreter = Interpreter(model_content=content, num_threads=1, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    names, seen = set(wanted), dict[str, list[Array]]()
    for signature, examples in inputs.items():
        runner = interpreter.get_signature_runner(signature)
        graph = runner._subgraph_index
        details = [one for one in interpreter.get_tensor_details(graph) if one["name"] in names]
        for example in examples:
            runner(**example)
            for one in details:
                if one["dtype"] == np.float32:
                    flat = interpreter.get_tensor(one["index"], graph).ravel()
                    every = max(1, -(-flat.size // sampled)) if sampled else 1
                    seen.setdefault(one["name"], []).append(flat[::every].copy())
    return seen


def ends(content: bytes) -> set[str]:
    """Return the names of what a file takes and gives."""
    return {
        graph.tensors[number].name.decode()
        for graph in parsed(content).subgraphs
        for number in (*graph.inputs, *graph.outputs)
    }


def layers(float32: bytes, operators: Iterable[int]) -> list[str]:
    """Return names of what a file's layers with weights write."""
    return [layer.target for layer in weighty(float32, operators)]


def widened(ranges: Ranges, float32: bytes, operators: Iterable[int]) -> Ranges:
    """Return ranges that biases and products fit into.

    A ReLU that no example passes has the range 0 to 0, from which the quantiser makes a scale of 4e-12. The layer
    behind it then has a bias beyond int32, which saturates without a word, and XNNPACK refuses the layer before it, or
    ends the process: so failed squeeze-excite, whose few units are often off.

    Args:
        ranges: of the tensors.
        float32: the file.
        operators: codes of those that become integers.
    """
    found = {name: dict(one) for name, one in ranges.items()}

    def widen(name: str, least: float) -> None:
        if _span(found[name]) < least:
            found[name]["max"] = np.minimum(found[name]["min"], 0) + np.float32(least)

    for name in found:
        if _span(found[name]) == 0:
            widen(name, 1.0)
    for layer in weighty(float32, operators):
        steepest = float(np.abs(layer.weight).max(initial=0))
        if steepest and layer.source in found and layer.target in found:
            widen(layer.source, float(np.abs(layer.bias).max(initial=0)) / steepest * BIAS_UNIT)
            widen(layer.target, _span(found[layer.source]) * steepest / (LARGEST_RATIO * WEIGHTS_LEVELS))
    return found


def _span(one: dict[str, Any]) -> float:
    """Return how wide a range is, with the zero that integers hold exactly."""
    return float(np.max(np.maximum(one["max"], 0)) - np.min(np.minimum(one["min"], 0)))


def with_weights_for_biases(float32: bytes, ranges: Ranges, operators: Iterable[int]) -> bytes:
    """Return the file with no filter too small for its bias.

    Where all of a filter's weights are (nearly) zero, as in pruned networks, its scale is as small, and the bias
    saturates. One weight becomes so large that the bias fits; it moves the output by at most 3e-5 of the bias.

    Args:
        float32: the file.
        ranges: of its tensors.
        operators: codes of those that become integers.
    """
    model = parsed(float32)
    changed = False
    for layer in _layers_of(model, operators):
        if not len(layer.bias) or layer.source not in ranges or not layer.owned:
            continue
        rows = np.moveaxis(layer.weight, layer.axis, 0)
        flat = rows.reshape(len(rows), -1)
        least = np.abs(layer.bias) * BIAS_UNIT / max(_span(ranges[layer.source]), 1e-30)
        small = np.abs(flat).max(1) < least
        if len(least) == len(flat) and small.any() and np.abs(flat).max():
            flat = flat.copy()
            flat[small, 0] = least[small]
            whole = np.moveaxis(flat.reshape(rows.shape), 0, layer.axis)
            model.buffers[layer.buffer].data = np.frombuffer(np.ascontiguousarray(whole).tobytes(), np.uint8)
            changed = True
    return packed(model, len(float32)) if changed else float32


class Layer:
    """An operator with weights: names of what it reads and writes, and its numbers.

    Attributes:
        source, target: names of tensors.
        weight: with the filters along `axis`.
        bias: (filters,); () without.
        axis: of the filters.
        buffer: where the weight lies.
        owned: whether no other operator uses it.
    """

    def __init__(self, graph: Any, model: Any, operator: Any, depthwise: bool, uses: Mapping[int, int]) -> None:
        tensors = [graph.tensors[index] for index in operator.inputs if index >= 0]
        self.source, self.target = tensors[0].name.decode(), graph.tensors[operator.outputs[0]].name.decode()
        self.axis, self.buffer = 3 if depthwise else 0, tensors[1].buffer
        self.weight = _numbers(model, tensors[1])
        self.bias = _numbers(model, tensors[2]) if len(tensors) > 2 else np.zeros(0, np.float32)
        self.owned = uses[self.buffer] == 1 and self.weight.size > 0


def _numbers(model: Any, tensor: Any) -> Array:
    data = model.buffers[tensor.buffer].data
    if data is None or len(data) == 0:
        return np.zeros(0, np.float32)
    return np.frombuffer(np.asarray(data).tobytes(), np.float32).reshape(tensor.shape)


def weighty(content: bytes, operators: Iterable[int]) -> Iterator[Layer]:
    """Yield a file's layers with float weights, in the order in which they run."""
    return _layers_of(parsed(content), operators)


def _layers_of(model: Any, operators: Iterable[int]) -> Iterator[Layer]:
    from ai_edge_litert import schema_py_generated as schema

    uses: dict[int, int] = {}
    for graph in model.subgraphs:
        for operator in graph.operators:
            for index in operator.inputs:
                if index >= 0:
                    buffer = graph.tensors[index].buffer
                    uses[buffer] = uses.get(buffer, 0) + 1
    wanted, depthwise = set(operators), schema.BuiltinOperator.DEPTHWISE_CONV_2D
    for kind, graph, operator in operators_of(model):
        if kind in wanted and graph.tensors[operator.inputs[1]].type == schema.TensorType.FLOAT32:
            yield Layer(graph, model, operator, kind == depthwise, uses)
