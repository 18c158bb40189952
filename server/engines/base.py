"""What the loop asks of an engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgekit.asks import Ask, Reply, Scored

Draw = Callable[[int], list[int]]
"""Draws places out of so many."""


@dataclass(frozen=True)
class Exchanged:
    """What came of a round's asks.

    Attributes:
        replies: one for each ask, in its order.
        bytes_up: that came.
        bytes_down: that were sent.
        again: whether nobody answered, but clients come and go, so that the round is worth another try.
        released: whether clients sent anything at all, be it no update.
    """

    replies: Sequence[Reply]
    bytes_up: int
    bytes_down: int
    again: bool = False
    released: bool = True


class Engine(Protocol):
    """The clients of a federation, as the loop sees them.

    Attributes:
        trainer: how they train, for people.
        repeatable: whether a round that is run again gives the same bits.
        wave: most clients that are worth asking at once; 0 is all.
    """

    trainer: str
    repeatable: bool
    wave: int

    def choose(self, number: int, draw: Draw) -> list[int]:
        """Return who takes part in a round, as numbers; `draw(n)` draws places out of n. It may wait for clients."""

    def exchange(self, asks: Mapping[int, Ask]) -> Exchanged:
        """Return the clients' replies."""

    def measure(self, asks: Mapping[int, Ask]) -> Mapping[int, Scored]:
        """Return how good models are on what clients hold back, of those that hold back anything and could tell."""

    def name_of(self, client: int) -> str:
        """Return what people call a client."""

    def is_everyone(self, cohort: Sequence[int]) -> bool:
        """Whether nobody's data is outside this cohort."""

    def examples(self) -> int | None:
        """Return how many examples all clients own together, as far as it is known."""
