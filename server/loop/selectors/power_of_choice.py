"""Power of choice: of some drawn at random, those with the highest loss (Cho et al. 2022, their rpow-d)."""

import numpy as np

from edgekit.server.loop.candidates import Candidates
from edgekit.server.loop.selection import Sampling, size_of

TIMES = 2
"""That a cohort are drawn; a larger number goes faster and is less fair (theirs, section 4)."""


class PowerOfChoice:
    """Twice a cohort is drawn, by their weights where these are known; those whose last loss was highest take part.

    Losses are those that clients told when they trained last; who never did comes first.
    """

    reads = ("losses",)

    def sampling(self, cohort: int, clients: int) -> Sampling:
        """Return a fixed size."""
        return Sampling("fixed", cohort / clients)

    def choose(
        self, cohort: float, clients: int, number: int, rng: np.random.Generator, about: Candidates
    ) -> list[int]:
        """Draw, then take the worst off."""
        size = size_of(cohort, clients)
        if size == clients:
            return list(range(clients))
        known = about.weights[np.isfinite(about.weights)]
        weights = np.where(np.isfinite(about.weights), about.weights, known.mean() if len(known) else 1.0)
        weights = np.maximum(weights, max(float(weights.max()), 1.0) * 1e-9)  # who has nothing is drawn last
        drawn = rng.choice(clients, min(clients, TIMES * size), replace=False, p=weights / weights.sum())
        losses = np.where(np.isfinite(about.losses[drawn]), about.losses[drawn], np.inf)
        order = drawn[np.argsort(-losses, kind="stable")]
        return sorted(int(one) for one in order[:size])
