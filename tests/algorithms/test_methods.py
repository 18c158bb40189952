"""Federated methods against their papers' equations in plain numpy."""

import numpy as np
import pytest
from torch import nn

from edgekit.algorithms.base import step_weight
from edgekit.data import load
from edgekit.errors import ExperimentError, TrainingError
from edgekit.registry import ALGORITHMS
from edgekit.runfolder import RunFolder, read_lines
from edgekit.server.loop.sync import Coordinator

from .reference import QUICK, accuracy, descend, mean, same


@pytest.mark.parametrize("method", ["algorithm=fedavg", "algorithm=fedprox", "strategy=FedAvg", "strategy=FedProx"])
def test_averaging(run, method):
    mu = 0.5 if "rox" in method else 0.0
    chosen = ["federation.arguments.proximal_mu=0.5"] if mu else []
    made, w, found, _ = run(f"federation.{method}", *chosen)
    clients = range(made.dataset.clients)
    sizes = [len(made.dataset.client(c)) for c in clients]
    for number in (1, 2, 3):
        w = mean([descend(made, number, c, w, mu=mu)[0] for c in clients], sizes)
    same(found, w)


@pytest.mark.parametrize(("trainer", "momentum"), [("auto", 0.0), ("one-by-one", 0.5)])
def test_scaffold(run, trainer, momentum):
    """Karimireddy et al. 2020, algorithm 1 with option II, where three of six clients take part."""
    chosen = ["federation.algorithm=scaffold", "federation.cohort=3", f"training.momentum={momentum}"]
    made, w, found, folder = run(*chosen, f"training.trainer={trainer}")
    control = {k: np.zeros(v.shape) for k, v in w.items()}
    own = dict.fromkeys(range(6), control)
    for number in (1, 2, 3):
        cohort = made.cohorts.draw(made.engine, number, 0)
        after, changes = [], []
        for client in cohort:
            drift = {k: control[k] - own[client][k] for k in w}
            y, steps = descend(made, number, client, w, drift=drift)
            far = sum((1 - momentum ** (steps - k)) / (1 - momentum) for k in range(steps))
            new = {k: own[client][k] - control[k] + (w[k] - y[k]) / (far * 0.2) for k in w}
            after.append(y)
            changes.append({k: new[k] - own[client][k] for k in w})
            own[client] = new
        w = mean(after, [1] * 3)
        control = {k: control[k] + 3 / 6 * sum(change[k] for change in changes) / 3 for k in w}
    same(found, w)
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
            y, steps = descend(made, number, client, w)
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
        direction = mean(directions, sizes)
        w = {k: w[k] + far * direction[k] for k in w}
    same(found, w)


def test_personal_layers_stay_with_their_clients(run):
    made, w, found, _ = run("federation.algorithm=personal", 'federation.arguments.layers=["1.bias"]')
    clients = range(made.dataset.clients)
    sizes = [len(made.dataset.client(c)) for c in clients]
    shared, own = w["1.weight"], dict.fromkeys(clients, w["1.bias"])
    for number in (1, 2, 3):
        each = [descend(made, number, c, {"1.weight": shared, "1.bias": own[c]})[0] for c in clients]
        own = {c: one["1.bias"] for c, one in zip(clients, each, strict=True)}
        shared = mean(each, sizes)["1.weight"]
    same(found, {"1.weight": shared, "1.bias": w["1.bias"]})
    kept = made.engine._here.clients.states.load(4, 4)
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
        (["federation.algorithm=numpy:load"], "is not an edgekit.algorithms.base.Algorithm"),
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


def test_clients_measure_on_what_they_hold_back_and_never_train_on_it(measured):
    made, w, lines = measured()
    wanted = {}
    for client in range(6):
        kept, held = made.dataset.client(client), made.dataset.client_test(client)
        whole = made.dataset.load_client(client)
        assert len(held) == len(whole) // 4 == len(whole) - len(kept)
        rows = sorted(map(bytes, np.concatenate([kept.x, held.x])))
        assert rows == sorted(map(bytes, whole.x))
        wanted[client] = accuracy(held, w)
        assert made.scores[client].score == pytest.approx(wanted[client])
        assert made.scores[client].examples == len(held)
    told = lines[-1]["clients"]
    assert told["mean"] == pytest.approx(np.mean(list(wanted.values())), abs=1e-6)
    assert told["worst_tenth"] == pytest.approx(min(wanted.values()), abs=1e-6)
    assert told["clients"] == 6


def test_personal_layers_are_measured_as_their_client_has_them(measured):
    made, w, _ = measured("federation.algorithm=personal", 'federation.arguments.layers=["1.bias"]')
    for client in range(6):
        own = {**w, "1.bias": made.engine._here.clients.states.load(client, 4)["own"]["1.bias"]}
        assert made.scores[client].score == pytest.approx(accuracy(made.dataset.client_test(client), own))


def test_a_strategy_of_flowers_asks_whom_it_wants_and_its_metrics_are_kept(measured):
    made, _, lines = measured("federation.strategy=FedAvg", "federation.arguments.fraction_evaluate=0.5")
    assert len(made.scores) == 3
    weights = [scored.examples for scored in made.scores.values()]
    mean = np.average([scored.score for scored in made.scores.values()], weights=weights)
    assert lines[-1]["metrics"]["eval_acc"] == pytest.approx(mean, abs=1e-5)
    assert "train_loss" in lines[-1]["metrics"]


def test_under_privacy_nobody_is_asked(make_experiment):
    with pytest.raises(ExperimentError, match="under privacy clients are not asked"):
        make_experiment("data.client_test_fraction=0.2", "privacy.unit=client")


MINE = """
import numpy as np
from edgekit.algorithms.base import State
from edgekit.algorithms.fedavg import FedAvg
from edgekit.asks import Ask, Score, Train, Update
W = "weights"
class BeginsBadly(FedAvg):
    def begin(self, weights, learnt): return {"weights": weights}
class Colon(FedAvg):
    def begin(self, weights, learnt): return State({W: weights, "a:b": {}})
class Average(FedAvg):
    def begin(self, weights, learnt): return State({W: weights, "average": {}})
class NotJson(FedAvg):
    def merge(self, state, got, number): return State({W: got.bundles[W]}, {"a": np.float32(1)})
class AsksNobody(FedAvg):
    def ask(self, state, clients, number): return {}
class AsksNothing(FedAvg):
    def ask(self, state, clients, number): return None
class AsksStrangers(FedAvg):
    def ask(self, state, clients, number): return {99: Ask(state.bundles)}
class ExpectsMore(FedAvg):
    def expects(self, ask): return {**ask.bundles, "more": {}}
class ExpectsBadly(FedAvg):
    def expects(self, ask): raise KeyError("no")
class MergesNone(FedAvg):
    def merge(self, state, got, number): return None
class MergesBadly(FedAvg):
    def merge(self, state, got, number): raise ValueError("of no use")
class Shrinks(FedAvg):
    def merge(self, state, got, number): return State({W: {k: v[:1] for k, v in got.bundles[W].items()}})
class TellsBadly(FedAvg):
    def merge(self, state, got, number): return State(got.bundles, {"metrics": 3})
class Cannot(FedAvg):
    def __init__(self, settings): raise RuntimeError("not today")
class First(FedAvg):
    def local(self, ask, client):
        if ask.round == 1 and client.examples % 2: yield "sleep"
        return (yield from super().local(ask, client))
class Diverges(FedAvg):
    keeps = True
    def local(self, ask, client):
        rounds = client.state.get("rounds", {"n": np.zeros(1)})["n"]
        client.state["rounds"] = {"n": rounds + 1 if ask.round != 2 else rounds * np.inf}
        self.seen = getattr(self, "seen", []) + [float(rounds[0])]
        return (yield from super().local(ask, client))
class Louder(FedAvg):
    def __init__(self, settings):
        super().__init__(settings)
        self.local = self.louder
    def louder(self, ask, client):
        update = yield from super().local(ask, client)
        return Update({W: {k: 1000 * v for k, v in update.bundles[W].items()}})
"""


@pytest.fixture
def mine(tmp_path, monkeypatch, run):
    """Train with a class of somebody's own."""
    (tmp_path / "somebodys.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda name, *overrides: run(f"federation.algorithm=somebodys:{name}", *overrides)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BeginsBadly", "somebodys:BeginsBadly could not begin: its state is dict, not a State"),
        ("Colon", "the bundle 'a:b' of its state needs another name"),
        ("Average", "the bundle 'average' of its state needs another name"),
        ("NotJson", "round 1: somebodys:NotJson could not aggregate the updates: the facts of its state are not JSON"),
        ("AsksNobody", "round 1: somebodys:AsksNobody could not configure the round: it asks nobody"),
        ("AsksNothing", "it does not give an Ask for each client"),
        ("AsksStrangers", "it asks client 99, which is not in the cohort"),
        ("ExpectsMore", "expects the bundles weights, more, but declares weights"),
        ("ExpectsBadly", "round 1: somebodys:ExpectsBadly could not say what it expects: 'no'"),
        ("MergesNone", "its state is NoneType, not a State"),
        ("MergesBadly", "round 1: somebodys:MergesBadly could not aggregate the updates: of no use"),
        ("Shrinks", "gave unusable weights ('1.weight' has shape (1, 64)"),
        ("TellsBadly", "could not aggregate the updates"),
    ],
)
def test_whose_fault_it_is_is_said_in_one_line(mine, name, message):
    with pytest.raises(TrainingError) as caught:
        mine(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_method_that_cannot_be_made_says_why(mine):
    with pytest.raises(ExperimentError, match="somebodys:Cannot cannot be made: RuntimeError: not today"):
        mine("Cannot")


def test_a_client_half_that_fails_costs_its_update_alone(mine):
    _, _, _, folder = mine("First")
    lines = list(read_lines(folder.metrics))
    assert 0 < lines[0]["failures"] < 6
    assert [line["failures"] for line in lines[1:]] == [0, 0]


def test_what_diverged_is_not_kept(mine):
    made, _, _, folder = mine("Diverges", "federation.rounds=4")
    assert [line["failures"] for line in read_lines(folder.metrics)] == [0, 6, 0, 0]
    assert sorted(made.algorithm.seen) == sorted([0.0, 1.0, 1.0, 2.0] * 6)


def test_a_half_on_the_instance_is_not_plain(mine):
    """Under noise by the server a round's sums of clipped gradients must come as the trainer gave them."""
    with pytest.raises(ExperimentError, match="has a client half of its own"):
        mine("Louder", "privacy.unit=example")


def test_tied_weights_stay_tied(tmp_path, make_experiment):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.out(self.b(self.a(x.flatten(1)).relu()).relu())

    for method in ("fednova", "scaffold"):
        overrides = [*QUICK, f"federation.algorithm={method}", "training.trainer=one-by-one", "data.alpha=0.3"]
        experiment = make_experiment(*overrides)
        made = Coordinator(experiment, load(experiment.data, 0), Tied(), RunFolder.create(tmp_path / method))
        weights = made.run().weights
        assert np.array_equal(weights["a.weight"], weights["b.weight"])


def test_a_run_goes_on_with_the_method_it_was_begun_with(run):
    _, _, _, folder = run("federation.algorithm=fedavg", "federation.rounds=2")
    with pytest.raises(TrainingError, match="begun with the method fedavg, not fednova: start anew"):
        Coordinator(*_parts(folder, run, ["federation.algorithm=fednova"])).run()
