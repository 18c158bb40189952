"""A round's asks in waves, so that a large cohort needs no more memory than one wave of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from edgekit.arrays import Weights
from edgekit.asks import Ask, Update, mean_of
from edgekit.server.engines.base import Engine
from edgekit.server.loop.merging import Merging


@dataclass(frozen=True)
class Answers:
    """What came of a round's asks.

    Attributes:
        updates: by client; of several waves the mean of each, under its first client's number.
        count: how many clients' updates these are.
        reasons: (client, reason) of those that gave none.
        bytes_up: that came.
        bytes_down: that were sent.
        again: whether the round is worth another try if nobody answered.
    """

    updates: dict[int, Update]
    count: int
    reasons: list[tuple[int, str]]
    bytes_up: int
    bytes_down: int
    again: bool


def answers(
    engine: Engine,
    merging: Merging,
    number: int,
    asks: Mapping[int, Ask],
    weights: Weights,
    *,
    folds: bool,
    released: Callable[[], None],
) -> Answers:
    """Ask all clients; where the method reads means alone, in waves, of each of which the mean is kept.

    Waves are cut by the clients' order, and their means are added in it, so a round's bits depend on nothing else; a
    cohort of one wave has the bits that it has without.

    Args:
        engine: whose clients.
        merging: sorts the replies.
        number: of the round.
        asks: by client.
        weights: that clients begin with.
        folds: whether means will do.
        released: called after each wave in which clients sent anything.
    """
    updates: dict[int, Update] = {}
    reasons: list[tuple[int, str]] = []
    count, up, down, again = 0, 0, 0, False
    for wave in _waves(asks, engine.wave if folds else 0):
        found = engine.exchange(wave)
        if found.released:
            released()
        accepted, problems = merging.sorted(number, found.replies, wave)
        reasons += problems
        up, down, again = up + found.bytes_up, down + found.bytes_down, found.again
        kept = merging.whole(number, accepted, wave, weights)
        count += len(kept)
        if len(wave) == len(asks):
            updates = kept
        elif kept:
            bundles, facts = mean_of(list(kept.values()))
            updates[next(iter(kept))] = Update(bundles, sum(one.weight for one in kept.values()), facts)
    return Answers(updates, count, reasons, up, down, again)


def _waves(asks: Mapping[int, Ask], size: int) -> Iterator[Mapping[int, Ask]]:
    if not size or len(asks) <= size:
        yield asks
        return
    each = iter(asks.items())
    while wave := dict(islice(each, size)):
        yield wave
