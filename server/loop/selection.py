"""Who takes part in a round."""

import numpy as np


def draw_cohort(clients: int, cohort: float, *, poisson: bool, rng: np.random.Generator) -> list[int]:
    """Draw a round's cohort, sorted.

    Args:
        clients: how many there are.
        cohort: how many take part (a whole number, or an expected one with `poisson`); 0 is all.
        poisson: let each client join independently with the chance cohort / clients, as amplification by subsampling
            needs; the cohort's size then varies, and may be 0. Otherwise exactly `cohort` clients are drawn.
        rng: random numbers of this round.
    """
    if cohort == 0 or cohort >= clients:
        return list(range(clients))
    if poisson:
        # Draw the size, then who: the same distribution as one coin a client, without touching a million of them.
        cohort = rng.binomial(clients, cohort / clients)
    return sorted(int(client) for client in rng.choice(clients, int(cohort), replace=False))
