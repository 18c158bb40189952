"""Privacy loss distributions of Gaussian mechanisms, by numpy alone: for devices, which have no accountant's package.

A mechanism's privacy loss is put on a grid by connecting the dots of its hockey-stick curve (Doroshenko et al. 2022,
"Connect the dots", algorithm 1), which is an upper bound and off by the grid's square; steps are composed by Fourier
transforms, whatever the window cuts off at the top counts as lost (Koskela et al. 2020). The page does the same in
`clients/phone/page/pld.js`. What takes everybody in each step is composed exactly (Balle & Wang 2018, theorem 8).
"""

from collections.abc import Sequence
from math import erfc, exp, inf, log, log1p, sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
POINTS = 1 << 15
"""Of the grid; four times as many for over `MANY` steps."""
MANY = 20_000
CUT = 1e-4
"""Share of delta that may be cut off at either end of a distribution."""
_LARGEST = 500.0
"""A loss beyond it counts as infinite."""
_TILTS: Floats = np.asarray(2.0 ** np.arange(-4, 12), np.float64)


def pld_epsilon(history: Sequence[tuple[float, float, int]], delta: float) -> float:
    """Return the epsilon that a history spends at this delta.

    Args:
        history: (noise multiplier, sample rate, steps) of each stretch, within range.
        delta: the other half of the guarantee.
    """
    steps = {(noise, rate): 0 for noise, rate, _ in history}
    for noise, rate, more in history:
        steps[noise, rate] += more
    kinds = [(noise, rate, count) for (noise, rate), count in steps.items() if count]
    mu = sqrt(sum(count / noise**2 for noise, rate, count in kinds if rate == 1))
    sampled = [kind for kind in kinds if kind[1] < 1]
    if not sampled:
        return gaussian_epsilon(mu, delta)
    if mu:
        sampled.append((1 / mu, 1.0, 1))
    return max(_composed(sampled, delta, adding) for adding in (False, True))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return epsilon of a mechanism that tells N(0, 1) from N(mu, 1), exactly (Balle & Wang 2018, theorem 8)."""
    if not mu:
        return 0.0
    if mu > 1e6:
        return inf

    def spent(epsilon: float) -> float:
        return _above(epsilon / mu - mu / 2) - exp(epsilon + _log_above(epsilon / mu + mu / 2))

    if spent(0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while spent(high) > delta:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > delta else (low, middle)
    return high


def _above(z: float) -> float:
    """Return a standard normal's chance to be above z."""
    return erfc(z / sqrt(2)) / 2


def _log_above(z: float) -> float:
    """Return its logarithm, also where it is no number any more: a lower tail's bound there (Mills' ratio, above)."""
    return log(_above(z)) if z < 30 else -z * z / 2 - log(z * sqrt(2 * np.pi)) + log1p(-1 / (z * z + 3))


def _tails(z: Floats) -> Floats:
    return np.fromiter(map(erfc, z / sqrt(2)), np.float64, len(z)) / 2


def _hockey_stick(losses: Floats, noise: float, rate: float, adding: bool) -> Floats:
    """Return delta of one step at each epsilon: of N(0) and the mixture with N(1), in this order if `adding`."""
    grown = np.expm1(-losses if adding else losses) + rate  # the sampled part's share at the threshold, times rate
    ever = grown > 0
    at = noise**2 * np.log(np.where(ever, grown, 1.0) / rate) + 0.5  # where the loss is that much
    if adding:
        none, sampled = _tails(-at / noise), _tails((1 - at) / noise)
        held = none - np.exp(losses) * ((1 - rate) * none + rate * sampled)
        return np.where(ever, np.maximum(held, 0.0), 0.0)
    none, sampled = _tails(at / noise), _tails((at - 1) / noise)
    held = (1 - rate) * none + rate * sampled - np.exp(losses) * none
    return np.where(ever, np.maximum(held, 0.0), -np.expm1(losses))


def _range(noise: float, rate: float, chance: float, adding: bool) -> tuple[float, float]:
    """Return between which losses one step is, but for a chance at either end."""
    reach = noise * (sqrt(2 * log(1 / chance)) + 0.1)

    def loss(x: float) -> float:
        beyond = (2 * x - 1) / (2 * noise**2)
        if rate == 1:
            return beyond
        return log1p(rate * np.expm1(min(beyond, 700.0))) if beyond < 700 else log(rate) + beyond

    low, high = loss(-reach), loss(1 + reach)
    return (-high, -low) if adding else (low, high)


class _Step:
    """One step's losses on a grid: masses from `first` on, and what counts as infinite."""

    def __init__(self, noise: float, rate: float, spacing: float, reach: tuple[float, float], adding: bool) -> None:
        self.first = int(np.floor(reach[0] / spacing))
        last = max(self.first + 1, int(np.ceil(reach[1] / spacing)))
        losses = np.asarray(spacing * np.arange(self.first, last + 1), np.float64)
        delta = _hockey_stick(losses, noise, rate, adding)
        # The discrete distribution whose curve goes straight (in e^loss) from dot to dot.
        up, down = 1 / np.expm1(spacing), -1 / np.expm1(-spacing)
        falls = -np.diff(delta)
        masses = np.zeros(len(delta))
        masses[:-1] -= up * falls
        masses[1:] += down * falls
        masses[0] += 1 - delta[0]
        self.masses = np.maximum(masses, 0.0)
        self.lost = float(delta[-1])

    def log_moment(self, tilts: Floats, spacing: float) -> Floats:
        """Return log E[e^(tilt * loss)] of the finite losses, for each tilt."""
        there = np.flatnonzero(self.masses)
        exponents = np.log(self.masses[there]) + tilts[:, None] * spacing * (self.first + there)
        largest = exponents.max(1)
        found: Floats = largest + np.log(np.exp(exponents - largest[:, None]).sum(1))
        return found


def _composed(kinds: Sequence[tuple[float, float, int]], delta: float, adding: bool) -> float:
    total = sum(steps for _, _, steps in kinds)
    reaches = [_range(noise, rate, CUT * delta / total, adding) for noise, rate, _ in kinds]
    reaches = [(max(low, -_LARGEST), min(high, _LARGEST)) for low, high in reaches]

    def steps_at(spacing: float) -> list[_Step]:
        return [
            _Step(noise, rate, spacing, reach, adding) for (noise, rate, _), reach in zip(kinds, reaches, strict=True)
        ]

    def window(spacing: float, made: Sequence[_Step]) -> tuple[float, float]:
        """Return between which losses the sum is, but for a share of delta at either end (Chernoff's bound)."""
        up = down = np.full(len(_TILTS), log(1 / (CUT * delta)))
        for (_, _, steps), one in zip(kinds, made, strict=True):
            up = up + steps * one.log_moment(_TILTS, spacing)
            down = down + steps * one.log_moment(-_TILTS, spacing)
        return -float((down / _TILTS).min()), float((up / _TILTS).min())

    coarse = max(high - low for low, high in reaches) / 2048
    low, high = window(coarse, steps_at(coarse))
    points = POINTS * (4 if total > MANY else 1)
    spacing = (high - low) / (points - 8)
    reaches = [(max(a, min(low, -spacing)), min(b, max(high, spacing))) for a, b in reaches]
    made = steps_at(spacing)
    low = window(spacing, made)[0]
    start = int(np.floor(low / spacing))
    size = 2 * points
    transformed: NDArray[np.complex128] = np.ones(size // 2 + 1, np.complex128)
    log_kept = 0.0
    for (_, _, steps), one in zip(kinds, made, strict=True):
        placed = np.zeros(size)
        np.add.at(placed, (one.first + np.arange(len(one.masses))) % size, one.masses)
        transformed *= np.fft.rfft(placed) ** steps
        log_kept += steps * log1p(-min(one.lost, 1 - 1e-16))
    sums = np.maximum(np.roll(np.fft.irfft(transformed, size), -start), 0.0)
    lost = -np.expm1(log_kept) + CUT * delta  # what is infinite, and what the window leaves out at its top
    return _epsilon_of(np.asarray(spacing * (start + np.arange(size)), np.float64), sums, lost, delta)


def _epsilon_of(losses: Floats, masses: Floats, lost: float, delta: float) -> float:
    """Return the least epsilon >= 0 with sum over losses above it of (1 - e^(epsilon - loss)) mass + lost <= delta."""
    if lost >= delta:
        return inf
    above = losses > 0
    losses, masses = losses[above], masses[above]
    weights = masses * np.exp(-losses)
    # delta at epsilon = each loss, from the top: tail of the masses less e^epsilon times that of the weights
    tails, weighted = np.cumsum(masses[::-1])[::-1], np.cumsum(weights[::-1])[::-1]
    if tails.size == 0 or tails[0] - weighted[0] + lost <= delta:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # beyond what exp can hold nothing is left to be lost
        spent = tails - np.exp(losses) * weighted + lost
    place = int(np.argmax(spent <= delta)) if (spent <= delta).any() else len(losses)
    if place == len(losses):
        return inf
    # between the loss before and this one the sums stay, so epsilon is where they meet delta
    return float(log((tails[place] + lost - delta) / weighted[place])) if tails[place] + lost > delta else 0.0
