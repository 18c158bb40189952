"""Whether clients can be trained client-major, without numba being there."""

from collections.abc import Sequence

from torch import nn

from edgekit.clients.trainer import CohortTrainer
from edgekit.local_settings import LocalSettings


def lacks(settings: LocalSettings) -> str:
    """Say what of a round's instructions the client-major trainer cannot follow, "" if nothing."""
    if settings.work != "sgd":
        return f"client-major training knows plain local steps, not {settings.work}"
    if settings.optimiser != "sgd":
        return f"client-major training knows sgd, not {settings.optimiser}"
    if settings.augment:
        return "client-major training does not change examples"
    return "client-major training does not mask classes" if settings.own_classes else ""


def client_major(model: nn.Module, shape: Sequence[int], classes: int, memory_bytes: int) -> CohortTrainer:
    """Return the trainer; arguments and errors as of `trainer.ClientMajorTrainer`.

    Raises:
        ImportError: numba is not installed.
    """
    from edgekit.clients.client_major.trainer import ClientMajorTrainer

    return ClientMajorTrainer(model, shape, classes, memory_bytes)
