"""Cohorts: who is drawn, and how often."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.algorithms import mechanism_of
from edgekit.algorithms.base import Algorithm
from edgekit.data import load
from edgekit.errors import ExperimentError, TrainingError
from edgekit.models import build
from edgekit.privacy import epsilon
from edgekit.runfolder import RunFolder
from edgekit.server.loop import selection
from edgekit.server.loop.charging import planned
from edgekit.server.loop.selection import Poisson, Sampling, Uniform
from edgekit.server.loop.sync import Coordinator


@given(st.integers(1, 10**6), st.integers(0, 50), st.booleans(), st.integers(0, 2**31))
def test_a_cohort_is_sorted_and_without_doubles(clients, cohort, poisson, seed):
    cohort = min(cohort, clients)
    selector = Poisson() if poisson else Uniform()
    drawn = selector.choose(min(cohort, 10**4), min(clients, 10**4), 1, np.random.default_rng(seed))
    assert drawn == sorted(set(drawn))
    if not poisson:
        assert len(drawn) == (cohort or min(clients, 10**4))


def test_a_poisson_cohort_takes_each_client_at_the_rate():
    rng = np.random.default_rng(0)
    draws = [Poisson().choose(10, 50, 1, rng) for _ in range(2000)]
    counts = np.bincount(np.concatenate([d for d in draws if d]).astype(int), minlength=50)
    assert counts.mean() == pytest.approx(400, rel=0.03)
    sizes = np.array([len(d) for d in draws])
    assert sizes.var() == pytest.approx(50 * 0.2 * 0.8, rel=0.1)
    # Independent coins: two clients are together as often as the product of their chances.
    together = np.mean([0 in d and 1 in d for d in map(set, draws)])
    assert together == pytest.approx(0.04, abs=0.015)


def test_privacy_counts_on_what_a_selector_says_of_its_sampling(make_experiment, digits):
    """Poisson sampling amplifies; a fixed size has no such proof here, so each client is planned for in each round."""
    plans = {}
    for name in ("poisson", "uniform"):
        chosen = ["privacy.unit=client", "federation.cohort=4", "data.clients=40", f"federation.selector={name}"]
        experiment = make_experiment(*chosen)
        made = mechanism_of(experiment.privacy, experiment.split)
        plans[name] = planned(experiment, digits, Algorithm(), made).plan_made
    assert (plans["poisson"].sample_rate, plans["uniform"].sample_rate) == (0.1, 1.0)
    assert plans["uniform"].noise_multiplier > 1.5 * plans["poisson"].noise_multiplier
    for plan in plans.values():
        history = [(plan.noise_multiplier, plan.sample_rate, plan.rounds)]
        assert epsilon(history, plan.delta) == pytest.approx(8.0, rel=0.01)


class Latest:
    """Somebody's own: the last clients, whoever they are."""

    def sampling(self, cohort, clients):
        return Sampling("fixed", cohort / clients)

    def choose(self, cohort, clients, number, rng):
        return list(range(clients - int(cohort), clients))


def test_a_selector_of_ones_own_takes_its_place(make_experiment, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "latest", sys.modules[__name__])
    experiment = make_experiment("federation.selector=latest:Latest", "federation.cohort=2", "model.name=mlp")
    dataset = load(experiment.data, 0)
    model = build(experiment.model, dataset.shape, 10, 0)
    made = Coordinator(experiment, dataset, model, RunFolder.create(tmp_path / "run"))
    assert made.cohorts.draw(made.engine, 1, 0) == [4, 5]
    assert made.run().rounds == 2


@pytest.mark.parametrize(
    ("chosen", "message"),
    [([1, 1], "chose a client twice"), ([9], "no list of places below 6"), (None, "no list"), (["a"], "no list")],
)
def test_what_is_no_cohort_is_named(chosen, message):
    with pytest.raises(TrainingError, match=message):
        selection.checked(chosen, 6)


def test_what_is_no_selector_is_named():
    with pytest.raises(ExperimentError, match="did you mean 'poisson'"):
        selection.make("poissson")
    with pytest.raises(ExperimentError, match="is no selector.s class: it needs `sampling` and `choose`"):
        selection.make("numpy:ndarray")


def test_in_turns_nobody_comes_again_before_all_others():
    selector, rng = selection.make("round-robin"), np.random.default_rng(0)
    rounds = [selector.choose(3, 7, number, rng) for number in range(1, 8)]
    assert all(len(cohort) == 3 == len(set(cohort)) for cohort in rounds)
    assert sorted(client for cohort in rounds for client in cohort) == sorted([*range(7)] * 3)
    assert sorted([*rounds[0], *rounds[1], 6]) == [*range(7)]
    assert selector.choose(9, 7, 5, rng) == [*range(7)]
    assert selector.sampling(3, 7).amplifies == 1.0
