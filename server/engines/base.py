"""What the loop asks of an engine."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.asks import Ask, Reply, Scored, Update


class Draw(Protocol):
    """Draws a round's clients."""

    def __call__(self, clients: Sequence[int], wanted: int | None = None) -> list[int]:
        """Return some of those that it is given: so many, or as many as a cohort has."""


@dataclass(frozen=True)
class Conditions:
    """How some clients' devices are; arrays have a value for each, not a number where that is not known.

    Attributes:
        battery: how full it is, 0 to 1; 1 on mains.
        charging: whether it is on a charger or on mains.
        metered: whether its network is metered.
        seconds: that a round would take it.
        joules: that a round would draw.
        battery_joules: of a full battery; 0 on mains.
        deadline: seconds that a round waits; 0 as long as it takes.
    """

    battery: NDArray[np.float64]
    charging: NDArray[np.bool_]
    metered: NDArray[np.bool_]
    seconds: NDArray[np.float64]
    joules: NDArray[np.float64]
    battery_joules: NDArray[np.float64]
    deadline: float = 0.0


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
        asks: what the replies and those missed answer, where these are not the asks of this round alone.
        missed: (client, reason) of those whose devices were late or gone: nothing is wrong with them.
    """

    replies: Sequence[Reply]
    bytes_up: int
    bytes_down: int
    again: bool = False
    released: bool = True
    folded: Sequence[Taken] | None = None
    missed: Sequence[tuple[int, str]] = ()
    asks: Mapping[int, Ask] | None = None


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
        """Return who takes part in a round, drawn of those who are there. It may wait for clients."""

    def conditions(self, clients: Sequence[int]) -> Conditions | None:
        """Return how some clients' devices are; None where nothing is known of them."""

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
