"""From a network to layers that the compiled steps know: its forward pass is traced, nothing is written by network."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from edgekit.arrays import Array, Weights
from edgekit.clients.client_major.parts import Layer, Packed, Place
from edgekit.clients.client_major.rules import PLAIN, RULES, SAME, TRACED, Computed
from edgekit.errors import ModelError


class Program:
    """A network as layers that the compiled steps know.

    Args:
        model: the network.
        shape: of an example, (channels, height, width) or (numbers).
        classes: scores that it gives.

    Attributes:
        size: floats of the packed parameters.
        shared: whether a parameter serves several layers.
        shapes: of the parameters, by name.
        read_by: how many read each of the graph's nodes.

    Raises:
        ModelError: it has something that has no rule; named.
    """

    def __init__(self, model: nn.Module, shape: Sequence[int], classes: int) -> None:
        if len(shape) not in (1, 3):
            raise ModelError(f"examples of {len(shape)} dimensions have no rule")
        self.classes, self.size, self.shared = classes, 0, False
        self.packed: dict[str, Packed] = {}
        self.layers: list[Layer] = []
        channels, height, width = shape if len(shape) == 3 else (shape[0], 1, 1)
        self.examples = Place(channels, height, width, channels, flat=len(shape) == 1)
        self.shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        graph = _traced(model, shape)
        self._held: dict[torch.fx.Node, Any] = {}
        self.read_by = {node: len(node.users) for node in graph.nodes}
        inputs = iter([*self.shapes, self.examples])
        for node in graph.nodes:
            if node.op == "placeholder":
                self._held[node] = next(inputs)
                continue
            if node.op == "output":
                self._end(node)
            elif node.op == "call_function":
                self._held[node] = self._take(node)
            else:
                raise ModelError(f"{node.op} {node.target} has no rule")
        if missing := set(self.shapes) - set(self.packed):
            raise ModelError(f"parameter {min(missing)!r} has no rule")

    def _end(self, node: torch.fx.Node) -> None:
        (result,) = torch.utils._pytree.tree_leaves(node.args)
        scores = self._held[result]
        if not isinstance(scores, Place) or (scores.channels, scores.height, scores.width) != (self.classes, 1, 1):
            raise ModelError(f"its scores are not {self.classes} an example")
        if not self.layers or self.layers[-1].gives is not scores or scores.readers:
            raise ModelError("its last layer is not that of its scores")

    def _take(self, node: torch.fx.Node) -> Any:
        target, arguments = node.target, [self._of(one) for one in node.args]
        reads_data = any(isinstance(one, Place | tuple) for one in arguments)
        if not reads_data and target not in PLAIN and any(isinstance(one, str | Computed) for one in arguments):
            return Computed(node, tuple(arguments))
        if target in SAME:
            return arguments[0]
        rule = RULES.get(target)
        if rule is None or node.kwargs:
            raise ModelError(f"{str(target).removeprefix('aten.').removesuffix('.default')} has no rule")
        return rule(self, node, *arguments)

    def _of(self, argument: Any) -> Any:
        return self._held[argument] if isinstance(argument, torch.fx.Node) else argument

    def add(self, kind: int, takes: list[Place], gives: Place, **more: Any) -> Place:
        """Append a layer; return what it gives."""
        for place in takes:
            place.readers += 1
        layer = Layer(kind, takes, gives, **more)
        gives.maker = layer
        self.layers.append(layer)
        return gives

    @property
    def products(self) -> int:
        """Multiply-adds of an example's forward pass."""
        weighted = [one for one in self.layers if one.weight]
        return sum(one.gives.height * one.gives.width * math.prod(self.packed[one.weight].real) for one in weighted)

    def alone(self, place: Place) -> bool:
        """Whether each form of a result has one reader, so that a bound on it is a bound on its maker."""
        forms = [node for node, held in self._held.items() if held is place or held == (place,)]
        return all(self.read_by[node] == 1 for node in forms)

    def pack(self, name: str, filled: tuple[int, int, int, int], real: tuple[int, int, int, int]) -> None:
        """Give a parameter its place."""
        found = Packed(self.size, filled, real, self.shapes[name])
        if name in self.packed:
            self.shared = True
            if (self.packed[name].filled, self.packed[name].real) != (filled, real):
                raise ModelError(f"parameter {name!r} serves layers of several shapes")
            return
        self.packed[name] = found
        self.size += math.prod(filled)

    def packed_weights(self, weights: Weights, rows: Array) -> None:
        """Write weights by name into (size,) of zeros, or those that are there."""
        for name, array in weights.items():
            self.packed[name].into(rows, array)


def _traced(model: nn.Module, shape: Sequence[int]) -> torch.fx.Graph:
    model = copy.deepcopy(model).train()  # as it trains: what draws or mixes then has no rule
    parameters = dict(model.named_parameters())
    names = list(parameters)

    def forward(values: list[Tensor], x: Tensor) -> Tensor:
        result: Tensor = functional_call(model, dict(zip(names, values, strict=True)), (x,))
        return result

    values = [p.detach() for p in parameters.values()]
    with torch.no_grad():
        found = make_fx(forward)(values, torch.zeros(TRACED, *shape))
    found.graph.eliminate_dead_code()
    return found.graph
