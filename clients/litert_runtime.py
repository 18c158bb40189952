"""Training files and the runtimes that run them, for whole networks and for parts of one. No torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.data import Examples
from edgekit.data.federated import Floats
from edgekit.errors import DataError, MissingExtraError, ModelError
from edgekit.objectives import Objective
from edgekit.objectives.cross_entropy import PLAIN


def for_device(x: Floats) -> Floats:
    """Return a batch in a training file's layout: images are (batch, height, width, channels)."""
    x = np.asarray(x, np.float32)
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def check_examples(facts: Mapping[str, Any], examples: Examples, objective: Objective = PLAIN) -> None:
    """See that examples fit a training file.

    Raises:
        DataError: they do not.
    """
    shape, classes = tuple(facts["shape"]), int(facts["classes"])
    if len(examples) == 0:
        raise DataError("this client has no examples")
    if examples.x.shape[1:] != shape:
        raise DataError(f"the training file takes examples of {shape}, this client's are {examples.x.shape[1:]}")
    if problem := objective.problem_with(examples.y, classes):
        raise DataError(
            f"the training file has {classes} {'classes' if objective.of_classes else 'outputs'}; this client {problem}"
        )


def check_signatures(interpreter: Any, wanted: Sequence[str]) -> None:
    """See that a training file has what is called of it.

    Raises:
        ModelError: it has not.
    """
    there = interpreter.get_signature_list()
    if missing := [name for name in wanted if name not in there]:
        raise ModelError(f"the training file lacks the signature {missing[0]!r}: export it anew")


def interpreter_of(content: bytes) -> Any:
    """Return LiteRT's or tflite-runtime's interpreter of a training file.

    Raises:
        MissingExtraError: neither is installed.
        ModelError: it refuses the file.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError:
            raise MissingExtraError("ai-edge-litert", "node") from None
    try:
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"the runtime refuses the training file: {' '.join(str(error).split())[:200]}") from error
    return interpreter
