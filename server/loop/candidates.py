"""What a selector may look at: who took part, what clients told, and how their devices are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Weights
from edgekit.asks import Update
from edgekit.server.engines.base import Conditions

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Candidates:
    """Those among whom a selector draws; arrays have a value for each, not a number where nothing is known.

    Attributes:
        rounds: in which each one's update counted.
        last: the newest of these; 0 if there is none.
        losses: mean training loss, as each told last.
        weights: of each one's last update in the mean, such as its number of examples.
        conditions: of their devices; None where nothing is known of them.
    """

    rounds: Floats
    last: Floats
    losses: Floats
    weights: Floats
    conditions: Conditions | None

    def __len__(self) -> int:
        return len(self.rounds)


class History:
    """Who took part so far, and what they told; of a million clients those alone who did."""

    def __init__(self) -> None:
        self._told: dict[int, tuple[float, float, float, float]] = {}

    def note(self, number: int, updates: Mapping[int, Update]) -> None:
        """Write down a round's updates."""
        for client, update in updates.items():
            rounds = self._told.get(client, (0.0,))[0]
            loss = update.facts.get("train_loss")
            told = float(loss) if isinstance(loss, int | float) else np.nan
            self._told[client] = (rounds + 1, float(number), told, float(update.weight))

    def of(self, clients: Sequence[int], conditions: Conditions | None) -> Candidates:
        """Return what is known of some clients."""
        nothing = (0.0, 0.0, np.nan, np.nan)
        told = np.array([self._told.get(client, nothing) for client in clients], np.float64).reshape(-1, 4)
        rounds, last, losses, weights = told.T
        return Candidates(rounds, last, losses, weights, conditions)

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
