"""What a selector may look at: who took part, what clients told, and how their devices are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Weights
from edgekit.asks import Update
from edgekit.server.engines.base import Conditions

Floats = NDArray[np.float64]
NOTHING = (0.0, 0.0, np.nan, np.nan)
"""Of who was never asked."""


@dataclass(frozen=True)
class Candidates:
    """Those among whom a selector draws; arrays have a value for each, not a number where nothing is known.

    Attributes:
        asked: in how many rounds each was asked.
        last: the newest round in which its update counted; 0 if there is none.
        losses: mean training loss, as each told last.
        weights: of each one's last update in the mean, such as its number of examples.
        conditions: of their devices; None where nothing is known of them.
    """

    asked: Floats
    last: Floats
    losses: Floats
    weights: Floats
    conditions: Conditions | None

    def __len__(self) -> int:
        return len(self.asked)


class History:
    """Who took part so far, and what they told; of a million clients those alone who did."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[float, float, float, float]] = {}

    def note(self, number: int, cohort: Sequence[int], updates: Mapping[int, Update]) -> None:
        """Write down who was asked in a round, and its updates."""
        for client in cohort:
            asked, last, loss, weight = self._told.get(client, NOTHING)
            self._told[client] = asked + 1, last, loss, weight
        for client, update in updates.items():
            told = update.facts.get("train_loss")
            loss = float(told) if isinstance(told, int | float) else np.nan
            self._told[client] = self._told.get(client, NOTHING)[0], float(number), loss, float(update.weight)

    def of(self, clients: Sequence[int], conditions: Conditions | None) -> Candidates:
        """Return what is known of some clients."""
        told = np.array([self._told.get(client, NOTHING) for client in clients], np.float64).reshape(-1, 4)
        asked, last, losses, weights = told.T
        return Candidates(asked, last, losses, weights, conditions)

    def state(self) -> Weights:
        """Return what a checkpoint keeps."""
        rows = np.array(list(self._told.values()), np.float64).reshape(-1, 4)
        return {"clients": np.array(list(self._told), np.uint64), "told": rows}

    def go_on(self, state: Weights) -> None:
        """Go on from a checkpoint."""
        if state:
            self._told = {
                int(client): (float(row[0]), float(row[1]), float(row[2]), float(row[3]))
                for client, row in zip(state["clients"], state["told"], strict=True)
            }
