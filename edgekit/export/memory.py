"""What a .tflite needs while it runs: how many bytes of activations are alive at once, and of constants."""

import math
from typing import Any

from edgekit.errors import ExportError
from edgekit.export.metadata import names_of, parsed, tflite_schema

SIZES = {"FLOAT32": 4, "FLOAT16": 2, "INT32": 4, "UINT8": 1, "INT64": 8, "BOOL": 1, "INT16": 2, "INT8": 1, "FLOAT64": 8}
"""Bytes of a number, by TFLite's name of its kind."""


def needs(content: bytes) -> dict[str, int]:
    """Return a file's bytes by what they are for.

    Returns:
        `file`, `constants` (weights in it), and `activations`: the most that tensors which are needed at the same time
        take in the first graph, when each is freed after its last use. An interpreter's arena is that and what it keeps
        beside.

    Raises:
        ExportError: this is not a .tflite.
    """
    model = parsed(content)
    try:
        constants = sum(0 if buffer.data is None else len(buffer.data) for buffer in model.buffers)
        return {"file": len(content), "constants": constants, "activations": _peak(model)}
    except (AttributeError, TypeError, IndexError, KeyError, ValueError) as error:
        raise ExportError("not a readable .tflite file: it is truncated or corrupt") from error


def _peak(model: Any) -> int:
    graph, kinds = model.subgraphs[0], names_of(tflite_schema().TensorType)
    first: dict[int, int] = {int(number): -1 for number in graph.inputs}
    last: dict[int, int] = {int(number): len(graph.operators) for number in graph.outputs}
    for place, operator in enumerate(graph.operators):
        for number in operator.outputs:
            first.setdefault(int(number), place)
        for number in (*operator.inputs, *operator.outputs):
            last[int(number)] = max(last.get(int(number), -1), place)
    alive = {
        number: (begin, last.get(number, begin), _bytes(graph.tensors[number], kinds))
        for number, begin in first.items()
    }
    return max(
        (
            sum(size for begin, end, size in alive.values() if begin <= place <= end)
            for place in range(-1, len(graph.operators) + 1)
        ),
        default=0,
    )


def _bytes(tensor: Any, kinds: dict[int, str]) -> int:
    shape = [] if tensor.shape is None else [max(1, int(size)) for size in tensor.shape]
    return math.prod(shape) * SIZES.get(kinds[tensor.type], 1)
