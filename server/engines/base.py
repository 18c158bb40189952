"""What the loop asks of an engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgekit.asks import Ask, Reply, Scored, Update

Draw = Callable[[int], list[int]]
"""Draws places out of so many."""


@dataclass(frozen=True)
class Taken:
    """Replies, read.

    Attributes:
        updates: valid ones by client, in the one form that all have; of several clients that were folded, their mean
            under the first one's number.
        count: how many clients' updates these are.
        reasons: (client, reason) of those that gave none.
    """

    updates: dict[int, Update]
    count: int
    reasons: list[tuple[int, str]]


Fold = Callable[[Sequence[Reply], Mapping[int, Ask]], Taken]
"""Reads some clients' replies to their asks, and keeps the mean alone; it can be sent to other processes."""


@dataclass(frozen=True)
class Exchanged:
    """What came of a round's asks.

    Attributes:
        replies: one for each ask, in its order; none where they were folded.
        bytes_up: that came.
        bytes_down: that were sent.
        again: whether nobody answered, but clients come and go, so that the round is worth another try.
        released: whether clients sent anything at all, be it no update.
        folded: of some clients after the other, in the order of the asks; None where there are replies.
    """

    replies: Sequence[Reply]
    bytes_up: int
    bytes_down: int
    again: bool = False
    released: bool = True
    folded: Sequence[Taken] | None = None


class Engine(Protocol):
    """The clients of a federation, as the loop sees them.

    Attributes:
        trainer: how they train, for people.
        repeatable: whether a round that is run again gives the same bits.
        folds: whether it can keep means instead of replies.
    """

    trainer: str
    repeatable: bool
    folds: bool

    def choose(self, number: int, draw: Draw) -> list[int]:
        """Return who takes part in a round, as numbers; `draw(n)` draws places out of n. It may wait for clients."""

    def exchange(self, asks: Mapping[int, Ask], fold: Fold | None = None) -> Exchanged:
        """Return the clients' replies.

        Args:
            asks: by client.
            fold: given where the mean of updates will do, to an engine that `folds`: then it may keep means.
        """

    def measure(self, asks: Mapping[int, Ask]) -> Mapping[int, Scored]:
        """Return how good models are on what clients hold back, of those that hold back anything and could tell."""

    def name_of(self, client: int) -> str:
        """Return what people call a client."""

    def is_everyone(self, cohort: Sequence[int]) -> bool:
        """Whether nobody's data is outside this cohort."""

    def examples(self) -> int | None:
        """Return how many examples all clients own together, as far as it is known."""

    def close(self) -> None:
        """End what works for it elsewhere; it can go on afterwards."""
