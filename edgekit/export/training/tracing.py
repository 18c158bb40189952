"""A step of training as plain operators: what the converter takes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from edgekit.export.convert import as_parts
from edgekit.export.training.steps import Step

aten = torch.ops.aten
SHAPE = "shape"
"""Where a node that is made here keeps the shape of what it gives."""

NOTHING = (aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default)
SHAPED = (aten.view.default, aten.expand.default)
"""Operators that do nothing, always or where the shape stays."""


class Traced(nn.Module):
    """A traced function as the module with named inputs and outputs that litert-torch takes."""

    step: torch.fx.GraphModule

    def __init__(self, step: torch.fx.GraphModule, inputs: list[str], outputs: list[str]) -> None:
        super().__init__()
        self.step, self.inputs, self.outputs = step, inputs, outputs

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the outputs, by name."""
        return dict(zip(self.outputs, self.step(*(inputs[name] for name in self.inputs)), strict=True))


def traced(function: Step, sample: dict[str, Tensor]) -> Traced:
    """Trace a function with its gradients into plain operators."""
    outputs: list[str] = []

    def flat(*inputs: Tensor) -> tuple[Tensor, ...]:
        result = function(**dict(zip(sample, inputs, strict=True)))
        outputs[:] = list(result)
        return tuple(result.values())

    # Attention in plain operators: the fused one's gradient reads what its decomposition does not compute.
    with sdpa_kernel(SDPBackend.MATH):
        graph = make_fx(flat, decomposition_table=_decompositions(), tracing_mode="real")(*sample.values())
    for node in list(graph.graph.nodes):
        if node.target in NOTHING or (node.target in SHAPED and _shape(node) == _shape(node.args[0])):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    for node in graph.graph.find_nodes(op="call_function", target=aten.copy_.default):
        # Gradients of norms write into what they return; whoever reads it was traced to read the copy.
        if _shape(node) == _shape(node.args[1]):
            node.replace_all_uses_with(node.args[1])
            graph.graph.erase_node(node)
    for node in graph.graph.find_nodes(op="call_function", target=aten.permute.default):
        _permute_first(graph.graph, node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return Traced(graph, list(sample), outputs)


def _decompositions() -> dict[Any, Callable[..., Any]]:
    from torch._decomp import core_aten_decompositions, get_decompositions

    more = (aten.native_group_norm, aten.native_group_norm_backward)  # these have no form in the converter
    return {**core_aten_decompositions(), **get_decompositions(more)}


def _permute_first(graph: torch.fx.Graph, node: torch.fx.Node) -> None:
    """Expand what is permuted, instead of permuting what is expanded: the converter loses such a permutation.

    Seen with litert-torch 0.10, in both runtimes: (6, 6) expanded to (4, 6, 6), its last dimensions exchanged, comes
    back unchanged. With another operator between the two it is right.
    """
    wide: Any = node.args[0]
    order: Any = node.args[1]
    if not isinstance(wide, torch.fx.Node) or wide.target is not aten.expand.default:
        return
    source, (given, final) = wide.args[0], (_shape(wide.args[0]), _shape(node))
    whole = [1] * (len(final) - len(given)) + given
    with graph.inserting_before(node):
        if whole != given:
            source = _made(graph, aten.view.default, source, whole, whole)
        turned = _made(graph, aten.permute.default, source, list(order), [whole[dim] for dim in order])
        node.replace_all_uses_with(_made(graph, aten.expand.default, turned, final, final))


def _made(graph: torch.fx.Graph, target: Any, source: Any, argument: list[int], shape: list[int]) -> torch.fx.Node:
    node = graph.call_function(target, (source, argument))
    node.meta[SHAPE] = shape
    return node


def _shape(node: Any) -> list[int]:
    """Return the shape of what a node gives: a constant's, as traced, or as it was made here."""
    if node.op == "get_attr":
        return list(getattr(node.graph.owning_module, node.target).shape)
    found: list[int] = node.meta[SHAPE] if SHAPE in node.meta else list(node.meta["tensor_meta"].shape)
    return found


def content_of(step: torch.fx.GraphModule) -> Iterator[bytes | str]:
    """Yield what a traced function does: its operators, and the constants that they take."""
    yield step.code
    yield from as_parts({str(n.target): getattr(step, str(n.target)) for n in step.graph.nodes if n.op == "get_attr"})
