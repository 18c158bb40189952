"""Attacks by updates: what attackers send instead of what they learnt. All changes are vectors in double precision."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
Send = Callable[[Vectors, Vectors, float, np.random.Generator], Vectors]
"""Of the attackers' own changes (attackers, weights), the others' (clients, weights), a strength and random numbers:
what the attackers send."""


def sign(own: Vectors, others: Vectors, strength: float, rng: np.random.Generator) -> Vectors:
    """Go the other way."""
    return np.asarray(-(strength or 1.0) * own)


def scale(own: Vectors, others: Vectors, strength: float, rng: np.random.Generator) -> Vectors:
    """Go further."""
    return (strength or 10.0) * own


def noise(own: Vectors, others: Vectors, strength: float, rng: np.random.Generator) -> Vectors:
    """Go anywhere, so many times as far."""
    drawn = rng.normal(size=own.shape)
    lengths = np.linalg.norm(own, axis=1, keepdims=True) / np.linalg.norm(drawn, axis=1, keepdims=True)
    return np.asarray((strength or 10.0) * lengths * drawn)


def little(own: Vectors, others: Vectors, strength: float, rng: np.random.Generator) -> Vectors:
    """All go z deviations to one side of their mean (Baruch et al. 2019, algorithm 3).

    z is such that enough of the others are further away for the attackers to look as if they were of the majority.
    """
    attackers, clients = len(own), len(own) + len(others)
    supporters = clients // 2 + 1 - attackers
    share = (clients - attackers - supporters) / max(1, clients - attackers)
    z = strength or max(0.0, NormalDist().inv_cdf(min(max(share, 1e-9), 1 - 1e-9)))
    return np.repeat((own.mean(0) - z * own.std(0))[None], attackers, 0)


def min_max(own: Vectors, others: Vectors, strength: float, rng: np.random.Generator) -> Vectors:
    """All go as far against the others' deviation as the others are apart (Shejwalkar & Houmansadr 2021, equation 7).

    The attackers see what the others send.
    """
    seen = others if len(others) > 1 else own
    mean, aside = seen.mean(0), -seen.std(0)
    gram = seen @ seen.T
    squares = np.diag(gram)
    largest = max(0.0, float((squares[:, None] + squares - 2 * gram).max()))

    def fits(gamma: float) -> bool:
        return float(((seen - mean - gamma * aside) ** 2).sum(1).max()) <= largest

    low, high = 0.0, 1.0
    if not aside.any():
        return np.repeat(mean[None], len(own), 0)
    while fits(high):
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return np.repeat((mean + low * aside)[None], len(own), 0)


def free_rider(own: Vectors, others: Vectors, strength: float, rng: np.random.Generator) -> Vectors:
    """Send nothing learnt."""
    return np.zeros_like(own)


def replacement(own: Vectors, others: Vectors, strength: float, rng: np.random.Generator) -> Vectors:
    """Go so far that the mean becomes the attackers' model (Bagdasaryan et al. 2020, equation 3)."""
    return (strength or (len(own) + len(others)) / len(own)) * own


KINDS: dict[str, Send] = {
    "sign": sign,
    "scale": scale,
    "noise": noise,
    "little": little,
    "min-max": min_max,
    "free-rider": free_rider,
    "replacement": replacement,
}
