"""Whether clients can be trained client-major, and are faster so, without numba being there.

The compiled steps were the fastest of all trainers, or within 3 % of it, for each of 16 networks of up to 1.6 million
parameters and 1 to 50 clients (`benchmarks/trainers.py`), but on some machines for wide convolutions of large pictures,
where torch's own products can be better. Compiling takes half a minute, once on a machine; a run that is done sooner
does without. Both are told by shapes and numbers alone, never by a clock: under the same seed the same experiment takes
the same trainer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from edgekit.local_settings import LocalSettings

if TYPE_CHECKING:
    from edgekit.clients.client_major.trainer import ClientMajorTrainer

LEAST_WORK = 2_500_000
"""Layers times examples trained on, in a run that saves as much as compiling takes: some 8 us each."""
MOST_PRODUCTS = 16_000_000
"""Multiply-adds of an example, from which on torch can be faster."""
MOST_PRIVATE = 500_000
"""Weights, from which on torch is faster at clipped sums: here each example goes over all of them."""


def lacks(settings: LocalSettings) -> str:
    """Say what of a round's instructions the client-major trainer cannot follow, "" if nothing."""
    if settings.work == "local-dp":
        return "client-major training does not know local-dp"
    if settings.optimiser != "sgd":
        return f"client-major training knows sgd, not {settings.optimiser}"
    return ""


def too_little(model: nn.Module, examples: float) -> bool:
    """Whether a run is done before compiling would pay.

    Args:
        model: the network.
        examples: that clients train on in the whole run, each time counted.
    """
    layers = sum(1 for layer in model.modules() if not any(True for _ in layer.children()))
    return layers * examples < LEAST_WORK


def too_large(model: nn.Module, products: int, *, private: bool) -> bool:
    """Whether a network is one for which torch can be faster.

    Args:
        model: the network.
        products: multiply-adds of an example.
        private: whether single examples' gradients are clipped.
    """
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return products > MOST_PRODUCTS or (private and weights > MOST_PRIVATE)


def client_major(model: nn.Module, shape: Sequence[int], classes: int, memory_bytes: int) -> "ClientMajorTrainer":
    """Return the trainer; arguments and errors as of `trainer.ClientMajorTrainer`.

    Raises:
        ImportError: numba is not installed.
    """
    from edgekit.clients.client_major.trainer import ClientMajorTrainer

    return ClientMajorTrainer(model, shape, classes, memory_bytes)
