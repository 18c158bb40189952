"""Federated distillation, against plain numpy."""

import json
import sys

import numpy as np
import pytest
from torch import nn

from edgekit.asks import Predict, Train
from edgekit.clients.torch_trainer import TorchTrainer, trained_weights
from edgekit.compression.phases import Phase
from edgekit.data import Examples, batches, load
from edgekit.data.batches import LocalTask
from edgekit.errors import EdgekitError, ExperimentError, TrainingError
from edgekit.local_settings import LocalSettings
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.randomness import generator

from .reference import descend, mean, same

ZOO = ["model.name=mlp", "data.clients=6", "federation.rounds=3", "training.epochs=2"]


def _scores(x, w):
    return x.reshape(len(x), -1).astype(np.float64) @ w["1.weight"].T.astype(np.float64) + w["1.bias"]


def _chances(scores):
    chances = np.exp(scores - scores.max(1, keepdims=True))
    return chances / chances.sum(1, keepdims=True)


def _teach(w, x, told, settings, rng):
    """Steps of SGD or Adam along the gradient of KL(softmax(told) || softmax(scores))."""
    w = {name: array.astype(np.float64) for name, array in w.items()}
    first, second = ({name: np.zeros_like(array) for name, array in w.items()} for _ in range(2))
    for step, batch in enumerate(batches.draw(len(x), settings, rng), 1):
        flat = x[batch].reshape(len(batch), -1).astype(np.float64)
        apart = (_chances(_scores(x[batch], w)) - _chances(told[batch].astype(np.float64))) / len(batch)
        for name, g in {"1.weight": apart.T @ flat, "1.bias": apart.sum(0)}.items():
            if settings.optimiser == "adam":
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g**2
                g = first[name] / (1 - 0.9**step) / (np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8)
            w[name] = w[name] - settings.learning_rate * g
    return w


def test_feddf(run):
    """Lin et al. 2020, algorithm 1: the mean of the models learns the mean of their scores."""
    chosen = ("federation.algorithm=feddf", "federation.arguments={passes = 3, learning_rate = 0.002, batch_size = 20}")
    made, w, found, folder = run(*chosen)
    x = made.dataset.calibration.x
    sizes = [len(made.dataset.client(c)) for c in range(6)]
    how = LocalSettings(epochs=3, batch_size=20, learning_rate=0.002, optimiser="adam")
    for number in (1, 2, 3):
        each = [descend(made, number, c, w)[0] for c in range(6)]
        told = np.mean([_scores(x, one) for one in each], 0)
        w = _teach(mean(each, sizes), x, told, how, generator(0, "server batches", number, 6))
    assert all(np.allclose(found[name], w[name], atol=2e-6) for name in w)
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert all(line["metrics"]["distil_loss"] > 0 for line in lines)


def test_fedmd(run):
    """Li & Wang 2019, algorithm 1: digest the consensus, revisit one's own examples, answer; no weights travel."""
    chosen = ("federation.algorithm=fedmd", "federation.arguments={passes = 2, learning_rate = 0.1, batch_size = 32}")
    made, w, found, folder = run(*chosen)
    x, told = made.dataset.calibration.x, None
    own, how = dict.fromkeys(range(6), w), LocalSettings(epochs=2, batch_size=32, learning_rate=0.1)
    for number in (1, 2, 3):
        answers = []
        for c in range(6):
            if told is not None:
                own[c] = _teach(own[c], x, told, how, generator(0, "batches", number, c))
            own[c] = descend(made, number, c, own[c], more=() if told is None else (1,))[0]
            answers.append(_scores(x, own[c]))
        told = np.mean(answers, 0)
        w = _teach(w, x, told, how, generator(0, "server batches", number, 0))
    same(found, w)
    line = json.loads(folder.metrics.read_text().splitlines()[-1])
    assert line["bytes_up"] == 6 * len(x) * 10 * 4
    assert line["bytes_down"] == 6 * (x.nbytes + len(x) * 10 * 4)
    first = json.loads(folder.metrics.read_text().splitlines()[0])
    assert first["bytes_down"] - line["bytes_down"] == 6 * sum(array.nbytes for array in w.values()) // 2  # in float64


def test_clients_of_fedmd_have_unequal_networks_and_measure_their_own(coordinate, make_experiment):
    chosen = [*ZOO, "federation.algorithm=fedmd", 'federation.arguments.networks=["mlp", "cnn"]']
    chosen += ["data.client_test_fraction=0.25", "federation.cohort=4"]
    made = coordinate(make_experiment(*chosen))
    made.run()
    assert {name: section.name for name, section in made.algorithm.modules.items()} == {"mlp": "mlp", "cnn": "cnn"}
    assert made.scores
    kept = {}  # what clients keep is their own network, of its own shape
    states = made.engine._here.clients.states
    for client in range(6):
        if held := states.load(client, 4):
            like = trained_weights(build(Model(name=["mlp", "cnn"][client % 2]), (1, 8, 8), 10, 0))
            assert {n: a.shape for n, a in held["own"].items()} == {n: a.shape for n, a in like.items()}
            kept[client] = held
    assert {client % 2 for client in kept} == {0, 1}


@pytest.mark.parametrize("method", ["feddf", "fedmd"])
def test_a_resumed_run_gives_the_same_bits(method, coordinate, make_experiment, interrupted):
    chosen = [*ZOO, f"federation.algorithm={method}", "federation.cohort=4"]
    expected = coordinate(make_experiment(*chosen), "whole").run().weights
    interrupted(coordinate(make_experiment(*chosen), "parts"), 2)
    found = coordinate(make_experiment(*chosen), "parts").run().weights
    assert all((found[name] == array).all() for name, array in expected.items())


@pytest.mark.long
def test_the_server_teaches_what_unequal_clients_know(coordinate, make_experiment):
    """With labels by client, the ensemble's answers are worth more than the mean of the weights in early rounds."""
    chosen = ["model.name=mlp", "data.clients=5", "data.alpha=0.1", "federation.rounds=5", "training.epochs=10"]
    found = {}
    for method in ("fedavg", "feddf"):
        experiment = make_experiment(*chosen, f"federation.algorithm={method}")
        made = coordinate(experiment, method, load(experiment.data, 0))
        made.run()
        lines = (made.run_folder.metrics).read_text().splitlines()
        found[method] = np.mean([json.loads(line)["accuracy"] for line in lines])
    assert found["feddf"] > found["fedavg"]


class Normed(nn.Module):
    """Somebody's own, with running statistics."""

    def __init__(self, shape, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Linear(12, classes))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("method", ["fedmd", "fedbuff"])
def test_what_changes_between_rounds_is_refused(method, coordinate, make_experiment):
    made = ["federation.arguments.buffer=3", 'devices.population={"pixel-7" = 6}'] if method == "fedbuff" else []
    experiment = make_experiment(*ZOO, f"federation.algorithm={method}", *made)
    dataset = load(experiment.data, 0)
    model = build(experiment.model, dataset.shape, 10, 0)
    with pytest.raises(ExperimentError, match="has clients keep what is of one network"):
        coordinate(experiment, dataset=dataset, model=model, phase=Phase(until=2, span=3))


def test_all_answers_of_an_early_exit_are_taught(coordinate, make_experiment):
    chosen = [*ZOO, "federation.algorithm=fedmd", "model.name=exits", "training.learning_rate=0.1"]
    made = coordinate(make_experiment(*chosen))
    made.run()
    lines = [json.loads(line) for line in made.run_folder.metrics.read_text().splitlines()]
    assert [line["replies"] for line in lines] == [6, 6, 6]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (['federation.arguments.networks=["gone"]'], "gone"),
        (["privacy.unit=client"], "has clients train 2 times a round|looks at single"),
        (["training.trainer=litert"], "others' answers, which a training graph cannot: it needs torch"),
        (["federation.arguments.passes=0"], "passes"),
        (['federation.arguments.networks=["fedmd_own:Normed"]'], "Normed keeps statistics"),
        (["model.name=fedmd_own:Normed"], "running statistics, as of"),
    ],
)
def test_what_fedmd_cannot_is_told_before_training(chosen, message, coordinate, make_experiment, monkeypatch):
    monkeypatch.setitem(sys.modules, "fedmd_own", sys.modules[__name__])
    with pytest.raises(EdgekitError, match=message):
        coordinate(make_experiment(*ZOO, "federation.algorithm=fedmd", *chosen)).run()


def test_what_is_taught_must_fit():
    network = build(Model(name="mlp"), (1, 8, 8), 10, 0)
    trainer, weights = TorchTrainer(network), trained_weights(network)
    own = Examples(np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, np.int64))
    task = LocalTask(own, np.random.default_rng(0), np.random.default_rng(0))
    x, told = np.zeros((3, 1, 8, 8), np.float32), np.zeros((3, 10), np.float32)
    assert trainer.train(Train(weights, LocalSettings(), taught=(x, told)), task).examples == 3
    for bad in ((x[:, :, :4], told), (x, told[:2]), (x, told[0]), (x[:0], told[:0])):
        with pytest.raises(TrainingError, match="what is taught is of"):
            trainer.train(Train(weights, LocalSettings(), taught=bad), task)
    with pytest.raises(TrainingError, match="trains on the client's own examples alone"):
        trainer.train(Train(weights, LocalSettings(update_clip=1.0), taught=(x, told)), task)
    assert (trainer.scores(weights, x) == trainer.scores(Predict(weights, x).weights, x)).all()
