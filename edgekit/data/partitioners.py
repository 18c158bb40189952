"""Partitions by the partitioners of `flwr-datasets`, by their class names."""

import inspect
from typing import Any

import numpy as np

from edgekit.arrays import Array
from edgekit.data.federated import Integers
from edgekit.data.settings import Partitioner
from edgekit.errors import ExperimentError, MissingExtraError, nearest

LABEL, OWNER, PLACE = "label", "group", "place"


def owners(labels: Integers, groups: Array | None, clients: int, settings: Partitioner, seed: int) -> list[Integers]:
    """Return who owns which examples: an array of places a client.

    Args:
        labels: the class of each example, (examples,); the partitioner's column `label`.
        groups: who owns each, the column `group`, if that is known.
        clients: how many, for partitioners that are told.
        settings: the partitioner, and its arguments.
        seed: for those that draw.

    Raises:
        MissingExtraError: flwr-datasets is not installed.
        ExperimentError: there is no such partitioner, it takes other arguments, or it leaves a client without examples.
    """
    try:
        import datasets
        from flwr_datasets import partitioner as known
    except ImportError:
        raise MissingExtraError("flwr-datasets", "hub") from None
    # Those that cut columns apart are for parties (data.source = "parties:…"), not for clients.
    names = [name for name in known.__all__ if name.endswith("Partitioner") and not name.startswith("Vertical")]
    names.remove("Partitioner")
    if settings.name not in names:
        raise ExperimentError(f"flwr-datasets has no partitioner {settings.name!r}; {nearest(settings.name, names)}")
    columns: dict[str, Any] = {LABEL: labels, PLACE: np.arange(len(labels))}
    if groups is not None:
        columns[OWNER] = [str(group) for group in groups]
    kind = getattr(known, settings.name)
    taken = inspect.signature(kind).parameters
    by_owner = "NaturalId" in settings.name
    if by_owner and groups is None:
        raise ExperimentError(
            f"data.partitioner {settings.name} needs an owner of each example, and the data names none"
        )
    offered = {"num_partitions": clients, "partition_by": OWNER if by_owner else LABEL, "seed": seed}
    given = {**{name: value for name, value in offered.items() if name in taken}, **settings.arguments}
    try:
        made = kind(**given)
        made.dataset = datasets.Dataset.from_dict(columns)
        parts = [np.asarray(made.load_partition(part)[PLACE][:], np.int64) for part in range(made.num_partitions)]
    except Exception as error:  # the library raises many kinds
        raise ExperimentError(f"data.partitioner {settings.name}: {' '.join(str(error).split())}") from None
    for number, part in enumerate(parts):
        if not len(part):
            raise ExperimentError(f"data.partitioner {settings.name} leaves client {number} without examples")
    return [np.sort(part) for part in parts]
