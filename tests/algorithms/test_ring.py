"""Ring all-reduce: against the plain mean, with members that do not answer, and what travels."""

import json

import numpy as np
import pytest

from edgekit.algorithms.ring import Ring
from edgekit.asks import WEIGHTS, Aggregate, Client, Trained
from edgekit.errors import EdgekitError

from .reference import descend, mean, same


def test_ring(run):
    """Two rounds of six members, ten steps each: the mean by their numbers of examples, to 1e-6."""
    made, w, found, folder = run("federation.algorithm=ring", "federation.rounds=20")
    sizes = [len(made.dataset.client(c)) for c in range(6)]
    for number in (1, 11):
        w = mean([descend(made, number, c, w)[0] for c in range(6)], sizes)
    same(found, w)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["metrics"]["ring_step"] for line in lines] == [*range(10), *range(10)]
    numbers = sum(array.size for array in found.values())
    segment = -(-numbers // 6)
    for part in (lines[:10], lines[10:]):  # 2 (n - 1) / n of the model, and a number a segment for the weights
        assert sum(line["bytes_up"] for line in part) == 6 * 2 * 5 * (segment + 1) * 4
    assert sum(line["bytes_down"] for line in lines[10:]) == 6 * 2 * 5 * (segment + 1) * 4  # no weights any more


class Members:
    """Members of a ring, driven by hand; training adds a member's own constant.

    Args:
        n: how many.
        numbers: of the model.
    """

    def __init__(self, n, numbers=11):
        self.method, self.clients = Ring(), {c: Client(c + 1, frozenset({"w"})) for c in range(n)}
        self.state = self.method.begin({"w": np.zeros(numbers, np.float32)}, frozenset({"w"}))

    def step(self, number, lost=(), away=()):
        asks = self.method.ask(self.state, [c for c in self.clients if c not in away], number)
        updates = {}
        for client, ask in asks.items():
            half = self.method.local(ask, self.clients[client])
            try:
                request = next(half)
                arrays = {"w": request.weights["w"] + np.float32(client + 1)}
                half.send(Trained(arrays, client + 1, 0.5))
            except StopIteration as end:
                update = end.value
            assert update.bundles["segment"]["segment"].shape == self.method.expects(ask)["segment"]["segment"].shape
            if client not in lost:
                updates[client] = update
        got = Aggregate({}, {}, len(updates), len(self.clients), updates)
        self.state = self.method.merge(self.state, got, number)
        return asks

    def round(self, first, lost=lambda step: (), away=lambda step: ()):
        asks = [self.step(first, lost(0), away(0))]
        while self.state.facts["step"]:
            step = self.state.facts["step"]
            asks.append(self.step(first + step, lost(step), away(step)))
        return asks

    @property
    def model(self):
        return self.state.bundles[WEIGHTS]["w"]


@pytest.mark.parametrize("n", [3, 4, 7])
def test_members_hold_the_model_themselves(n):
    ring = Members(n)
    weights = np.arange(1.0, n + 1)
    expected = (weights**2).sum() / weights.sum()
    for turn in (1, 2, 3):
        asks = ring.round(2 * (n - 1) * turn)
        assert all(("start" in ask.bundles) == (turn == 1) for ask in asks[0].values())
        assert np.allclose(ring.model, expected * turn, rtol=1e-5)


@pytest.mark.parametrize("step", range(8))
@pytest.mark.parametrize("kind", ["lost", "away"])
def test_a_member_that_does_not_answer_is_bypassed(step, kind):
    """Its part is missing in the segment that it was to add to then, and in no other."""
    n, silent = 5, 2
    ring = Members(n, numbers=15)
    told = (lambda s: (silent,) if s == step else ()), (lambda s: ())
    ring.round(1, *(told if kind == "lost" else told[::-1]))
    weights = np.arange(1.0, n + 1)
    whole = (weights**2).sum() / weights.sum()
    others = np.delete(weights, silent)
    expected = np.full(15, whole)
    if step < n:
        place = (silent - step) % n
        expected[3 * place : 3 * place + 3] = (others**2).sum() / others.sum()
    if kind == "away" and step == 0:  # the ring was closed without it
        assert np.allclose(ring.model, (others**2).sum() / others.sum(), rtol=1e-5)
        return
    assert np.allclose(ring.model, expected, rtol=1e-5)
    before = ring.model.copy()
    asks = ring.step(2 * n)  # whoever missed a step is sent the model, the others have it
    assert [client for client, ask in asks.items() if "start" in ask.bundles] == [silent]
    for client in range(n):
        own = ring.clients[client].state["own"]
        assert np.allclose(own["sum"][:15] / own["weight"], before + client + 1, rtol=1e-5)


@pytest.mark.parametrize("kind", ["lost", "away"])
@pytest.mark.parametrize("back", [1, 3, 6])
def test_who_misses_the_first_step_has_no_part_in_the_round(kind, back):
    """Nothing of the round before gets in: neither what was on its way to it, nor its own old part."""
    n, silent = 4, 3
    ring = Members(n)
    ring.round(1)
    before = ring.model.copy()
    others = np.arange(1.0, n)

    def missing(step):
        return (silent,) if step < back else ()

    ring.round(7, **{kind: missing})
    if kind == "lost":  # it did train, and adds its part where it answers
        whole = np.arange(1.0, n + 1)
        added = [(silent - step) % n for step in range(n) if step >= back]
        for place in range(n):
            part = whole if place in added else others
            expected = before[3 * place : 3 * place + 3] + (part**2).sum() / part.sum()
            assert np.allclose(
                ring.model[3 * place : 3 * place + 3], expected[: len(ring.model) - 3 * place], rtol=1e-5
            )
        return
    assert np.allclose(ring.model, before + (others**2).sum() / others.sum(), rtol=1e-5)
    ring.round(13)
    weights = np.arange(1.0, n + 1)
    after = before + (others**2).sum() / others.sum() + (weights**2).sum() / weights.sum()
    assert np.allclose(ring.model, after, rtol=1e-5)


@pytest.mark.parametrize(
    ("first", "second"), [((0, 1, 2), (0, 1, 3, 4)), ((0, 1, 2, 3), (0, 1, 4)), ((0, 1, 2, 3), (4, 5, 6))]
)
def test_rings_of_other_members_begin_where_the_last_one_ended(first, second):
    ring = Members(7)
    total = np.zeros(11)
    for turn, members in enumerate((first, second, first)):
        for step in range(2 * (len(members) - 1)):
            ring.step(100 * turn + step + 1, away=[c for c in range(7) if c not in members])
        weights = np.array(members) + 1.0
        total = total + (weights**2).sum() / weights.sum()
        assert np.allclose(ring.model, total, rtol=1e-5)


def test_a_ring_waits_for_members():
    ring = Members(4)
    ring.round(1)
    before = ring.model.copy()
    for number in (7, 8):
        asks = ring.step(number, away=(0, 3))
        assert all(not ask.bundles for ask in asks.values())
    assert (ring.model == before).all()
    asks = ring.round(9)
    assert all("start" not in ask.bundles for ask in asks[0].values())  # nobody lost anything
    weights = np.arange(1.0, 5)
    assert np.allclose(ring.model, before + (weights**2).sum() / weights.sum(), rtol=1e-5)


def test_devices_train_in_the_first_step_alone(coordinate, make_experiment):
    chosen = ["federation.algorithm=ring", "federation.rounds=10", "model.name=mlp", "devices.availability=always"]
    made = coordinate(make_experiment(*chosen, 'devices.population={"raspberry-pi-4" = 6}'))
    made.run()
    lines = [json.loads(line) for line in made.run_folder.devices.read_text().splitlines()]
    assert [line["devices"][0][3] > 0 for line in lines] == [True, *[False] * 9]


def test_a_client_that_fails_costs_its_part_alone(coordinate, make_experiment, digits):
    from dataclasses import replace

    def client(index):
        if index == 4:
            raise OSError("the card was pulled out")
        return digits.client(index)

    dataset = replace(digits, clients=5, load_client=client, client_labels=None)
    chosen = ["federation.algorithm=ring", "federation.rounds=16", "model.name=mlp", "training.epochs=4"]
    made = coordinate(make_experiment(*chosen), dataset=dataset)
    made.run()
    lines = [json.loads(line) for line in made.run_folder.metrics.read_text().splitlines()]
    assert {line["replies"] for line in lines} == {4}
    assert lines[-1]["accuracy"] > 0.2


def test_a_resumed_ring_goes_on_in_the_middle(coordinate, make_experiment, interrupted):
    chosen = ["model.name=mlp", "federation.algorithm=ring", "federation.rounds=20"]
    expected = coordinate(make_experiment(*chosen), "whole").run().weights
    interrupted(coordinate(make_experiment(*chosen), "parts"), 13)
    found = coordinate(make_experiment(*chosen), "parts").run().weights
    assert all((found[name] == array).all() for name, array in expected.items())


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["data.clients=2"], "a ring needs at least 3 members, there are 2"),
        (["federation.rounds=9"], "10 rounds make one training of 6 clients: set federation.rounds to a multiple"),
        (["federation.cohort=3"], "they are all that are there: set federation.cohort = 0"),
        (["privacy.unit=client", "privacy.noise=client"], "privacy bounds what is one client's"),
        (['federation.transforms=["top-k"]'], "federation.transforms are for updates"),
        (["attack.kind=sign"], r"\[attack\] changes updates"),
    ],
)
def test_what_a_ring_cannot_is_told_before_training(chosen, message, coordinate, make_experiment):
    with pytest.raises(EdgekitError, match=message):
        coordinate(
            make_experiment("federation.algorithm=ring", "federation.rounds=10", "model.name=mlp", *chosen)
        ).run()
