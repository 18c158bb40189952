"""Those who took part least often: nobody starves, and whoever was away catches up."""

import numpy as np

from edgekit.server.loop.candidates import Candidates
from edgekit.server.loop.selection import Sampling


class Fair:
    """Clients whose updates counted in the fewest rounds, drawn by lot among equals."""

    reads = ("rounds",)

    def sampling(self, cohort: int, clients: int) -> Sampling:
        """Return a fixed size."""
        return Sampling("fixed", cohort / clients)

    def choose(
        self, cohort: float, clients: int, number: int, rng: np.random.Generator, about: Candidates
    ) -> list[int]:
        """Take the least served."""
        order = np.lexsort((rng.permutation(clients), about.rounds))
        return sorted(int(one) for one in order[: int(cohort) or clients])
