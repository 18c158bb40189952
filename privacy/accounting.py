"""How much privacy a history of subsampled Gaussian mechanisms spends, by well-kept accountants.

`pld` composes privacy loss distributions numerically (dp-accounting; Doroshenko et al. 2022, "connect the dots"): an
upper bound, tight to a fraction of a percent, and the fastest. `prv` (Opacus; Gopi et al. 2021) agrees with it; `rdp`
(Opacus; Mironov et al. 2019) is looser. A figure of epsilon means nothing without its accountant's name.

Devices have none of these packages. They reckon with `pld-numpy` (`edgekit/privacy/pld.py`), an upper bound too, on a
grid that fits the history.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import exp, inf, isfinite, lgamma, log, log1p
from typing import Any

from edgekit.errors import MissingExtraError, PrivacyError
from edgekit.privacy.pld import pld_epsilon

Mechanism = tuple[float, float, int]
"""(noise multiplier, sample rate, steps): Poisson-subsampled Gaussian mechanisms of the same kind."""
History = Sequence[Mechanism]

_GRID = 1e-3
"""Spacing of the discretised privacy loss: 0.05 % looser than 1e-4, and ten times faster."""
_LARGEST_NOISE = 1e4


@lru_cache(maxsize=256)
def _loss_distribution(noise_multiplier: float, sample_rate: float) -> Any:
    try:
        from dp_accounting.pld import privacy_loss_distribution
    except ImportError:
        raise MissingExtraError("dp-accounting", "train") from None
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier, sampling_prob=sample_rate, value_discretization_interval=_GRID
    )


def _pld(history: History, delta: float) -> float:
    total = None
    for noise_multiplier, sample_rate, steps in history:
        part = _loss_distribution(noise_multiplier, sample_rate).self_compose(steps)
        total = part if total is None else total.compose(part)
    return 0.0 if total is None else float(total.get_epsilon_for_delta(delta))


def _opacus(name: str) -> Callable[[History, float], float]:
    def accountant(history: History, delta: float) -> float:
        try:
            from opacus.accountants import create_accountant
        except ImportError:
            raise MissingExtraError("opacus", "train") from None
        made = create_accountant(name)
        made.history = list(history)
        return float(made.get_epsilon(delta)) if history else 0.0

    return accountant


LEAST_NOISE = 1e-3
"""Less noise than this protects nothing, and its square would leave the range of numbers."""
ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512)


@lru_cache(maxsize=256)
def renyi(noise_multiplier: float, sample_rate: float, order: int) -> float:
    """Return a subsampled Gaussian mechanism's Renyi divergence at an integer order (Mironov et al. 2019, section 3.3).

    log(sum_k C(order, k) (1 - q)^(order - k) q^k exp((k^2 - k) / (2 sigma^2))) / (order - 1)
    """
    variance: float = noise_multiplier**2
    if sample_rate == 1:
        return order / (2 * variance)
    terms = [
        lgamma(order + 1)
        - lgamma(k + 1)
        - lgamma(order - k + 1)
        + (order - k) * log1p(-sample_rate)
        + k * log(sample_rate)
        + (k * k - k) / (2 * variance)
        for k in range(order + 1)
    ]
    largest = max(terms)
    return float(largest + log(sum(exp(term - largest) for term in terms))) / (order - 1)


@lru_cache(maxsize=256)
def _pld_numpy(history: tuple[Mechanism, ...], delta: float) -> float:
    if not history:
        return 0.0
    if not 0 < delta < 1:
        return inf
    if not all(noise >= LEAST_NOISE and isfinite(noise) and 0 < r <= 1 and steps >= 0 for noise, r, steps in history):
        return inf
    found = pld_epsilon(history, delta)
    return found if found == found else inf


_ACCOUNTANTS: dict[str, Callable[[History, float], float]] = {
    "pld": _pld,
    "prv": _opacus("prv"),
    "rdp": _opacus("rdp"),
    "pld-numpy": lambda history, delta: _pld_numpy(tuple(history), delta),
}


def epsilon(history: History, delta: float, accountant: str = "pld") -> float:
    """Return the epsilon that a history spends at this delta.

    Args:
        history: (noise multiplier, sample rate, steps) of each stretch; stretches may differ.
        delta: the other half of the guarantee.
        accountant: `pld`, `prv`, `rdp`, or a device's `pld-numpy`.
    """
    return _ACCOUNTANTS[accountant]([part for part in history if part[2]], delta)


def solve_noise_multiplier(
    target: float, delta: float, sample_rate: float, steps: int, accountant: str = "pld"
) -> float:
    """Return the smallest noise multiplier (to 0.1 %) that spends at most `target` over all steps.

    Args:
        target: epsilon.
        delta: the other half of the guarantee.
        sample_rate: chance of a unit to be in a step, 1 without subsampling.
        steps: how many steps in all.
        accountant: `pld`, `prv` or `rdp`.

    Raises:
        PrivacyError: no noise up to a multiplier of 10,000 reaches the target.
    """

    def spent(noise_multiplier: float) -> float:
        return epsilon([(noise_multiplier, sample_rate, steps)], delta, accountant)

    low = high = 1.0
    while spent(high) > target:
        low, high = high, 2 * high
        if high > _LARGEST_NOISE:
            raise PrivacyError(
                f"privacy.epsilon {target:g} cannot be reached over {steps} steps at sample rate {sample_rate:g} with "
                f"the accountant {accountant}: even a noise multiplier of {_LARGEST_NOISE:g} spends "
                f"{spent(_LARGEST_NOISE):.2g}; raise epsilon, or take fewer rounds or a smaller sample rate"
            )
    while low == high or (low > 0.02 and spent(low) <= target):
        low, high = low / 2, low
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if spent(middle) > target else (low, middle)
    return high
