"""PyTorch to TFLite in float32, by litert-torch."""

import contextlib
import copy
import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.data.federated import Floats
from edgekit.errors import ExportError, MissingExtraError
from edgekit.export import cache
from edgekit.export.group_norm import with_fast_group_norms
from edgekit.export.quiet import quiet
from edgekit.models.any_layout import AnyLayout
from edgekit.models.norm import fold_weight_standardisation

SIGNATURE = "classify"
OUTPUT = "scores"
LARGEST_BYTES = 2**31


def input_name(shape: tuple[int, ...]) -> str:
    """Return the name of the signature's input: `image` for examples of (channels, height, width)."""
    return "image" if len(shape) == 3 else "features"


def device_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return an example's shape in the file: images are (height, width, channels) there."""
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def as_inputs(shape: tuple[int, ...], x: Floats) -> dict[str, list[dict[str, Floats]]]:
    """Return examples, laid out as the file takes them (n, ...), as inputs of its signature, one by one.

    Args:
        shape: of one example, as torch has it.
        x: the examples.
    """
    return {SIGNATURE: [{input_name(shape): one[None]} for one in x]}


class _Signature(nn.Module):
    """The network with a named input, images channels-last, and a named output."""

    def __init__(self, model: nn.Module, image: bool) -> None:
        super().__init__()
        self.model = model
        self.image = image

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        (x,) = inputs.values()
        with AnyLayout():
            return {OUTPUT: self.model(x.permute(0, 3, 1, 2) if self.image else x)}


def to_float32(model: nn.Module, shape: tuple[int, ...]) -> bytes:
    """Convert a network to a float32 .tflite with the signature `classify(image) -> scores`, batch 1.

    Args:
        model: the trained network; weight standardisation is folded into its convolutions, which is exact.
        shape: one example's shape.

    Raises:
        MissingExtraError: litert-torch is not installed.
        ExportError: an operator cannot be converted; its layer is named.
    """
    check_size(model)
    check_converter()
    made = with_fast_group_norms(fold_weight_standardisation(copy.deepcopy(model)))
    wrapped = _Signature(made, len(shape) == 3).eval()
    sample = {input_name(shape): torch.zeros(1, *device_shape(shape))}

    def make() -> bytes:
        litert_torch = converter()
        try:
            with quiet():
                content: bytes = litert_torch.signature(SIGNATURE, wrapped, None, sample).convert().model_content()
        except Exception as error:  # the converter raises whatever its passes raise
            raise ExportError(_explain(error, wrapped, sample)) from error
        return content

    try:
        with quiet():
            exported = torch.export.export(wrapped, (), sample)
    except Exception:  # the converter says better why
        return make()
    held = {**exported.state_dict, **exported.constants}
    graph = [repr(shape), str(exported.graph), str(exported.graph_signature)]
    return cache.kept("float32.tflite", [*graph, *as_parts(held)], make)


def to_signatures(named: Mapping[str, tuple[nn.Module, dict[str, Tensor]]], file: str) -> bytes:
    """Convert modules to a float32 .tflite with a signature each.

    Args:
        named: each signature's module, which takes and gives tensors by name, and a sample of its inputs.
        file: name of the file, for messages and the cache.

    Raises:
        MissingExtraError: litert-torch is not installed.
        ExportError: an operator cannot be converted.
    """
    check_converter()

    def make() -> bytes:
        made = converter()
        try:
            with quiet():
                for name, (module, sample) in named.items():
                    made = made.signature(name, module.eval(), None, sample)
                content: bytes = made.convert().model_content()
        except Exception as error:  # the converter raises whatever its passes raise
            raise ExportError(f"{file} cannot be made: {reason(error)}") from error
        return content

    parts: list[bytes | str] = []
    for name, (module, sample) in named.items():
        parts += [name, repr({key: tuple(value.shape) for key, value in sample.items()}), repr(module)]
        with quiet():
            exported = torch.export.export(module.eval(), (), sample)
        parts += [str(exported.graph), *as_parts({**exported.state_dict, **exported.constants})]
    return cache.kept(file, parts, make)


def as_parts(held: Mapping[str, Any]) -> Iterator[bytes | str]:
    """Yield what a graph holds beside its operators, for the key of `cache.kept`."""
    for name, value in sorted(held.items()):
        yield name
        if isinstance(value, Tensor):
            yield f"{value.dtype} {tuple(value.shape)}"
            yield value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        else:
            yield repr(value)


def check_converter() -> None:
    """See that there is one; importing it takes seconds, which a file that is kept does not need.

    Raises:
        MissingExtraError: litert-torch is not installed.
    """
    try:
        found = importlib.util.find_spec("litert_torch")
    except ValueError:  # somebody forbade it
        found = None
    if found is None:
        raise MissingExtraError("litert-torch", "tflite")


def converter() -> Any:
    """Return the module litert_torch, silenced.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ.setdefault("LITERT_TORCH_SHOW_PROGRESS", "n")
    with quiet():
        try:
            import litert_torch
        except ImportError:
            raise MissingExtraError("litert-torch", "tflite") from None
    return litert_torch


@contextlib.contextmanager
def decomposed_already() -> Iterator[None]:
    """Spare graphs that are in core operators the converter's own passes that would trace them anew.

    litert-torch 0.10 decomposes each signature twice whether or not an operator needs it, which took up to half of a
    training graph's conversion (unrolled recurrences most); with `can_skip` it looks first.
    """
    infra: Any = importlib.import_module("litert_torch.fx_infra")
    always = infra.safe_run_decompositions

    def if_needed(program: Any, table: Any = None, can_skip: bool = True) -> Any:
        return always(program, table, True)

    infra.safe_run_decompositions = if_needed
    try:
        yield
    finally:
        infra.safe_run_decompositions = always


def check_size(model: nn.Module) -> None:
    """See that a network fits the format, whose offsets are signed 32-bit numbers.

    Raises:
        ExportError: it does not.
    """
    size = sum(array.numel() * array.element_size() for array in (*model.parameters(), *model.buffers()))
    if size >= LARGEST_BYTES:
        raise ExportError(
            f"the network has {size / 2**30:.1f} GiB of weights, a .tflite holds less than 2 GiB: make it smaller"
        )


def reason(error: Exception) -> str:
    """Return a converter's error as one line."""
    text = str(error)
    found = re.search(r"Lowering not found: (\S+)", text)
    found = found or re.search(r'Verification failed: error: "[^"]*"\("(\w+)"', text)
    return f"{found[1]} has no TFLite form" if found else " ".join(text.split())[:300] or type(error).__name__


def _explain(error: Exception, wrapped: nn.Module, sample: dict[str, Tensor]) -> str:
    """Name the operator and the layer that cannot be converted."""
    found = re.search(r"Lowering not found: (\S+)", str(error))
    if found is None:
        return f"the model cannot be converted to TFLite: {reason(error)}"
    operator = found[1]
    where = _layer_of(operator, wrapped, sample)
    return f"layer {where} uses {operator}, which has no TFLite form: replace that layer"


def _layer_of(operator: str, wrapped: nn.Module, sample: dict[str, Tensor]) -> str:
    try:
        with quiet():
            graph = torch.export.export(wrapped, (), sample).run_decompositions().graph
    except Exception:
        return "(unknown)"
    for node in graph.nodes:
        if str(node.target) == operator:
            stack: dict[str, Any] = node.meta.get("nn_module_stack", {})
            names = [entry[0] if isinstance(entry, tuple) else str(entry) for entry in stack.values()]
            if names:
                return repr(names[-1].removeprefix("L['self'].").removeprefix("model."))
    return "(unknown)"
