"""Partitions: which client owns which examples. Each returns one index array a client; together they hold all, once."""

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Array
from edgekit.data.federated import Integers
from edgekit.errors import DataError

TENTHS = 10
"""Kinds of numbers that clients may have unequally many of."""


def kinds_of(labels: Array) -> Integers:
    """Return what examples are divided by: classes; of chances the likeliest; of several flags the first that is there;
    of numbers the tenth in which the first of them lies.

    Args:
        labels: int64 (examples,), or float32 (examples, numbers).
    """
    if labels.ndim == 1:
        return labels
    if labels.shape[1] > 1 and ((labels >= 0) & (labels <= 1)).all():
        return np.asarray(labels.argmax(1), np.int64)
    edges = np.quantile(labels[:, 0], np.linspace(0, 1, TENTHS + 1)[1:-1])
    return np.asarray(np.searchsorted(edges, labels[:, 0]), np.int64)


def _enough(examples: int, clients: int) -> None:
    if examples < clients:
        raise DataError(
            f"{examples} training examples are too few for {clients} clients: set data.clients to at most {examples}"
        )


def iid(examples: int, clients: int, rng: np.random.Generator) -> list[Integers]:
    """Shuffle and deal out evenly: sizes differ by at most one."""
    _enough(examples, clients)
    return [np.sort(part).astype(np.int64) for part in np.array_split(rng.permutation(examples), clients)]


def dirichlet(labels: Integers, clients: int, alpha: float, rng: np.random.Generator) -> list[Integers]:
    """Share each class by proportions drawn from a Dirichlet(alpha) distribution (Hsu et al. 2019, section 3).

    A small alpha gives clients of few classes and unequal sizes; a large one approaches iid. A client that drew
    nothing receives one example of the largest client, so that nobody is empty.
    """
    _enough(len(labels), clients)
    owners: list[list[int]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        indices = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(indices)
        for owner, part in zip(owners, np.split(indices, np.round(cuts).astype(int)), strict=True):
            owner.extend(part.tolist())
    for owner in owners:
        if not owner:
            owner.append(max(owners, key=len).pop())
    return [np.sort(np.array(owner, dtype=np.int64)) for owner in owners]


def shards(labels: Integers, clients: int, labels_per_client: int, rng: np.random.Generator) -> list[Integers]:
    """Sort by label, cut into equal shards, deal out k shards a client (McMahan et al. 2017, section 3).

    Each client sees about k labels; one more where a shard spans the border between two classes.
    """
    _enough(len(labels), clients * labels_per_client)
    by_label = rng.permutation(len(labels))
    by_label = by_label[np.argsort(labels[by_label], kind="stable")]
    pieces = np.array_split(by_label, clients * labels_per_client)
    deal = rng.permutation(len(pieces)).reshape(clients, labels_per_client)
    return [np.sort(np.concatenate([pieces[piece] for piece in hand])).astype(np.int64) for hand in deal]


def by_time(times: Array, clients: int) -> list[Integers]:
    """Cut examples into equally many a client, the oldest first; of one moment the earlier row comes first."""
    _enough(len(times), clients)
    parts = np.array_split(np.argsort(times, kind="stable"), clients)
    return [np.sort(part).astype(np.int64) for part in parts]


def newest(times: Array, fraction: float) -> tuple[Integers, Integers]:
    """Split into (kept, held out): the newest examples are held out, each side in its rows' order."""
    order = np.argsort(times, kind="stable")
    kept = len(order) - round(fraction * len(order))
    return np.sort(order[:kept]).astype(np.int64), np.sort(order[kept:]).astype(np.int64)


def natural(groups: NDArray[np.str_]) -> list[Integers]:
    """One client a group (speaker, writer), in the order of the groups' names."""
    return [np.flatnonzero(groups == group).astype(np.int64) for group in np.unique(groups)]


def hold_out(labels: Integers, fraction: float | int, rng: np.random.Generator) -> tuple[Integers, Integers]:
    """Split into (kept, held out), class by class, so that both have about the same mix.

    Args:
        labels: (examples,).
        fraction: a float below 1 is a share of each class; an int is the number of examples to hold out in all.
    """
    share = fraction if isinstance(fraction, float) else fraction / max(len(labels), 1)
    target = round(share * len(labels))
    # Each class gives its rounded-down share first; the largest remainders give one more until the total is right.
    quota = {label: share * np.count_nonzero(labels == label) for label in np.unique(labels)}
    take = {label: int(amount) for label, amount in quota.items()}
    for label in sorted(quota, key=lambda label: take[label] - quota[label])[: target - sum(take.values())]:
        take[label] += 1
    held = np.concatenate(
        [rng.permutation(np.flatnonzero(labels == label))[:count] for label, count in take.items()]
        or [np.array([], int)]
    )
    mask = np.zeros(len(labels), bool)
    mask[held] = True
    return np.flatnonzero(~mask).astype(np.int64), np.flatnonzero(mask).astype(np.int64)


def hold_out_groups(
    groups: NDArray[np.str_], share: float | int, rng: np.random.Generator
) -> tuple[Integers, Integers]:
    """Split into (kept, held out) by whole groups, in random order, until the share of examples is reached.

    Args:
        groups: owner of each example, (examples,).
        share: a float below 1 is a share of the examples; an int is their number.
        rng: random numbers.

    Raises:
        DataError: nobody would be left.
    """
    wanted = share * len(groups) if isinstance(share, float) else share
    held = np.zeros(len(groups), bool)
    for group in rng.permutation(np.unique(groups)):
        if held.sum() >= wanted:
            break
        held |= groups == group
    if held.all():
        raise DataError("too few owners to hold out whole ones for test and calibration: lower data.test_fraction")
    return np.flatnonzero(~held).astype(np.int64), np.flatnonzero(held).astype(np.int64)
