"""Federated methods against their papers' equations in plain numpy."""

import numpy as np
import pytest
from torch import nn

from edgekit.algorithms.base import step_weight
from edgekit.clients import batches
from edgekit.clients.torch_trainer import state
from edgekit.data import load
from edgekit.errors import ExperimentError
from edgekit.randomness import generator
from edgekit.registry import ALGORITHMS
from edgekit.runfolder import RunFolder, read_lines
from edgekit.server.loop.sync import Coordinator

QUICK = ["federation.rounds=3", "training.epochs=2", "training.batch_size=16", "training.learning_rate=0.2"]


@pytest.fixture
def run(tmp_path, make_experiment):
    """Train digits with a linear classifier; return the coordinator, first and last weights, and the folder."""

    def train(*overrides, name="run"):
        experiment = make_experiment(*QUICK, "data.alpha=0.3", *overrides)
        dataset = load(experiment.data, 0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        folder = RunFolder.create(tmp_path / name)
        made = Coordinator(experiment, dataset, model, folder)
        first = state(model)
        return made, first, made.run().weights, folder

    return train


def _descend(made, number, client, w, *, mu=0.0, anchor=None, drift=None):
    """Local SGD on softmax regression: (weights after, steps)."""
    training = made.charging.local_settings()
    examples = made.dataset.client(client)
    w, velocity, steps = {k: v.astype(np.float64) for k, v in w.items()}, {}, 0
    anchor = {k: v.copy() for k, v in w.items()} if anchor is None else anchor
    for batch in batches.draw(len(examples), training, generator(0, "batches", number, client)):
        x, y = examples.x[batch].reshape(len(batch), -1).astype(np.float64), examples.y[batch]
        scores = x @ w["1.weight"].T + w["1.bias"]
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[range(len(y)), y] -= 1
        gradient = {"1.weight": p.T @ x / len(y), "1.bias": p.mean(0)}
        for name, g in gradient.items():
            g = g + mu * (w[name] - anchor[name]) + (0 if drift is None else drift[name])
            velocity[name] = training.momentum * velocity.get(name, 0) + g
            w[name] = w[name] - training.learning_rate * velocity[name]
        steps += 1
    return w, steps


def _mean(each, weights):
    total = sum(weights)
    return {k: sum(w * one[k] for w, one in zip(weights, each, strict=True)) / total for k in each[0]}


def _same(found, wanted):
    assert all(np.allclose(found[name], wanted[name], atol=1e-6) for name in wanted)


@pytest.mark.parametrize("method", ["algorithm=fedavg", "algorithm=fedprox", "strategy=FedAvg", "strategy=FedProx"])
def test_averaging(run, method):
    mu = 0.5 if "rox" in method else 0.0
    chosen = ["federation.arguments.proximal_mu=0.5"] if mu else []
    made, w, found, _ = run(f"federation.{method}", *chosen)
    clients = range(made.dataset.clients)
    sizes = [len(made.dataset.client(c)) for c in clients]
    for number in (1, 2, 3):
        w = _mean([_descend(made, number, c, w, mu=mu)[0] for c in clients], sizes)
    _same(found, w)


@pytest.mark.parametrize(("trainer", "momentum"), [("auto", 0.0), ("one-by-one", 0.5)])
def test_scaffold(run, trainer, momentum):
    """Karimireddy et al. 2020, algorithm 1 with option II, where three of six clients take part."""
    chosen = ["federation.algorithm=scaffold", "federation.cohort=3", f"training.momentum={momentum}"]
    made, w, found, folder = run(*chosen, f"training.trainer={trainer}")
    control = {k: np.zeros(v.shape) for k, v in w.items()}
    own = dict.fromkeys(range(6), control)
    for number in (1, 2, 3):
        cohort = made._draw_cohort(number, 0)
        after, changes = [], []
        for client in cohort:
            drift = {k: control[k] - own[client][k] for k in w}
            y, steps = _descend(made, number, client, w, drift=drift)
            far = sum((1 - momentum ** (steps - k)) / (1 - momentum) for k in range(steps))
            new = {k: own[client][k] - control[k] + (w[k] - y[k]) / (far * 0.2) for k in w}
            after.append(y)
            changes.append({k: new[k] - own[client][k] for k in w})
            own[client] = new
        w = _mean(after, [1] * 3)
        control = {k: control[k] + 3 / 6 * sum(change[k] for change in changes) / 3 for k in w}
    _same(found, w)
    assert len(list((folder.path / "checkpoint/clients").iterdir())) > 3


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_fednova(run, momentum):
    """Wang et al. 2020, equation 8, with clients of unequal numbers of examples, so of steps."""
    made, w, found, _ = run("federation.algorithm=fednova", f"training.momentum={momentum}")
    clients = range(made.dataset.clients)
    sizes = np.array([len(made.dataset.client(c)) for c in clients])
    assert len({-(-size // 16) for size in sizes}) > 2
    for number in (1, 2, 3):
        directions, norms = [], []
        for client in clients:
            y, steps = _descend(made, number, client, w)
            # What each gradient weighs in the change, step by step: equation 5's vector a_i.
            weights = np.zeros(steps)
            velocity = np.zeros(steps)
            for step in range(steps):
                velocity = momentum * velocity
                velocity[step] += 1
                weights += velocity
            norms.append(np.abs(weights).sum())
            assert norms[-1] == pytest.approx(step_weight(steps, momentum))
            directions.append({k: (y[k] - w[k]) / norms[-1] for k in w})
        far = (sizes * norms).sum() / sizes.sum()
        mean = _mean(directions, sizes)
        w = {k: w[k] + far * mean[k] for k in w}
    _same(found, w)


def test_personal_layers_stay_with_their_clients(run):
    made, w, found, _ = run("federation.algorithm=personal", 'federation.arguments.layers=["1.bias"]')
    clients = range(made.dataset.clients)
    sizes = [len(made.dataset.client(c)) for c in clients]
    shared, own = w["1.weight"], dict.fromkeys(clients, w["1.bias"])
    for number in (1, 2, 3):
        each = [_descend(made, number, c, {"1.weight": shared, "1.bias": own[c]})[0] for c in clients]
        own = {c: one["1.bias"] for c, one in zip(clients, each, strict=True)}
        shared = _mean(each, sizes)["1.weight"]
    _same(found, {"1.weight": shared, "1.bias": w["1.bias"]})
    kept = made.engine._clients.states.load(4, 4)
    assert np.allclose(kept["own"]["1.bias"], own[4], atol=1e-6)
    assert list(kept["own"]) == ["1.bias"]


@pytest.mark.parametrize("algorithm", ["scaffold", "personal"])
def test_what_clients_keep_is_part_of_checkpoints(run, algorithm, tmp_path):
    """Killed after clients wrote their states and before the checkpoint: the same bits in the end."""
    chosen = [f"federation.algorithm={algorithm}", "federation.cohort=3", "federation.rounds=5"]
    chosen += ['federation.arguments.layers=["1.bias"]'] if algorithm == "personal" else []
    _, _, whole, folder = run(*chosen)
    for number in (5, 4):
        (folder.checkpoint / f"round-00000{number}.safetensors").unlink(missing_ok=True)
        made = Coordinator(*_parts(folder, run, chosen))
        again = made.run().weights
        assert all(np.array_equal(again[name], whole[name]) for name in whole)


def _parts(folder, run, chosen):
    from edgekit import experiment as experiments

    quick = ["data.clients=6", "training.epochs=1", "training.batch_size=32", *QUICK, "data.alpha=0.3", *chosen]
    experiment = experiments.load(None, quick)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return experiment, load(experiment.data, 0), model, folder


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["federation.algorithm=fedavgg"], "federation.algorithm 'fedavgg' is unknown; did you mean 'fedavg'?"),
        (["federation.algorithm=scaffold", "federation.arguments.mu=1"], "do not fit scaffold: mu: Extra inputs"),
        (["federation.algorithm=personal"], "do not fit personal: layers: Field required"),
        (["federation.algorithm=personal", 'federation.arguments.layers=["1.bais"]'], "no layer is called '1.bais'"),
        (["federation.algorithm=personal", 'federation.arguments.layers=["1"]'], "every layer would stay"),
        (["federation.algorithm=json:loads"], "is not an edgekit.algorithms.base.Algorithm"),
        (["federation.algorithm=scaffold", "privacy.unit=example"], "has a client half of its own"),
        (["federation.algorithm=scaffold", "privacy.unit=client"], "say in privacy.clips.control how far"),
        (["privacy.unit=client", "privacy.clips.control=1.0"], "fedavg sends no control beside weights"),
        (["federation.algorithm=fedprox", "privacy.unit=example"], "fedprox has no effect here"),
    ],
)
def test_what_does_not_go_is_one_clear_line(overrides, message, run):
    with pytest.raises(ExperimentError) as caught:
        run(*overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_methods_at_once_are_an_error(make_experiment):
    with pytest.raises(ExperimentError, match=r"are two methods: leave one out"):
        make_experiment("federation.algorithm=scaffold", "federation.strategy=FedAvg")


def test_every_method_has_a_summary_and_a_source():
    assert {"fedavg", "fedprox", "scaffold", "fednova", "personal"} <= set(ALGORITHMS)
    assert all(entry.summary and entry.source for entry in ALGORITHMS.values())


@pytest.fixture
def measured(run):
    """Train with clients that hold a quarter back; return the coordinator, its last weights, and metrics' lines."""

    def train(*overrides):
        made, _, found, folder = run("data.client_test_fraction=0.25", *overrides)
        return made, found, list(read_lines(folder.metrics))

    return train


def _accuracy(examples, w):
    scores = examples.x.reshape(len(examples), -1) @ w["1.weight"].T + w["1.bias"]
    return float((scores.argmax(1) == examples.y).mean())


def test_clients_measure_on_what_they_hold_back_and_never_train_on_it(measured):
    made, w, lines = measured()
    wanted = {}
    for client in range(6):
        kept, held = made.dataset.client(client), made.dataset.client_test(client)
        whole = made.dataset.load_client(client)
        assert len(held) == len(whole) // 4 == len(whole) - len(kept)
        rows = sorted(map(bytes, np.concatenate([kept.x, held.x])))
        assert rows == sorted(map(bytes, whole.x))
        wanted[client] = _accuracy(held, w)
        assert made.scores[client].accuracy == pytest.approx(wanted[client])
        assert made.scores[client].examples == len(held)
    told = lines[-1]["clients"]
    assert told["mean"] == pytest.approx(np.mean(list(wanted.values())), abs=1e-6)
    assert told["worst_tenth"] == pytest.approx(min(wanted.values()), abs=1e-6)
    assert told["clients"] == 6


def test_personal_layers_are_measured_as_their_client_has_them(measured):
    made, w, _ = measured("federation.algorithm=personal", 'federation.arguments.layers=["1.bias"]')
    for client in range(6):
        own = {**w, "1.bias": made.engine._clients.states.load(client, 4)["own"]["1.bias"]}
        assert made.scores[client].accuracy == pytest.approx(_accuracy(made.dataset.client_test(client), own))


def test_a_strategy_of_flowers_asks_whom_it_wants_and_its_metrics_are_kept(measured):
    made, _, lines = measured("federation.strategy=FedAvg", "federation.arguments.fraction_evaluate=0.5")
    assert len(made.scores) == 3
    weights = [scored.examples for scored in made.scores.values()]
    mean = np.average([scored.accuracy for scored in made.scores.values()], weights=weights)
    assert lines[-1]["metrics"]["eval_acc"] == pytest.approx(mean, abs=1e-5)
    assert "train_loss" in lines[-1]["metrics"]


def test_under_privacy_nobody_is_asked(make_experiment):
    with pytest.raises(ExperimentError, match="under privacy clients are not asked"):
        make_experiment("data.client_test_fraction=0.2", "privacy.unit=client")
