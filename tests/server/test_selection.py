"""Cohorts: who is drawn, and how often."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.server.loop.selection import draw_cohort


@given(st.integers(1, 10**6), st.integers(0, 50), st.booleans(), st.integers(0, 2**31))
def test_a_cohort_is_sorted_and_without_doubles(clients, cohort, poisson, seed):
    cohort = min(cohort, clients)
    drawn = draw_cohort(min(clients, 10**4), min(cohort, 10**4), poisson=poisson, rng=np.random.default_rng(seed))
    assert drawn == sorted(set(drawn))
    if not poisson:
        assert len(drawn) == (cohort or min(clients, 10**4))


def test_a_poisson_cohort_takes_each_client_at_the_rate():
    rng = np.random.default_rng(0)
    draws = [draw_cohort(50, 10, poisson=True, rng=rng) for _ in range(2000)]
    counts = np.bincount(np.concatenate([d for d in draws if d]).astype(int), minlength=50)
    assert counts.mean() == pytest.approx(400, rel=0.03)
    sizes = np.array([len(d) for d in draws])
    assert sizes.var() == pytest.approx(50 * 0.2 * 0.8, rel=0.1)
    # Independent coins: two clients are together as often as the product of their chances.
    together = np.mean([0 in d and 1 in d for d in map(set, draws)])
    assert together == pytest.approx(0.04, abs=0.015)
