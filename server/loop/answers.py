"""What clients answered to a round's asks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekit.arrays import Weights
from edgekit.asks import Ask, Update
from edgekit.server.engines.base import Engine
from edgekit.server.loop.reading import Folding, Reading


@dataclass(frozen=True)
class Answers:
    """What came of a round's asks.

    Attributes:
        updates: by client; of clients whose updates were folded the mean, under the first one's number.
        count: how many clients' updates these are.
        reasons: (client, reason) of those that gave none.
        bytes_up: that came.
        bytes_down: that were sent.
        again: whether the round is worth another try if nobody answered.
        missed: (client, reason) of those whose devices were late or gone.
        asked: how many clients' answers were awaited.
    """

    updates: dict[int, Update]
    count: int
    reasons: list[tuple[int, str]]
    bytes_up: int
    bytes_down: int
    again: bool
    missed: Sequence[tuple[int, str]] = ()
    asked: int = 0


def answers(
    engine: Engine,
    reading: Reading,
    number: int,
    asks: Mapping[int, Ask],
    weights: Weights,
    *,
    folds: bool,
    released: Callable[[], None],
) -> Answers:
    """Ask all clients; where the method reads means alone, the engine may keep the means of some at a time.

    Args:
        engine: whose clients.
        reading: reads the replies.
        number: of the round.
        asks: by client.
        weights: that clients begin with.
        folds: whether means will do.
        released: called if clients sent anything.
    """
    if folds and engine.folds:
        for ask in {id(ask): ask for ask in asks.values()}.values():
            reading.expected(number, ask)  # what it says wrongly is told before anybody works
        found = engine.exchange(asks, Folding(reading, number, weights))
    else:
        found = engine.exchange(asks)
    if found.released:
        released()
    parts = found.folded
    if parts is None:
        parts = [reading.taken(number, found.replies, asks if found.asks is None else found.asks, weights)]
    updates = {client: update for part in parts for client, update in part.updates.items()}
    reasons = [reason for part in parts for reason in part.reasons]
    count = sum(part.count for part in parts)
    asked = len(asks if found.asks is None else found.asks)
    return Answers(updates, count, reasons, found.bytes_up, found.bytes_down, found.again, found.missed, asked)
