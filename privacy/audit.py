"""Lower bounds on epsilon, out of what a mechanism gave: what an audit holds against a claim.

Canaries are units (examples or clients) of an auditor's, each in the data by a fair coin. Whoever guesses from the
output which ones were in can be right so often only if epsilon is so large (Steinke, Nasr & Jagielski 2023, "Privacy
auditing with one (1) training run"). That asks nothing of the mechanism, and shows little of a large epsilon. What is
known to be Gaussian shows more: the size of its noise beside what one unit moves (where each step takes everybody,
exactly: Balle & Wang 2018, theorem 8).

scipy's distributions are loaded when they are needed.
"""

from dataclasses import dataclass
from math import exp, inf, sqrt

import numpy as np
from numpy.typing import NDArray

from edgekit.guarantee import Plan
from edgekit.privacy.accounting import LEAST_NOISE, epsilon
from edgekit.privacy.pld import gaussian_epsilon

CONFIDENCE = 0.999
"""That a bound is none by luck alone."""
GUESSED = 0.5
"""Share of the canaries that are guessed about, those of the highest and lowest scores. It is fixed, as the theorem
asks; so many show most where noise is too small by half."""
_LARGEST = 100.0


@dataclass(frozen=True)
class OneRun:
    """What guesses about canaries show.

    Attributes:
        epsilon: at least.
        guesses: made.
        right: of these.
        most: epsilon that so many canaries could show at the most, were all guesses right.
    """

    epsilon: float
    guesses: int
    right: int
    most: float


def one_run(
    scores: NDArray[np.floating], inside: NDArray[np.bool_], delta: float, confidence: float = CONFIDENCE
) -> OneRun:
    """Guess of the canaries with high scores that they were in, of those with low ones that they were not.

    Args:
        scores: what each canary seems to have moved, (canaries,).
        inside: which were in, by fair coins of their own.
        delta: the other half of the guarantee.
        confidence: of the bound.
    """
    order, canaries = np.argsort(-scores), len(scores)
    each = max(1, int(GUESSED * canaries / 2))
    right = int(inside[order[:each]].sum() + (~inside[order[-each:]]).sum())

    def shown(right: int) -> float:
        return least_epsilon(canaries, 2 * each, right, delta, 1 - confidence)

    return OneRun(shown(right), 2 * each, right, shown(2 * each))


def least_epsilon(canaries: int, guesses: int, right: int, delta: float, chance: float) -> float:
    """Return the largest epsilon at which so many right guesses have at most this chance; 0 if none has.

    Args:
        canaries: in all.
        guesses: made.
        right: of these.
        delta: the other half of the guarantee.
        chance: that is called too small.
    """
    if guess_chance(canaries, guesses, right, 0.0, delta) > chance:
        return 0.0
    low, high = 0.0, _LARGEST
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if guess_chance(canaries, guesses, right, middle, delta) <= chance else (low, middle)
    return low


def guess_chance(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return an upper bound on the chance of so many right guesses (Steinke et al. 2023, theorem 5.2).

    With W ~ Binomial(guesses, 1 / (1 + e^-epsilon)) it is

        P(W >= right) + 2 canaries delta max_i P(right > W >= right - i) / i
    """
    from scipy.stats import binom

    chances = binom.pmf(np.arange(guesses + 1), guesses, 1 / (1 + exp(-epsilon)))
    beyond = float(chances[right:].sum())
    below = np.cumsum(chances[:right][::-1]) / np.arange(1, right + 1)
    return min(1.0, beyond + 2 * canaries * delta * float(below.max(initial=0.0)))


def by_noise(
    moved: NDArray[np.floating],
    noise: NDArray[np.floating],
    plan: Plan,
    confidence: float = CONFIDENCE,
) -> float:
    """Return the least epsilon of Gaussian noise of the size that was seen, beside what units were seen to move.

    Args:
        moved: how far each unit moved what each round gave, noise aside, (rounds, units).
        noise: what rounds gave where no unit moves anything, (values,).
        plan: of the rounds: how many, of how many steps, and how often each takes a unit.
        confidence: that the noise is no larger, and a unit moves no less, than they are taken for.
    """
    from scipy.stats import chi2, norm

    drawn = plan.sample_rate * plan.steps
    unsure = float(norm.ppf(confidence)) * float(moved.std()) / sqrt(moved.size)
    step = (float(moved.mean()) - unsure) / drawn
    largest = sqrt(float(np.square(noise, dtype=np.float64).sum()) / float(chi2.ppf(1 - confidence, noise.size)))
    if step <= 0:
        return 0.0
    multiplier, steps = largest / sqrt(plan.steps) / step, plan.steps * plan.rounds
    if multiplier < LEAST_NOISE:
        return inf
    if plan.sample_rate == 1:
        return gaussian_epsilon(sqrt(steps) / multiplier, plan.delta)
    return epsilon([(multiplier, plan.sample_rate, steps)], plan.delta, "pld")
