"""Gossip, against plain numpy."""

import json

import numpy as np
import pytest

from edgekit.errors import EdgekitError
from edgekit.randomness import generator

from .reference import accuracy, descend, mean, same


@pytest.mark.parametrize("clients", [6, 5])
def test_gossip(measured, clients):
    """Lian et al. 2017, algorithm 1, with pairs as in Boyd et al. 2006; the odd one keeps to itself."""
    made, found, lines = measured("federation.algorithm=gossip", f"data.clients={clients}")
    first = {name: a.astype(np.float64) for name, a in made._first.state.bundles["weights"].items()}
    sizes = [len(made.dataset.client(c)) for c in range(clients)]
    own, partner = dict.fromkeys(range(clients), first), {}
    for number in (1, 2, 3):
        mixed = {c: mean([own[c], own[partner[c]]], [1, 1]) if c in partner else own[c] for c in own}
        own = {c: descend(made, number, c, w)[0] for c, w in mixed.items()}
        order = [int(one) for one in generator(0, "gossip", number).permutation(clients)]
        partner = {}
        for a, b in zip(order[::2], order[1::2], strict=False):
            partner |= {a: b, b: a}
    same(found, mean(list(own.values()), sizes))
    scores = [accuracy(made.dataset.client_test(c), own[c]) for c in range(clients)]
    assert lines[-1]["clients"]["mean"] == pytest.approx(np.mean(scores), abs=1e-5)


@pytest.mark.long
def test_models_come_nearer_to_each_other(run):
    made, *_, folder = run("federation.algorithm=gossip", "federation.rounds=12", "training.learning_rate=0.01")
    kept = [made.engine._here.clients.states.load(c, 13)["own"]["1.weight"] for c in range(6)]
    apart = np.mean([np.abs(a - b).max() for a in kept for b in kept])
    alone, *_ = run("federation.algorithm=ditto", "federation.arguments.pull=0", "federation.rounds=12", name="alone")
    others = [alone.engine._here.clients.states.load(c, 13)["own"]["1.weight"] for c in range(6)]
    assert apart < 0.6 * np.mean([np.abs(a - b).max() for a in others for b in others])
    line = json.loads(folder.metrics.read_text().splitlines()[-1])
    assert line["bytes_up"] == line["bytes_down"] == 6 * 650 * 4


def test_a_resumed_run_gives_the_same_bits(coordinate, make_experiment, interrupted):
    chosen = ["model.name=mlp", "federation.algorithm=gossip", "federation.rounds=4"]
    expected = coordinate(make_experiment(*chosen), "whole").run().weights
    interrupted(coordinate(make_experiment(*chosen), "parts"), 2)
    found = coordinate(make_experiment(*chosen), "parts").run().weights
    assert all((found[name] == array).all() for name, array in expected.items())


def test_cohorts_are_refused(coordinate, make_experiment):
    with pytest.raises(EdgekitError, match="set federation.cohort = 0"):
        coordinate(make_experiment("federation.algorithm=gossip", "federation.cohort=3"))
