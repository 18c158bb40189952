"""Flower's own training loop runs on our grid, and gives what our coordinator gives."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg
from hypothesis import given
from hypothesis import strategies as st

from edgekit.clients import LocalSettings
from edgekit.clients.app import SimulatedClients, to_record
from edgekit.clients.cohort import VectorisedTrainer
from edgekit.clients.torch_trainer import TorchTrainer, state
from edgekit.experiment import Model
from edgekit.models import build
from edgekit.server.local_grid import LocalGrid
from edgekit.server.selection import draw_cohort


@pytest.mark.parametrize("vectorised", [True, False])
def test_flowers_own_loop_runs_on_the_grid(vectorised, digits):
    model = build(Model(), digits.shape, 10, 0)
    clients = SimulatedClients(digits, TorchTrainer(model), VectorisedTrainer(model) if vectorised else None, 0)
    grid = LocalGrid(clients.app, digits.clients, clients.train_cohort if vectorised else None)
    strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=2, min_train_nodes=2, fraction_train=0.2)
    config = ConfigRecord({"local-settings": LocalSettings(batch_size=16).to_json()})
    result = strategy.start(grid, to_record(state(model)), num_rounds=2, train_config=config)
    after = {name: array.numpy() for name, array in result.arrays.items()}
    assert not np.allclose(after["layers.0.weight"], state(model)["layers.0.weight"])
    assert "train_loss" in result.train_metrics_clientapp[2]


def test_messages_may_be_pushed_first_and_pulled_later(digits):
    model = build(Model(), digits.shape, 10, 0)
    clients = SimulatedClients(digits, TorchTrainer(model), None, 0)
    grid = LocalGrid(clients.app, digits.clients)
    config = ConfigRecord({"local-settings": LocalSettings().to_json(), "server-round": 1})
    content = RecordDict({"arrays": to_record(state(model)), "config": config})
    ids = list(grid.push_messages([grid.create_message(content, "train", 1003, "1")]))
    (reply,) = grid.pull_messages(ids)
    assert reply.metadata.reply_to_message_id == ids[0]
    assert list(grid.pull_messages(ids)) == []


def test_what_a_client_app_cannot_answer_is_an_error_reply(digits):
    clients = SimulatedClients(digits, TorchTrainer(build(Model(), digits.shape, 10, 0)), None, 0)
    grid = LocalGrid(clients.app, digits.clients)
    (reply,) = grid.send_and_receive([Message(RecordDict(), 1000, "evaluate")])
    assert reply.has_error()


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


def test_a_common_step_that_breaks_is_said_and_the_clients_are_answered_one_by_one(digits):
    model = build(Model(), digits.shape, 10, 0)
    clients = SimulatedClients(digits, TorchTrainer(model), None, 0)
    told = []

    def broken(messages, contexts):
        raise RuntimeError("shapes do not agree")

    grid = LocalGrid(clients.app, digits.clients, broken, told.append)
    config = ConfigRecord({"local-settings": LocalSettings().to_json(), "server-round": 1})
    content = RecordDict({"arrays": to_record(state(model)), "config": config})
    replies = list(grid.send_and_receive([Message(content, node, "train") for node in (1001, 1000)]))
    assert [reply.metadata.src_node_id for reply in replies] == [1000, 1001]
    assert not any(reply.has_error() for reply in replies)
    assert told == ["the cohort's common step failed (shapes do not agree): its clients train one at a time this round"]
