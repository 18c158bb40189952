"""Clients of one round may train different networks, and the server may train too: a method says how."""

from types import MappingProxyType

import numpy as np
import pytest

from edgekit.algorithms.base import Algorithm, State, with_mu
from edgekit.asks import Ask, Score, Train, Update
from edgekit.clients.torch_trainer import TorchTrainer, state
from edgekit.clients.trainer import LocalTask
from edgekit.data import load
from edgekit.errors import TrainingError
from edgekit.local_settings import LocalSettings
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.randomness import generator
from edgekit.runfolder import RunFolder, read_lines
from edgekit.server.loop.sync import Coordinator

HERE = "tests.algorithms.test_modules"
SMALL = Model(name="mlp", arguments={"hidden": [8]})
SERVER = LocalSettings(epochs=1, batch_size=16, learning_rate=0.05)


class TwoSizes(Algorithm):
    """Clients of even numbers train the run's network, the others a small one; both are averaged among equals."""

    modules = MappingProxyType({"small": SMALL})
    reads = "each"

    def begin(self, weights, learnt):
        small = state(build(SMALL, (1, 8, 8), 10, 0))
        return State({"weights": weights, "small": small})

    def ask(self, state, clients, number):
        whole = Ask({"weights": state.bundles["weights"]}, {"module": ""})
        small = Ask({"weights": state.bundles["small"]}, {"module": "small"})
        return {client: small if client % 2 else whole for client in clients}

    def local(self, ask, client):
        trained = yield Train(ask.bundles["weights"], with_mu(ask), module=ask.config["module"])
        return Update({"weights": trained.arrays})

    def merge(self, before, got, number):
        means = {}
        for name, odd in (("weights", 0), ("small", 1)):
            each = [update.bundles["weights"] for client, update in got.updates.items() if client % 2 == odd]
            means[name] = {k: np.mean([one[k] for one in each], 0, dtype=np.float32) for k in each[0]}
        return State(means)


class Refining(Algorithm):
    """The server goes on where the clients' mean ends, and measures what came of it."""

    def merge(self, before, got, number):
        trained = yield Train(got.bundles["weights"], SERVER)
        scored = yield Score(trained.arrays)
        return State({"weights": trained.arrays}, {"metrics": {"at_server": scored.score}})


class Endless(Algorithm):
    def merge(self, before, got, number):
        while True:
            yield Score(got.bundles["weights"])


class Strange(Algorithm):
    def merge(self, before, got, number):
        yield "teach me"


class Unknown(Algorithm):
    def local(self, ask, client):
        trained = yield Train(ask.bundles["weights"], ask.settings, module="huge")
        return Update({"weights": trained.arrays})


@pytest.fixture
def made(tmp_path, make_experiment, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])
    monkeypatch.setattr("edgekit.server.loop.server_trainer.MOST_REQUESTS", 5)

    def make(method, *overrides, name="run"):
        experiment = make_experiment(
            f"federation.algorithm={HERE}:{method}", "model.name=mlp", "model.arguments={hidden=[16]}",
            "data.clients=6", "federation.rounds=2", "training.epochs=1", *overrides,
        )  # fmt: skip
        dataset = load(experiment.data, 0)
        model = build(experiment.model, dataset.shape, 10, 0, dataset.calibration.x)
        return Coordinator(experiment, dataset, model, RunFolder.create(tmp_path / name))

    return make


@pytest.mark.parametrize("trainer", ["cohort", "one-by-one"])
def test_clients_of_one_round_train_two_networks(made, trainer):
    coordinator = made("TwoSizes", f"training.trainer={trainer}", "federation.rounds=1")
    first = coordinator._first.state
    dataset, settings = coordinator.dataset, coordinator.local_settings
    expected = {}
    for name, model, clients in (
        ("weights", coordinator.model, (0, 2, 4)),
        ("small", build(SMALL, (1, 8, 8), 10, 0), (1, 3, 5)),
    ):
        each = []
        for client in clients:
            task = LocalTask(dataset.client(client), *(generator(0, "batches", 1, client) for _ in range(2)))
            each.append(TorchTrainer(model).train(Train(first.bundles[name], settings), task).arrays)
        expected[name] = {k: np.mean([one[k] for one in each], 0) for k in each[0]}
    coordinator.run()
    from edgekit.server.loop import checkpoint

    after = checkpoint.latest(coordinator.run_folder.checkpoint).state.bundles
    for name, arrays in expected.items():
        assert all(np.allclose(after[name][k], arrays[k], atol=1e-6) for k in arrays)


def test_the_server_trains_where_merge_asks_for_it(made, tmp_path):
    found = made("Refining", "federation.rounds=1").run().weights
    plain = made("Plain", "federation.rounds=1", name="plain")
    dataset, mean = plain.dataset, plain.run().weights
    trainer, draw = TorchTrainer(plain.model), generator(0, "server batches", 1, 0)
    expected = trainer.train(Train(mean, SERVER), LocalTask(dataset.calibration, draw, draw)).arrays
    assert all(np.array_equal(found[k], expected[k]) for k in expected)
    (line,) = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert line["metrics"]["at_server"] == trainer.score(Score(expected), dataset.calibration).score


class Plain(Algorithm):
    def merge(self, before, got, number):
        return State({"weights": got.bundles["weights"]})


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("Endless", "could not aggregate the updates: its merge made 5 requests without an end"),
        (
            "Strange",
            "its merge asks for 'teach me': it may yield Train, Score or Predict",
        ),
        ("Unknown", "the method has no network 'huge' beside the run's own: its modules are none"),
    ],
)
def test_what_a_method_asks_for_wrongly_is_one_line(made, method, told):
    with pytest.raises(TrainingError, match=told):
        made(method).run()


@pytest.mark.long
def test_litert_trains_them_too(made):
    """Each by a training graph of its own."""
    coordinators = [made("TwoSizes", f"training.trainer={one}", name=one) for one in ("one-by-one", "litert")]
    by_torch, by_graph = (one.run().weights for one in coordinators)
    assert all(np.allclose(by_torch[name], by_graph[name], atol=1e-5) for name in by_torch)
