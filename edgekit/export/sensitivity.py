"""What each layer's integers cost, as the signal-to-noise ratio of the scores, and which layers stay in float."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.arrays import Array
from edgekit.export.ranges import Inputs

ENOUGH = 30.0
"""Decibels of the scores' signal-to-noise ratio at which layers become integers no less: errors of about 3 %."""


@dataclass(frozen=True)
class LayerError:
    """What happens to the scores where one layer alone computes in integers.

    Attributes:
        tensor: name of what the layer writes.
        layer: name for people.
        decibels: signal-to-noise ratio of the scores.
    """

    tensor: str
    layer: str
    decibels: float


def signal_to_noise(right: Array, found: Array) -> float:
    """Return 10 log10(sum right^2 / sum (found - right)^2), in decibels; 200 at most."""
    noise = float(np.square(found - right, dtype=np.float64).sum())
    power = float(np.square(right, dtype=np.float64).sum())
    return 200.0 if noise <= 1e-20 * power else float(10 * np.log10(max(power, 1e-30) / noise))


def layer_errors(
    make: Callable[[Sequence[str]], bytes], layers: Sequence[str], float32: bytes, inputs: Inputs
) -> list[LayerError]:
    """Return what each layer costs, the worst first.

    Args:
        make: gives the file in which these layers alone are integers.
        layers: names of what they write.
        float32: the file without integers.
        inputs: examples.
    """
    right = outputs(float32, inputs)
    found = [LayerError(one, named(one), signal_to_noise(right, outputs(make([one]), inputs))) for one in layers]
    return sorted(found, key=lambda one: one.decibels)


def kept_in_float(
    make: Callable[[Sequence[str]], bytes], errors: Sequence[LayerError], float32: bytes, inputs: Inputs
) -> int:
    """Return how many of the worst layers must stay in float for the scores to be right (`ENOUGH`).

    Args:
        make: gives the file in which these layers are integers.
        errors: of all layers, the worst first.
        float32: the file without integers.
        inputs: examples.
    """
    right = outputs(float32, inputs)
    for kept in range(len(errors)):
        file = make([one.tensor for one in errors[kept:]])
        if signal_to_noise(right, outputs(file, inputs)) >= ENOUGH:
            return kept
    return len(errors)


def outputs(content: bytes, inputs: Inputs) -> Array:
    """Return what a file gives for examples, (examples, numbers), by the runtime's plain kernels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    rows = []
    for signature, examples in inputs.items():
        runner = interpreter.get_signature_runner(signature)
        for example in examples:
            given = runner(**example)
            rows.append(np.concatenate([np.asarray(given[name], np.float32).ravel() for name in sorted(given)]))
    return np.stack(rows)


def named(tensor: str) -> str:
    """Return a layer's name for people, `layers.3 (Conv2d)`, of a tensor's: the converter names it by the modules."""
    parts = [part.partition(";")[0].rpartition(".")[2] for part in tensor.split("/") if "_" in part][1:]
    if not parts:
        return tensor
    names = [part.partition("_")[2] for part in parts if part.partition("_")[2] != "model"]
    return f"{'.'.join(names)} ({parts[-1].partition('_')[0]})" if names else tensor
