"""Cuts a network in parts that run on different machines (split learning; Gupta and Raskar 2018, section 3).

A cut lies behind a layer, or behind a block such as an inverted residual, where a single tensor carries all that the
rest needs. Parts keep the names of the network's layers, so the arrays of all parts together are the network's.
"""

import copy
import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from edgekit.errors import ModelError


@dataclass(frozen=True)
class Cut:
    """A place where a network can be cut.

    Attributes:
        name: of the layer or block before it.
        shape: of one example's activation there.
        parameters: before it.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int


class CutModel:
    """A network, and where it can be cut.

    Args:
        model: the network; it is copied, never changed.
        shape: of one example.

    Raises:
        ModelError: it decides by its input what it computes, so nobody can say what crosses a cut; or it has tied
            layers, or too few.
    """

    def __init__(self, model: nn.Module, shape: Sequence[int]) -> None:
        if twins := _tied(model):
            raise ModelError(
                f"{type(model).__name__} cannot be cut: {' and '.join(map(repr, twins))} are one and the same tensor"
            )
        self._model = copy.deepcopy(model).train()  # tracing may leave constants behind
        try:
            self._graph = fx.symbolic_trace(self._model).graph
            traced = fx.GraphModule(copy.deepcopy(self._model).eval(), self._graph)
            with torch.no_grad():
                ShapeProp(traced).propagate(torch.zeros(2, *shape))
        except Exception as error:
            line = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{type(model).__name__} cannot be cut: what it computes cannot be followed "
                f"({type(error).__name__}{f': {line}' if line else ''})"
            ) from None
        self._places = [node for node in traced.graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
        self._nodes = {ours.name: ours for ours in self._graph.nodes}
        self._ends = self._scopes()
        names = {end: name for name, end in reversed(self._ends.items())}  # of several that end there, the outermost
        self.cuts: list[Cut] = []
        for place in range(len(self._places) - 1):
            crossing = self._crosses(place) if place in names else ()
            parameters = self._parameters_before(place) if crossing else 0
            if parameters:
                self.cuts.append(Cut(names[place], crossing, parameters))
        if not self.cuts:
            raise ModelError(f"{type(model).__name__} cannot be cut: it has no two layers in a row")

    def parts(self, cuts: Sequence[str]) -> list[nn.Module]:
        """Return the network in parts, cut behind these layers, in order.

        Raises:
            ModelError: there is no such cut, cuts are not in order, or a layer is used on both sides of one.
        """
        ends = [self._place(name) for name in cuts]
        if ends != sorted(set(ends)):
            raise ModelError(f"cuts {', '.join(cuts)} are not in the order of the network, or the same place twice")
        made: list[nn.Module] = []
        before: dict[str, int] = {}
        for number, (start, end) in enumerate(zip([-1, *ends], [*ends, len(self._places) - 1], strict=True)):
            part = self._part(start, end)
            for name, _ in part.named_parameters():
                if before.setdefault(name, number) != number:
                    raise ModelError(
                        f"{name!r} is used on both sides of the cut behind {cuts[number - 1]!r}: cut elsewhere"
                    )
            made.append(part)
        return made

    @property
    def last(self) -> Cut:
        """The last cut behind which something is learnt."""
        whole = sum(parameter.numel() for parameter in self._model.parameters())
        return next((cut for cut in reversed(self.cuts) if cut.parameters < whole), self.cuts[0])

    def shape_behind(self, name: str) -> tuple[int, ...]:
        """Return the shape of one example's activation behind a layer.

        Raises:
            ModelError: there is no such cut.
        """
        return self._crosses(self._place(name))

    def _scopes(self) -> dict[str, int]:
        """Return where each layer and block ends, the outer before the inner."""
        ends: dict[str, int] = {}
        for place, node in enumerate(self._places):
            for name in self._names(node):
                ends[name] = place
        return dict(sorted(ends.items(), key=lambda item: item[0].count(".")))

    @staticmethod
    def _names(node: fx.Node) -> list[str]:
        stack = node.meta.get("nn_module_stack") or {}
        found = [str(name) for name, _ in stack.values()] if stack else []
        if node.op == "call_module":
            found.append(str(node.target))
        return [name for name in dict.fromkeys(found) if name]

    def _crosses(self, place: int) -> tuple[int, ...]:
        """Return the shape of one example's activation behind a place, () if more than that crosses there."""
        node = self._places[place]
        until = set(self._places[: place + 1])
        inputs = {other for other in node.graph.nodes if other.op == "placeholder"}
        crossing = {
            argument
            for later in [*self._places[place + 1 :], *(n for n in node.graph.nodes if n.op == "output")]
            for argument in later.all_input_nodes
            if argument in until | inputs
        }
        found = node.meta.get("tensor_meta")
        if crossing != {node} or not hasattr(found, "shape") or not found.shape or found.shape[0] != 2:
            return ()
        return tuple(found.shape[1:])

    def _parameters_before(self, place: int) -> int:
        return sum(parameter.numel() for parameter in self._part(-1, place).parameters())

    def _place(self, name: str) -> int:
        known = [cut.name for cut in self.cuts]
        depth = min((other.count(".") for other in known), default=0)
        listed = ", ".join(other for other in known if other.count(".") == depth)
        if name not in self._ends:
            near = difflib.get_close_matches(name, known, 1)
            raise ModelError(
                f"there is no layer {name!r} to cut behind{f'; did you mean {near[0]!r}?' if near else ''} "
                f"It can be cut behind {listed}"
            )
        place = self._ends[name]
        if place == len(self._places) - 1:
            raise ModelError(f"nothing is left behind {name!r}: cut behind one of {listed}")
        if not self._parameters_before(place):
            raise ModelError(f"nothing is learnt before {name!r}, the examples themselves would be sent: cut later")
        if not self._crosses(place):
            after = [cut.name for cut in self.cuts if self._ends[cut.name] > place]
            raise ModelError(
                f"a cut behind {name!r} would split a residual: more than one tensor crosses there"
                + (f"; the next cut is behind {after[0]!r}" if after else "")
            )
        return place

    def _part(self, start: int, end: int) -> fx.GraphModule:
        """Return what lies between two places, as a network of its own."""
        graph = fx.Graph()
        originals = [self._nodes[node.name] for node in self._places]
        inputs = [node for node in self._graph.nodes if node.op == "placeholder"]
        first = originals[start] if start >= 0 else inputs[0]
        copies: dict[fx.Node, fx.Node] = {first: graph.placeholder("x")}

        def taken(node: fx.Node) -> fx.Node:
            if node not in copies:  # a parameter that is read by itself
                copies[node] = graph.node_copy(node, taken)
            return copies[node]

        for node in originals[start + 1 : end + 1]:
            copies[node] = graph.node_copy(node, taken)
        graph.output(copies[originals[end]])
        return fx.GraphModule(self._model, graph, class_name=type(self._model).__name__)


def _tied(model: nn.Module) -> list[str]:
    """Return the names of a tensor that a network uses under several; [] if there is none."""
    names: dict[int, list[str]] = {}
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in tensors:
        names.setdefault(id(tensor), []).append(name)
    return next((found for found in names.values() if len(found) > 1), [])
