"""Privacy loss distributions by numpy alone, against dp-accounting's on a finer grid, and exact Gaussians."""

from math import inf

import pytest
from dp_accounting.pld import privacy_loss_distribution

from edgekit.privacy.accounting import epsilon
from edgekit.privacy.pld import gaussian_epsilon, pld_epsilon

HISTORIES = [
    [(1.0, 0.01, 1000)],
    [(2.0, 0.5, 4)],
    [(0.5, 0.05, 100)],
    [(4.2, 0.001, 20_000)],
    [(0.7, 0.2, 30)],
    [(0.3, 0.5, 3)],
    [(0.1, 0.1, 1)],
    [(50.0, 0.5, 1000)],
    [(1.1, 0.004, 15_000)],
    [(8.0, 1.0, 5), (1.0, 0.1, 10)],
    [(1.0, 0.1, 10), (2.0, 0.3, 5), (1.0, 0.1, 10)],
    [(1.0, 1.0, 30), (1.0, 0.1, 10)],
]


def _theirs(history, delta, spacing):
    total = None
    for noise, rate, steps in history:
        one = privacy_loss_distribution.from_gaussian_mechanism(
            noise, sampling_prob=rate, value_discretization_interval=spacing
        )
        part = one.self_compose(steps)
        total = part if total is None else total.compose(part)
    return total.get_epsilon_for_delta(delta)


@pytest.mark.parametrize("history", HISTORIES, ids=str)
@pytest.mark.parametrize("delta", [1e-5, pytest.param(1e-8, marks=pytest.mark.long)])
def test_epsilon_is_dp_accountings(history, delta):
    steps = sum(steps for _, _, steps in history)
    few = min(rate for _, rate, _ in history) < 0.002  # steps whose losses are small beside a coarse grid
    theirs = _theirs(history, delta, 2e-5 if few else 1e-3 if steps <= 100 else 1e-4)
    assert pld_epsilon(history, delta) == pytest.approx(theirs, rel=5e-3)
    assert pld_epsilon(history, delta) <= epsilon(history, delta, "rdp")


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0, 8.0])
def test_a_gaussians_epsilon_is_exact(mu):
    theirs = privacy_loss_distribution.from_gaussian_mechanism(1 / mu, value_discretization_interval=1e-4)
    assert gaussian_epsilon(mu, 1e-5) == pytest.approx(theirs.get_epsilon_for_delta(1e-5), rel=2e-3, abs=2e-4)
    assert pld_epsilon([(2 / mu, 1.0, 4)], 1e-5) == pytest.approx(gaussian_epsilon(mu, 1e-5))
    assert (gaussian_epsilon(0.0, 1e-5), gaussian_epsilon(inf, 1e-5)) == (0, inf)


def test_it_is_never_below_a_grid_ten_times_finer(monkeypatch):
    """The grid is an upper bound, so a finer one gives less, and not much less."""
    from edgekit.privacy import pld

    for history in HISTORIES[:6]:
        found = pld_epsilon(history, 1e-5)
        with monkeypatch.context() as patch:
            patch.setattr(pld, "POINTS", 10 * pld.POINTS)
            finer = pld_epsilon(history, 1e-5)
        assert finer * (1 - 1e-5) <= found <= finer * 1.002


def test_more_of_anything_spends_more():
    base = pld_epsilon([(1.0, 0.1, 50)], 1e-5)
    assert base < pld_epsilon([(1.0, 0.1, 51)], 1e-5)
    assert base < pld_epsilon([(0.99, 0.1, 50)], 1e-5)
    assert base < pld_epsilon([(1.0, 0.101, 50)], 1e-5)
    assert base < pld_epsilon([(1.0, 0.1, 50), (100.0, 1.0, 1)], 1e-5)
    assert base < pld_epsilon([(1.0, 0.1, 50)], 1e-6)


@pytest.mark.parametrize(
    ("history", "wanted"),
    [
        ([], 0.0),
        ([(1.0, 0.1, 0)], 0.0),
        ([(1e5, 0.5, 3)], 0.0),
        ([(0.02, 0.9, 1)], inf),
        ([(1e-4, 0.1, 1)], inf),
        ([(float("nan"), 0.1, 1)], inf),
        ([(1.0, 1.5, 1)], inf),
        ([(1.0, 0.1, -1)], inf),
    ],
)
def test_what_protects_nothing_spends_everything(history, wanted):
    assert epsilon(history, 1e-5, "pld-numpy") == wanted
    assert epsilon([(1.0, 0.1, 1)], 0.0, "pld-numpy") == inf
