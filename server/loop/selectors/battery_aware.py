"""Battery- and network-aware: devices that can afford a round, on networks that cost nothing, and the quicker ones."""

import numpy as np
from numpy.typing import NDArray

from edgekit.server.loop.candidates import Candidates
from edgekit.server.loop.selection import Sampling, size_of

RESERVE = 0.2
"""Share of a battery that a round must leave."""
QUICKEST = 0.5
"""Share of the able devices, the quicker ones, that most places go to."""
ANYBODY = 0.1
"""Share of the places for which all able devices draw lots, the slow ones too: their data counts as well."""


class BatteryAware:
    """Devices whose battery, network and deadline allow the round; among them mostly the quicker half.

    Where these are too few, others fill up: first those on a metered network, then those who would be late, last those
    whose battery would be low.
    """

    reads = ("devices",)

    def sampling(self, cohort: int, clients: int) -> Sampling:
        """Return a fixed size."""
        return Sampling("fixed", cohort / clients)

    def choose(
        self, cohort: float, clients: int, number: int, rng: np.random.Generator, about: Candidates
    ) -> list[int]:
        """Take the able ones."""
        size = size_of(cohort, clients)
        if size >= clients or about.conditions is None:
            return list(range(clients))
        now = about.conditions
        share = np.divide(now.joules, now.battery_joules, out=np.zeros(clients), where=now.battery_joules > 0)
        low = ~now.charging & (now.battery - np.nan_to_num(share) < RESERVE)
        late = (now.seconds > now.deadline) if now.deadline else np.zeros(clients, bool)
        burden = 4 * low + 2 * late + 1 * now.metered
        lots = rng.permutation(clients)
        able = np.flatnonzero(burden == 0)
        chosen: list[int] = []
        if len(able) > size:
            anybody = int(ANYBODY * size + rng.random())  # on average so many
            seconds = np.nan_to_num(now.seconds[able], nan=0.0)
            quick = able[np.lexsort((lots[able], seconds))][: max(size, int(QUICKEST * len(able)))]
            chosen = _first(quick, lots, size - anybody, [])
            chosen = _first(able, lots, size, chosen)
        else:
            chosen = [int(one) for one in np.lexsort((lots, burden))[:size]]
        return sorted(chosen)


def _first(among: NDArray[np.int64], lots: NDArray[np.int64], size: int, chosen: list[int]) -> list[int]:
    """Return those chosen, and others by lot until they are so many."""
    left = [int(one) for one in among[np.argsort(lots[among])] if int(one) not in chosen]
    return chosen + left[: size - len(chosen)]
