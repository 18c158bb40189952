"""What a run trains, averages and leaves alone: trained parameters each once, running statistics, frozen weights."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit import experiment as experiments
from edgekit.arrays import load as load_arrays
from edgekit.asks import State, Train
from edgekit.clients.torch_trainer import TorchTrainer, load_weights, state
from edgekit.clients.trainer import LocalTask
from edgekit.data import load
from edgekit.errors import ExperimentError, ModelError, PrivacyError
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.randomness import generator
from edgekit.runfolder import RunFolder
from edgekit.server.loop import checkpoint
from edgekit.server.loop.evaluation import evaluate
from edgekit.server.loop.sync import Coordinator

HERE = "tests.server.test_what_is_trained"
PRIVACY = [("none", "server"), ("example", "server"), ("example", "client"), ("client", "server"), ("client", "client")]


class FrozenBody(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Linear(64, 16), nn.Linear(16, 10)
        self.body.requires_grad_(False)

    def forward(self, x):
        return self.out(torch.relu(self.body(torch.flatten(x, 1))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.out(torch.relu(self.b(torch.relu(self.a(torch.flatten(x, 1))))))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn, self.a, self.out = nn.BatchNorm1d(64), nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.out(torch.relu(self.a(self.bn(torch.flatten(x, 1)))))


class Grown(Normed):
    """Another network, which has a layer more."""

    def __init__(self):
        super().__init__()
        self.more = nn.Linear(10, 10)


@pytest.fixture
def coordinate(tmp_path, make_experiment, monkeypatch):
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])

    def make(network, *overrides, name="run", **heard):
        experiment = make_experiment(
            f"model.name={HERE}:{network}", "data.clients=4", "data.alpha=100", "federation.rounds=2",
            "training.epochs=1", *overrides,
        )  # fmt: skip
        dataset = load(experiment.data, 0)
        model = build(experiment.model, dataset.shape, 10, 0, dataset.calibration.x)
        (tmp_path / name).mkdir(exist_ok=True)
        return Coordinator(experiment, dataset, model, RunFolder(tmp_path / name), **heard)

    return make


@pytest.mark.parametrize(("unit", "noise"), PRIVACY)
def test_frozen_weights_stay_and_are_not_sent(coordinate, unit, noise):
    metrics = []
    made = coordinate("FrozenBody", f"privacy.unit={unit}", f"privacy.noise={noise}", on_round=metrics.append)
    before = state(made.model)
    after = made.run().weights
    assert np.array_equal(after["body.weight"], before["body.weight"])
    assert not np.array_equal(after["out.weight"], before["out.weight"])
    assert metrics[0].bytes_up == 4 * 4 * (160 + 10)
    assert metrics[0].bytes_down == metrics[0].bytes_up


@pytest.mark.parametrize(("unit", "noise"), PRIVACY)
def test_tied_weights_are_noised_and_sent_once(coordinate, unit, noise):
    metrics = []
    made = coordinate("Tied", f"privacy.unit={unit}", f"privacy.noise={noise}", on_round=metrics.append)
    after = made.run().weights
    assert np.array_equal(after["a.weight"], after["b.weight"])
    assert metrics[0].bytes_up == 4 * 4 * (64 * 64 + 2 * 64 + 650)


def test_noise_by_the_server_is_as_large_as_planned_on_each_weight_once(coordinate):
    """So much of it that the examples' own part is nothing beside it: sigma * clip / expected for each weight."""
    made = coordinate("Tied", "privacy.unit=example", "privacy.epsilon=0.02", "federation.rounds=1")
    held = state(made.model)
    made.run()
    moved = {name: array - held[name] for name, array in state(made.model).items()}
    plan = made.plan
    wanted = plan.noise_multiplier / (plan.sample_rate * made.dataset.total_examples)
    assert np.array_equal(moved["a.weight"], moved["b.weight"])
    assert np.std(moved["a.weight"]) == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("public", [0, 25])
def test_the_noise_of_a_mean_is_by_the_true_number_or_by_a_public_one(coordinate, public):
    chosen = ["privacy.unit=example", "privacy.epsilon=0.02", "federation.rounds=1"]
    made = coordinate("FrozenBody", *chosen, f"privacy.expected_examples={public}")
    before = state(made.model)
    moved = made.run().weights["out.weight"] - before["out.weight"]
    examples = 4 * public or made.dataset.total_examples
    wanted = made.plan.noise_multiplier / (made.plan.sample_rate * examples)
    assert moved.std() == pytest.approx(wanted, rel=0.2)
    assert made.plan.adjacency == ("add-or-remove-one" if public else "replace-by-zero")


def test_a_delta_that_gives_one_of_them_away_is_refused(coordinate):
    with pytest.raises(PrivacyError, match="privacy.delta 0.01 is above 1/"):
        coordinate("FrozenBody", "privacy.unit=example", "privacy.delta=0.01")
    with pytest.raises(PrivacyError, match="privacy.delta 0.3 is above 1/4"):
        coordinate("FrozenBody", "privacy.unit=client", "privacy.delta=0.3")


def _after_one_round(made, client):
    """Return what plain torch makes of a client's first round, and of how many examples."""
    held, trained = state(made.model), dict(made.model.named_parameters())
    examples = made.dataset.client(client)
    asked = Train(
        {name: held[name] for name in trained},
        made.local_settings,
        buffers={name: held[name] for name in held if name not in trained},
    )
    rng = generator(made.charging.seed, "batches", 1, client)
    return TorchTrainer(made.model).train(asked, LocalTask(examples, rng, rng)), len(examples)


@pytest.mark.parametrize("chosen", ["federation.strategy=FedAdam", "federation.algorithm=scaffold"])
def test_running_statistics_are_averaged_plainly_whatever_the_method(coordinate, chosen):
    made = coordinate("Normed", chosen, "federation.rounds=1")
    each = [_after_one_round(made, client) for client in range(4)]
    made.run()
    found = checkpoint.latest(made.run_folder.checkpoint)
    # SCAFFOLD's clients count alike, FedAdam's by their examples.
    total = sum(1 if "scaffold" in chosen else size for _, size in each)
    for name in ("bn.running_mean", "bn.running_var", "bn.num_batches_tracked"):
        shares = [(1 if "scaffold" in chosen else size) / total for _, size in each]
        mean = sum(share * one.buffers[name] for share, (one, _) in zip(shares, each, strict=True))
        wanted = np.rint(mean) if name.endswith("tracked") else mean
        assert np.allclose(found.buffers[name], wanted, rtol=1e-6)
        assert found.buffers[name].dtype == each[0][0].buffers[name].dtype
        assert name not in found.state.bundles["weights"]


@pytest.mark.parametrize("strategy", ["FedAdam", "FedYogi", "FedAdagrad"])
def test_adaptive_strategies_never_step_a_variance_below_zero(coordinate, strategy):
    made = coordinate("Normed", f"federation.strategy={strategy}", "federation.rounds=6")
    after = made.run().weights
    assert (after["bn.running_var"] >= 0).all()


def test_a_resumed_run_has_the_same_statistics(coordinate):
    whole = coordinate("Normed", "federation.rounds=3", name="whole").run().weights
    coordinate("Normed", "federation.rounds=2", name="cut").run()
    resumed = coordinate("Normed", "federation.rounds=3", name="cut").run().weights
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_checkpoints_that_held_statistics_among_the_weights_go_on(coordinate):
    whole = coordinate("Normed", "federation.rounds=3", name="whole").run().weights
    cut = coordinate("Normed", "federation.rounds=2", name="cut")
    cut.run()
    found = checkpoint.latest(cut.run_folder.checkpoint)
    old = State({"weights": {**found.state.bundles["weights"], **found.buffers}}, found.state.facts)
    checkpoint.save(cut.run_folder.checkpoint, replace(found, state=old, buffers={}))
    resumed = coordinate("Normed", "federation.rounds=3", name="cut").run().weights
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)


def test_personal_layers_keep_their_own_statistics(coordinate):
    made = coordinate("Normed", "federation.algorithm=personal", 'federation.arguments={layers=["bn"]}')
    made.run()
    kept = [load_arrays(path)[0] for path in sorted((made.run_folder.checkpoint / "clients").glob("**/*.safetensors"))]
    means = [
        array
        for one in kept
        for name, array in one.items()
        if name.endswith("running_mean") and name.startswith("own-")
    ]
    assert len(means) >= 4
    assert not np.allclose(means[0], means[1])


def test_a_last_batch_of_one_trains_under_batch_norm(coordinate):
    metrics, said = [], []
    made = coordinate(
        "Normed", "training.batch_size=7", "data.clients=29", on_round=metrics.append, on_notice=said.append
    )
    sizes = {len(made.dataset.client(client)) % 7 for client in range(29)}
    assert 1 in sizes  # else this test shows nothing
    made.run()
    assert metrics[0].failures == 0
    assert sum("joins that before it" in line for line in said) == 1


def test_batch_norm_under_privacy_is_refused_before_anything_is_charged(coordinate, tmp_path):
    with pytest.raises(ModelError, match="layer 'bn' .BatchNorm1d. mixes"):
        coordinate("Normed", "privacy.unit=example")
    assert not (tmp_path / "run" / "privacy.jsonl").exists()


def test_a_round_trains_with_the_step_size_of_its_schedule(coordinate, monkeypatch):
    made = coordinate("FrozenBody", "training.schedule=step", "training.step_rounds=1", "federation.rounds=3")
    seen, exchange = [], made.engine.exchange
    monkeypatch.setattr(made.engine, "exchange", lambda asks, _=None: seen.append(asks[0].settings) or exchange(asks))
    made.run()
    assert [settings.learning_rate for settings in seen] == pytest.approx([0.1, 0.05, 0.025])


def test_adam_learns_and_methods_that_reckon_with_sgd_refuse_it(coordinate):
    metrics = []
    chosen = ["training.optimiser=adam", "training.learning_rate=0.01", "federation.rounds=4"]
    coordinate("Normed", *chosen, on_round=metrics.append).run()
    assert metrics[-1].accuracy > 0.5
    for method in ("scaffold", "fednova"):
        with pytest.raises(ExperimentError, match="reckons with steps of plain SGD"):
            coordinate("Normed", *chosen, f"federation.algorithm={method}", name=method)
    nesterov = ["training.momentum=0.5", "training.nesterov=true", "training.trainer=litert"]
    with pytest.raises(ExperimentError, match="training.nesterov needs torch"):
        coordinate("FrozenBody", *nesterov, name="litert")


def test_a_loss_that_is_not_finite_is_said_in_the_round(coordinate):
    from edgekit.cli.terminal import round_line

    metrics = []
    made = coordinate("FrozenBody", "federation.rounds=1", on_round=metrics.append)
    made.dataset.test.x[0] = np.inf
    made.run()
    assert metrics[0].loss is None
    assert "the test loss is not finite" in round_line(metrics[0], 1)


def test_the_example_of_a_frozen_body_trains_its_head_alone(tmp_path, monkeypatch, heard):
    from edgekit.pipeline import job

    examples = Path(__file__).parents[2] / "examples"
    monkeypatch.syspath_prepend(str(examples))
    quick = ["federation.rounds=2", "export.presets=[]", "spiking.enabled=false"]
    result = job.run(experiments.load(examples / "frozen-head.toml", quick), tmp_path / "run", heard)
    assert heard.rounds[0].bytes_up == 20 * 4 * 4010
    assert result["privacy"]["adjacency"] == "replace-by-zero"


def test_the_faster_trainer_is_chosen_by_shapes_said_and_kept(coordinate, tmp_path):
    said = []
    wide = ["model.name=mlp", "model.arguments={hidden=[4000]}", "data.clients=3", "training.epochs=1"]
    made = coordinate("FrozenBody", *wide, name="wide", on_notice=said.append)
    assert "one client at a time: faster so, with 300,010 trained parameters in" in made.engine.trainer
    assert any("faster so" in line for line in said)
    assert "vectorised" in coordinate("FrozenBody", *wide, "training.trainer=cohort", name="c").engine.trainer
    small = ["model.name=mlp", "model.arguments={hidden=[16]}", "data.clients=12"]
    assert "vectorised" in coordinate("FrozenBody", *small, name="small").engine.trainer
    assert "one client at a time" in coordinate("FrozenBody", *small, "federation.cohort=2", name="two").engine.trainer
    assert "vectorised" in coordinate("FrozenBody", *wide, "privacy.unit=example", name="private").engine.trainer
    (tmp_path / "small/checkpoint/trainer.txt").write_text("as it was begun")  # by another rule, of another version
    assert "as it was begun" in coordinate("FrozenBody", *small, name="small").engine.trainer
    begun = coordinate("FrozenBody", *wide, name="old")
    (tmp_path / "old/checkpoint/trainer.txt").unlink()
    checkpoint.save(begun.run_folder.checkpoint, replace(begun._first, round=1))  # as versions before this one
    assert "vectorised" in coordinate("FrozenBody", *wide, name="old").engine.trainer


def test_a_run_long_enough_to_compile_for_is_client_major_and_stays_so(coordinate, tmp_path, monkeypatch):
    small = ["model.name=mlp", "model.arguments={hidden=[16]}", "data.clients=12"]
    long = [*small, "federation.rounds=100000"]
    assert "vectorised" in coordinate("Normed", *small, name="short").engine.trainer
    for name, keys in (("long", []), ("private", ["privacy.unit=example"])):
        assert "compiled steps" in coordinate("Normed", *long, *keys, name=name).engine.trainer
        assert (tmp_path / name / "checkpoint/trainer.txt").read_text() == "client-major"
    for rounds in (1, 100_000):  # further networks go on as they began, too
        engine = coordinate("Normed", *small, f"federation.rounds={rounds}", name="widths").engine
        model = build(Model(name="mlp"), (1, 8, 8), 10, 0)
        _, cohort = engine._here._by_torch("a/2", model)
        assert type(cohort).__name__ == "VectorisedTrainer"
    said = []
    assert (
        "vectorised"
        in coordinate(
            "FrozenBody", "federation.rounds=100000", "training.epochs=9", name="frozen", on_notice=said.append
        ).engine.trainer
    )
    assert not any("client-major" in line for line in said)  # nobody asked for it
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "edgekit.clients.client_major.steps")
    assert "vectorised" in coordinate("Normed", *long, name="other").engine.trainer
    with pytest.raises(ExperimentError, match="begun with client-major training, but here it needs numba"):
        coordinate("Normed", *long, name="long")


def test_the_best_model_by_the_servers_own_examples_is_kept_over_a_crash(coordinate):
    """At a step size that goes up and down, the best is not the last."""
    chosen = ["training.learning_rate=1.5", "federation.keep=best"]
    metrics = []
    whole = coordinate("Normed", *chosen, "federation.rounds=6", name="whole", on_round=metrics.append)
    weights = whole.run().weights
    figures = [line.metrics["validation"] for line in metrics]
    load_weights(whole.model, weights)
    _, accuracy = evaluate(whole.model, weights, whole.dataset.calibration)
    assert accuracy == pytest.approx(max(figures), abs=1e-6)
    assert checkpoint.latest(whole.run_folder.checkpoint).best_score == pytest.approx(max(figures), abs=1e-6)
    coordinate("Normed", *chosen, "federation.rounds=4", name="cut").run()
    resumed = coordinate("Normed", *chosen, "federation.rounds=6", name="cut").run().weights
    assert all(np.array_equal(weights[name], resumed[name]) for name in weights)


def test_a_run_ends_when_it_is_accurate_enough(coordinate):
    metrics, said = [], []
    chosen = ["federation.stop_at=0.5", "federation.rounds=9", "training.learning_rate=0.3"]
    outcome = coordinate("Normed", *chosen, on_round=metrics.append, on_notice=said.append).run()
    assert outcome.rounds == len(metrics) < 9
    assert metrics[-1].metrics["validation"] >= 0.5 > max([0, *(m.metrics["validation"] for m in metrics[:-1])])
    assert any("accurate enough on the server's own examples" in line for line in said)
    assert not outcome.interrupted
    again = coordinate("Normed", *chosen).run()  # a stage behind training failed: it does not train on
    assert again.rounds == outcome.rounds
    assert all(np.array_equal(again.weights[name], outcome.weights[name]) for name in outcome.weights)


def test_keep_average_is_the_mean_of_the_last_quarter(coordinate):
    average = coordinate("FrozenBody", "federation.keep=average", "federation.rounds=4", name="a").run().weights
    same = coordinate("FrozenBody", "federation.average_last=0.25", "federation.rounds=4", name="b").run().weights
    last = coordinate("FrozenBody", "federation.keep=average", "federation.rounds=8", name="c").run().weights
    plain = coordinate("FrozenBody", "federation.rounds=8", name="d").run().weights
    assert all(np.array_equal(average[name], same[name]) for name in average)
    assert not np.array_equal(last["out.weight"], plain["out.weight"])


def test_balanced_accuracy_and_f1_are_scikit_learns():
    from sklearn.metrics import balanced_accuracy_score, f1_score

    from edgekit.objectives.cross_entropy import PLAIN

    def figures(answers, labels):
        return PLAIN.figures(np.eye(4)[answers], labels, np.zeros(len(labels)))

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [70, 20, 7, 3])
    answers = np.where(rng.random(100) < 0.7, labels, rng.integers(0, 3, 100))
    found = figures(answers, labels)
    assert found.score == pytest.approx((answers == labels).mean())
    assert found.metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, answers))
    assert found.metrics["f1"] == pytest.approx(f1_score(labels, answers, average="macro"))
    assert found.metrics["majority_baseline"] == 0.7
    assert found.beside == ("balanced_accuracy", "f1")
    assert figures(answers, np.arange(100) % 4).beside == ()


def test_unequal_classes_have_their_figure_in_the_rounds_line(coordinate):
    from edgekit.cli.terminal import round_line
    from edgekit.data import Examples

    metrics = []
    made = coordinate("FrozenBody", "federation.rounds=1", on_round=metrics.append)
    kept = np.concatenate([np.flatnonzero(made.dataset.test.y == 3), np.flatnonzero(made.dataset.test.y == 4)[:5]])
    made.dataset = replace(made.dataset, test=Examples(made.dataset.test.x[kept], made.dataset.test.y[kept]))
    made.run()
    assert f"balanced {metrics[0].metrics['balanced_accuracy']:.4f}" in round_line(metrics[0], 1)
