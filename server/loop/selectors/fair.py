"""Those who were asked least often: nobody starves, and whoever was away catches up."""

import numpy as np

from edgekit.server.loop.candidates import Candidates
from edgekit.server.loop.selection import Sampling, size_of


class Fair:
    """Clients who were asked in the fewest rounds, done or not, drawn by lot among equals."""

    reads = ("rounds",)

    def sampling(self, cohort: int, clients: int) -> Sampling:
        """Return a fixed size."""
        return Sampling("fixed", cohort / clients)

    def choose(
        self, cohort: float, clients: int, number: int, rng: np.random.Generator, about: Candidates
    ) -> list[int]:
        """Take the least served."""
        order = np.lexsort((rng.permutation(clients), about.asked))
        return sorted(int(one) for one in order[: size_of(cohort, clients)])
