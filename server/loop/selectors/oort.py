"""Oort: clients that are useful and quick (Lai et al., OSDI 2021, algorithm 1)."""

import numpy as np
from numpy.typing import NDArray

from edgekit.server.loop.candidates import Candidates
from edgekit.server.loop.selection import Sampling, size_of

FIRST_EXPLORED, LEAST_EXPLORED, DECAY = 0.9, 0.2, 0.98
"""Share of the places for clients never tried: at first, at least, and times itself by round."""
PENALTY = 2.0
"""Power by which slowness counts."""
CUT_OFF = 0.95
"""Of the last taken one's utility, from which on others may be drawn as well; and of all utilities, the highest
quantile that is believed."""
PREFERRED = 0.5
"""Quantile of the clients' durations up to which nobody is slow. Theirs moves with a pacer; this one stays."""


class Oort:
    """Utility is weight times loss, with a bonus for who was not seen for long, and less for who is slow.

    Theirs takes the root of the mean squared loss of single examples; clients here tell their mean loss alone.
    """

    reads = ("losses", "devices")

    def sampling(self, cohort: int, clients: int) -> Sampling:
        """Return a fixed size."""
        return Sampling("fixed", cohort / clients)

    def choose(
        self, cohort: float, clients: int, number: int, rng: np.random.Generator, about: Candidates
    ) -> list[int]:
        """Exploit those who are known, explore others."""
        size = size_of(cohort, clients)
        if size >= clients:
            return list(range(clients))
        seconds = np.ones(clients) if about.conditions is None else about.conditions.seconds
        seconds = np.maximum(np.where(np.isfinite(seconds), seconds, np.nanmean([1.0, *seconds])), 1e-9)
        known, new = np.flatnonzero(np.isfinite(about.losses)), np.flatnonzero(~np.isfinite(about.losses))
        exploring = max(LEAST_EXPLORED, FIRST_EXPLORED * DECAY ** (number - 1))
        explored = min(len(new), max(round(exploring * size), size - len(known)))
        chosen = self._exploited(size - explored, known, seconds, about, number, rng)
        if explored:
            quick = 1 / seconds[new]
            chosen += [int(one) for one in rng.choice(new, explored, replace=False, p=quick / quick.sum())]
        return sorted(chosen)

    def _exploited(
        self,
        size: int,
        known: NDArray[np.int64],
        seconds: NDArray[np.float64],
        about: Candidates,
        number: int,
        rng: np.random.Generator,
    ) -> list[int]:
        """Draw by utility among those who have nearly as much as the last one that would be taken."""
        if not size:
            return []
        useful = np.nan_to_num(about.weights[known], nan=1.0) * np.maximum(about.losses[known], 0.0)
        useful = np.minimum(useful, np.quantile(useful, CUT_OFF))  # who claims far more than others is not believed
        seen = np.maximum(about.last[known], 1.0)
        useful = useful + np.sqrt(0.1 * np.log(max(number, 2)) / seen) * max(float(useful.max()), 1e-12)
        preferred = float(np.quantile(seconds[known], PREFERRED))
        useful = useful * np.minimum(1.0, (preferred / seconds[known]) ** PENALTY)
        order = np.argsort(-useful, kind="stable")
        least = CUT_OFF * useful[order[min(size, len(order)) - 1]]
        among = np.flatnonzero(useful >= least)
        total = float(useful[among].sum())
        chances = useful[among] / total if total > 0 and (useful[among] > 0).sum() >= size else None
        return [int(known[one]) for one in rng.choice(among, min(size, len(known)), replace=False, p=chances)]
