"""Where a network must round to give what its integer file gives: read from the file, found by value in the network."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.arrays import Array
from edgekit.data.federated import Floats
from edgekit.errors import ExportError
from edgekit.export import ranges
from edgekit.export.metadata import operators_of, parsed
from edgekit.models.fake_quantisation import LAYERS, Call, Counting, Key, Plan

COMPARED = 3
"""Examples by which a network's values are found in its file."""
CLOSE = 1e-4
"""Of the largest value: how far two may be apart that are the same."""
Grid = tuple[float, int]
"""Scale and zero point of int8."""


def grids_of(float32: bytes, integers: bytes) -> dict[str, Grid]:
    """Return the grids of a float32 file's tensors whose values its integer file has as int8."""
    return _known(float32, _Integers(integers))


def _known(float32: bytes, file: "_Integers") -> dict[str, Grid]:
    from ai_edge_litert import schema_py_generated as schema

    known = {tensor.name.decode() for graph in parsed(float32).subgraphs for tensor in graph.tensors}
    found = dict(file.grids)
    for kind, graph, operator in operators_of(file.model):
        if kind == schema.BuiltinOperator.QUANTIZE:
            source, target = (graph.tensors[some[0]].name.decode() for some in (operator.inputs, operator.outputs))
            if target in file.grids:
                found.setdefault(source, file.grids[target])
    return {name: grid for name, grid in found.items() if name in known}


@dataclass(frozen=True)
class Found:
    """Where a network rounds, and what of its float32 file that is.

    Attributes:
        plan: where.
        grids: by the names of the file's tensors a number of the plan's grids, and what its scale is multiplied by:
            a file may keep a multiple of what the network computes, as relu6(x + 3) of a hard sigmoid.
        written: names of the tensors that calls write.
    """

    plan: Plan
    grids: dict[str, tuple[int, float]]
    written: dict[Key, str]


def find(model: nn.Module, x: Floats, inputs: ranges.Inputs, float32: bytes, integers: bytes) -> Found:
    """Return where a network rounds as its integer file does.

    A function of the network and a tensor of the file are the same where their values are, on examples. What the file
    keeps apart inside one of the network's functions, as a group norm's sums, has no place in it.

    Args:
        model: the network, in which nothing rounds.
        x: examples, (examples, ...).
        inputs: the same, as the file takes them.
        float32: its file.
        integers: the same with integers.

    Raises:
        ExportError: no layer of the file is one of the network's.
    """
    file, seen = _Integers(integers), _calls_of(model, x[:COMPARED])
    grids, written = _known(float32, file), dict[Key, str]()
    number = {grid: place for place, grid in enumerate(dict.fromkeys(grids.values()))}
    places: dict[Key, dict[str, Any]] = {}
    free = [call for call in seen if call.weight is not None]
    for layer in ranges.weighty(float32, file.kinds):
        weight, made = np.sort(layer.weight, None), file.layers.get(layer.target)
        call = next((one for one in free if one.weight is not None and _same([one.weight], [weight])), None)
        if call is not None and made is not None:
            free.remove(call)
            reads = -1 if made.reads is None else number[made.reads]
            places[call.key] = {"bits": made.bits, "each": made.each, "reads": reads}
    if not places:
        raise ExportError("no layer of the integer file is one of the network's: nothing could be trained to round")
    _check_alike(model, x[:1], seen)
    few = {signature: examples[:COMPARED] for signature, examples in inputs.items()}
    found = ranges.values(float32, few, set(file.grids) - file.given)
    factors: dict[str, tuple[int, float]] = {}
    for name in sorted(found, key=list(file.grids).index):
        values = [np.sort(one) for one in found[name]]
        call = next((one for one in seen if _same(one.values, values)), None)
        factor = 1.0
        if call is None:
            call, factor = next(((one, by) for one in seen if (by := _factor(one.values, values))), (None, 1.0))
        if call is not None and call.key not in written:
            written[call.key] = name
            scale, zero = file.grids[name]
            place = number.setdefault((scale / factor, zero), len(number))
            places.setdefault(call.key, {})["writes"] = place
            factors[name] = (place, factor)
    if not written:
        raise ExportError("nothing that the network computes is a tensor of its integer file: it cannot be trained so")
    calls = tuple(Call(*call.key, **places[call.key]) for call in seen if call.key in places)
    given = next((number[grids[name]] for name in file.given if name in grids and name in file.grids), -1)
    return Found(
        Plan(tuple(number), calls, given),
        {**{name: (number[grid], 1.0) for name, grid in grids.items()}, **factors},
        written,
    )


@dataclass
class _Made:
    """A layer of an integer file: its weight's bits, whether each row has a scale, the grid that it reads."""

    bits: int
    each: bool
    reads: Grid | None


class _Integers:
    """What an integer file tells.

    Attributes:
        model: the file, parsed.
        grids: of its int8 activations, by name, in the order in which they are written.
        layers: by the name of what they write.
        kinds: codes of layers' operators.
        given: names of its inputs.
    """

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        codes, types = schema.BuiltinOperator, schema.TensorType
        bits = {types.INT8: 8, types.INT4: 4}
        self.kinds = [codes.CONV_2D, codes.DEPTHWISE_CONV_2D, codes.FULLY_CONNECTED]
        self.model = parsed(content)
        self.grids: dict[str, Grid] = {}
        self.layers: dict[str, _Made] = {}
        self.given = {graph.tensors[one].name.decode() for graph in self.model.subgraphs for one in graph.inputs}
        for kind, graph, operator in operators_of(self.model):
            reads, writes = (graph.tensors[some[0]] for some in (operator.inputs, operator.outputs))
            for tensor in (reads, writes):
                if tensor.type == types.INT8 and (grid := _grid(tensor)) is not None:
                    self.grids.setdefault(tensor.name.decode(), grid)
            if kind in self.kinds and (weight := graph.tensors[operator.inputs[1]]).type in bits:
                own = _grid(reads) if reads.type == types.INT8 else None
                each = (
                    len(weight.quantization.scale) > 1 or weight.shape[0 if kind != codes.DEPTHWISE_CONV_2D else 3] == 1
                )
                self.layers[writes.name.decode()] = _Made(bits[weight.type], each, own)


def _grid(tensor: Any) -> Grid | None:
    own = tensor.quantization
    if own is None or own.scale is None or len(own.scale) != 1:
        return None
    return float(own.scale[0]), int(own.zeroPoint[0])


@dataclass
class _Called:
    """A function that a network called.

    Attributes:
        key: which.
        values: what it gave, by example, sorted.
        weight: its weight, sorted.
    """

    key: Key
    values: list[Array]
    weight: Array | None


class _Watching(Counting):
    """While entered, notes what functions give."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[_Called] = []

    def called(self, key: Key, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call, and note."""
        given = func(*args, **kwargs)
        if isinstance(given, Tensor) and given.is_floating_point():
            weight = _sorted(args[1]) if func.__name__ in LAYERS and len(args) > 1 else None
            self.seen.append(_Called(key, [_sorted(given)], weight))
        return given


def _check_alike(model: nn.Module, x: Floats, seen: list["_Called"]) -> None:
    """See that a network calls the same functions while it trains: places are counted by them.

    Raises:
        ExportError: it does not.
    """
    training, mode = copy.deepcopy(model).train(), _Watching()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), mode:
        training(torch.from_numpy(x))
    if [_shape(one) for one in mode.seen] != [_shape(one) for one in seen]:
        raise ExportError(
            "the network computes otherwise while it trains (as early exits do, whose answers all train): it cannot be "
            "trained to round; leave quantise out of compression.stages"
        )


def _shape(call: "_Called") -> tuple[Key, int, int]:
    return call.key, call.values[0].size, 0 if call.weight is None else call.weight.size


def _calls_of(model: nn.Module, x: Floats) -> list[_Called]:
    """Return the functions that a network calls for examples, one after the other."""
    runs = []
    for one in torch.from_numpy(x).split(1):
        with torch.no_grad(), _Watching() as mode:
            model.eval()(one)
        runs.append(mode.seen)
    return [
        _Called(each[0].key, [v for one in each for v in one.values], each[0].weight)
        for each in zip(*runs, strict=True)
    ]


def _sorted(x: Tensor) -> Array:
    flat: Array = np.sort(x.detach().numpy(), None)
    return flat


def _factor(some: list[Array], others: list[Array]) -> float:
    """Return by what the first values are multiplied to be the others; 0 where they are no multiple of each other."""
    if [one.shape for one in some] != [one.shape for one in others]:
        return 0.0
    largest = [max((float(one.max(initial=0)) for one in each), default=0.0) for each in (some, others)]
    if min(largest) <= 0:
        return 0.0
    factor = largest[1] / largest[0]
    return factor if _same([one * factor for one in some], others) else 0.0


def _same(some: list[Array], others: list[Array]) -> bool:
    """Return whether the values are the same but for their order, which a file's layout changes."""
    if [one.shape for one in some] != [one.shape for one in others]:
        return False
    largest = max((float(np.abs(one).max(initial=0)) for one in others), default=0.0)
    return all(np.allclose(a, b, rtol=0, atol=CLOSE * largest) for a, b in zip(some, others, strict=True))
