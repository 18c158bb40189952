"""The coordinator: Flower's strategies, privacy in the loop, failing clients, and resuming with the same bits."""

import gc
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgekit import arrays
from edgekit.algorithms.split.plan import with_figures
from edgekit.clients.simulated import SimulatedClients
from edgekit.clients.torch_trainer import state
from edgekit.data import Examples, FederatedDataset
from edgekit.devices import profile as profiles
from edgekit.errors import (
    DataError,
    ExperimentError,
    ModelError,
    PrivacyError,
    RunFolderError,
    TrainingError,
    UsageError,
)
from edgekit.models import build
from edgekit.privacy import epsilon
from edgekit.registry import STRATEGIES
from edgekit.runfolder import RunFolder, read_lines
from edgekit.server.engines.base import Exchanged
from edgekit.server.engines.local import LocalEngine
from edgekit.server.loop import checkpoint
from edgekit.server.loop.evaluation import evaluate
from edgekit.server.loop.sync import Coordinator

ARGUMENTS = {
    "Bulyan": ["federation.arguments.num_malicious_nodes=0"],
    "FedAdagrad": ["federation.arguments.eta=0.05"],
    "FedAdam": ["federation.arguments.eta=0.01", "federation.arguments.beta_1=0.9"],
    "FedAvgM": ["federation.arguments.server_momentum=0.5"],
    "FedProx": ["federation.arguments.proximal_mu=0.1"],
    "FedYogi": ["federation.arguments.eta=0.01"],
    "Krum": ["federation.arguments.num_malicious_nodes=1"],
    "MultiKrum": ["federation.arguments.num_malicious_nodes=1", "federation.arguments.num_nodes_to_select=3"],
    "QFedAvg": ["federation.arguments.client_learning_rate=0.1"],
}


@pytest.fixture(autouse=True, scope="module")
def _few_objects_to_collect():
    """Flower collects garbage after each array of some strategies: not among all that was imported before."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_of_flower_resumes_with_the_bits_of_an_undisturbed_run(
    name, coordinate, make_experiment, tmp_path
):
    chosen = [f"federation.strategy={name}", *ARGUMENTS.get(name, [])]
    whole = coordinate(make_experiment(*chosen, "federation.rounds=4"), "whole").run()
    coordinate(make_experiment(*chosen, "federation.rounds=2"), "broken").run()
    resumed = coordinate(make_experiment(*chosen, "federation.rounds=4"), "broken").run()
    assert resumed.rounds == whole.rounds == 4
    assert _same(resumed.weights, whole.weights)
    lines = list(read_lines(tmp_path / "broken" / "metrics.jsonl"))
    assert [line["round"] for line in lines] == [1, 2, 3, 4]


def test_one_round_of_federated_averaging_is_the_weighted_mean_of_the_clients(coordinate, make_experiment):
    experiment = make_experiment("federation.rounds=1", "training.batch_size=1000", "training.learning_rate=0.5")
    made = coordinate(experiment)
    outcome = made.run()
    # One full batch a client: the weighted mean of the clients' steps is one step on all examples together.
    model, dataset = made.model, made.dataset
    start = build(experiment.model, dataset.shape, 10, experiment.seed, dataset.calibration.x)
    clients = [dataset.client(i) for i in range(dataset.clients)]
    x = torch.from_numpy(np.concatenate([client.x for client in clients]))
    y = torch.from_numpy(np.concatenate([client.y for client in clients]))
    gradients = torch.autograd.grad(F.cross_entropy(start(x), y), list(start.parameters()))
    for (name, parameter), gradient in zip(start.named_parameters(), gradients, strict=True):
        assert np.allclose(outcome.weights[name], (parameter - 0.5 * gradient).detach().numpy(), atol=1e-5)
    assert set(outcome.weights) == set(state(model))


def test_training_learns_digits(coordinate, make_experiment, digits):
    easy = ["model.norm=weight-standardised", "model.arguments.pool=4", "training.batch_size=8"]
    experiment = make_experiment(*easy, "federation.rounds=8", "training.learning_rate=0.1")
    made = coordinate(experiment)
    outcome = made.run()
    assert evaluate(made.model, outcome.weights, made.dataset.test)[1] > 0.85
    assert outcome.trainer == "whole cohort in vectorised steps"


@pytest.mark.parametrize("unit", ["example", "client"])
@pytest.mark.parametrize("noise", ["server", "client"])
def test_privacy_is_charged_before_each_round_and_ends_at_the_target(
    unit, noise, coordinate, make_experiment, tmp_path
):
    experiment = make_experiment(
        f"privacy.unit={unit}",
        f"privacy.noise={noise}",
        "privacy.epsilon=6",
        "privacy.sample_rate=0.5",
        "federation.rounds=3",
    )
    made = coordinate(experiment)
    made.run()
    charges = list(read_lines(tmp_path / "run" / "privacy.jsonl"))
    assert [charge["round"] for charge in charges] == [1, 2, 3]
    lines = list(read_lines(tmp_path / "run" / "metrics.jsonl"))
    spent = [line["epsilon"] for line in lines]
    assert spent == sorted(spent)
    history = [(charges[0]["noise_multiplier"], charges[0]["sample_rate"], sum(c["steps"] for c in charges))]
    assert spent[-1] == pytest.approx(epsilon(history, 1e-5), abs=1e-3)
    assert 5.9 < spent[-1] <= 6.0


def test_a_charge_that_cannot_be_written_stops_the_round_before_any_data_is_used(
    coordinate, make_experiment, tmp_path, monkeypatch
):
    asked = []
    experiment = make_experiment("privacy.unit=example", "privacy.sample_rate=0.5")
    made = coordinate(experiment, on_round=asked.append)
    monkeypatch.setattr(type(made.dataset), "client", lambda self, index: asked.append(index))
    (tmp_path / "run" / "privacy.jsonl").mkdir()
    with pytest.raises(RunFolderError, match="cannot write"):
        made.run()
    assert asked == []


@pytest.fixture
def without_noise(monkeypatch):
    monkeypatch.setattr("edgekit.privacy.gaussian.add_noise", lambda held, deviation, rng: held)


def test_the_server_steps_by_the_sum_over_the_expected_batch(coordinate, make_experiment, without_noise):
    """Without noise and with a wide clip, DP-SGD of everybody's whole data is plain gradient descent."""
    overrides = ["privacy.unit=example", "privacy.sample_rate=1.0", "privacy.clip=1000.0", "privacy.learning_rate=0.5"]
    outcome = coordinate(make_experiment(*overrides, "federation.rounds=1")).run()
    plain = coordinate(
        make_experiment("federation.rounds=1", "training.batch_size=1000", "training.learning_rate=0.5"), "plain"
    ).run()
    assert all(np.allclose(outcome.weights[k], plain.weights[k], atol=1e-5) for k in plain.weights)


def test_the_servers_noise_has_the_deviation_of_the_plan(coordinate, make_experiment, monkeypatch):
    base = ["privacy.unit=example", "privacy.sample_rate=0.5", "privacy.learning_rate=1.0", "federation.rounds=1"]
    loud = coordinate(make_experiment(*base))
    deviation = loud.plan.noise_multiplier * loud.plan.clip / (0.5 * loud.dataset.total_examples)
    a = loud.run().weights
    monkeypatch.setattr("edgekit.privacy.gaussian.add_noise", lambda held, deviation, rng: held)
    b = coordinate(make_experiment(*base), "quiet").run().weights
    noise = np.concatenate([(a[name] - b[name]).ravel() for name in a])
    assert noise.std() == pytest.approx(deviation, rel=0.05)


def test_an_empty_cohort_still_releases_noise(coordinate, make_experiment, monkeypatch, tmp_path):
    experiment = make_experiment("privacy.unit=client", "federation.cohort=2", "federation.rounds=1")
    made = coordinate(experiment)
    monkeypatch.setattr("edgekit.server.loop.selection.Poisson.choose", lambda *_: [])
    before = state(made.model)
    after = made.run().weights
    (line,) = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert (line["cohort"], line["replies"], line["failures"]) == (0, 0, 0)
    noise = np.concatenate([(after[name] - before[name]).ravel() for name in before])
    assert noise.std() == pytest.approx(made.plan.noise_multiplier * made.plan.clip / 2, rel=0.05)


def test_a_private_run_resumes_with_the_same_bits_and_is_charged_once(coordinate, make_experiment, tmp_path):
    """The crash comes after the charge and before the checkpoint: the round is repeated with the same noise."""
    private = ["privacy.unit=example", "privacy.sample_rate=0.5", "federation.average_last=0.5", "federation.rounds=4"]
    whole = coordinate(make_experiment(*private), "whole").run()

    class CrashError(Exception):
        pass

    def crash(metrics):
        if metrics.round == 3:
            raise CrashError

    with pytest.raises(CrashError):
        coordinate(make_experiment(*private), "broken", on_round=crash).run()
    (tmp_path / "broken" / "checkpoint" / "round-000003.safetensors").unlink()
    resumed = coordinate(make_experiment(*private), "broken").run()
    assert _same(resumed.weights, whole.weights)
    assert (tmp_path / "broken" / "privacy.jsonl").read_text() == (tmp_path / "whole" / "privacy.jsonl").read_text()


def test_with_the_systems_randomness_a_repeated_round_is_charged_again(coordinate, make_experiment, tmp_path):
    private = ["privacy.unit=example", "privacy.sample_rate=0.5", "privacy.randomness=system", "federation.rounds=3"]
    coordinate(make_experiment(*private)).run()
    for number in (2, 3):
        (tmp_path / "run" / "checkpoint" / f"round-00000{number}.safetensors").unlink()
    second = coordinate(make_experiment(*private)).run()
    # No checkpoint is left, and the three charges that were planned are spent: nothing more may be released.
    assert second.rounds == 0
    assert [charge["round"] for charge in read_lines(tmp_path / "run" / "privacy.jsonl")] == [1, 2, 3]


def test_a_run_with_the_systems_randomness_is_charged_for_what_it_repeats_and_stops_in_time(
    coordinate, make_experiment, tmp_path, heard
):
    private = ["privacy.unit=example", "privacy.sample_rate=0.5", "privacy.randomness=system", "federation.rounds=4"]

    def interrupt(metrics):
        if metrics.round == 2:
            (tmp_path / "run" / "checkpoint" / "round-000002.safetensors").unlink()
            raise KeyboardInterrupt

    coordinate(make_experiment(*private), on_round=interrupt).run()
    second = coordinate(make_experiment(*private), on_notice=heard.notice).run()
    assert [charge["round"] for charge in read_lines(tmp_path / "run" / "privacy.jsonl")] == [1, 2, 2, 3]
    assert second.rounds == 3
    assert "stopped before round 4: it would spend more than epsilon 8" in heard.notices[-1]


class Absent(LocalEngine):
    """A fleet of which nobody answers the first few times."""

    repeatable = False

    def choose(self, number, draw):
        self.asked = [*getattr(self, "asked", []), draw(range(self._dataset.clients))]
        return self.asked[-1]

    def exchange(self, asks, fold=None):
        if len(self.asked) > 3:
            return super().exchange(asks, fold)
        return Exchanged([], 0, 0, again=True)


@pytest.mark.parametrize("unit", ["none", "client"])
def test_a_round_that_is_run_again_asks_others_unless_privacy_counts_on_the_same(coordinate, make_experiment, unit):
    chosen = ["federation.cohort=2", "federation.rounds=1", f"privacy.unit={unit}", "data.clients=40"]
    made = coordinate(make_experiment(*chosen))
    parts = (made.experiment, made.dataset, made.model, made.run_folder, made.charging.seed, made.on_notice)
    made.engine = Absent(*parts, made.algorithm)
    assert made.run().rounds == 1
    drawn = {tuple(cohort) for cohort in made.engine.asked}
    assert len(made.engine.asked) == 4
    assert len(drawn) == (4 if unit == "none" else 1)


def _dataset(clients, load_client, digits):
    return FederatedDataset(
        clients, load_client, digits.test, digits.calibration, digits.classes, "made", total_examples=20 * clients
    )


@pytest.mark.parametrize("private", [[], ["privacy.unit=example", "privacy.sample_rate=0.5"]])
@pytest.mark.parametrize("trainer", ["auto", "one-by-one"])
def test_a_failing_client_costs_its_update_and_never_the_run(
    trainer, private, coordinate, make_experiment, digits, tmp_path, heard
):
    def client(index):
        data = digits.client(index)
        if index == 1:
            raise OSError("the card was pulled out")
        if index == 2:
            return Examples(np.full_like(data.x, np.nan), data.y)
        if index == 3:
            return Examples(data.x[:, :, :5], data.y)
        if index == 4:
            return Examples(data.x.astype(np.float64), data.y)
        if index == 5 and not private:
            return Examples(data.x * np.float32(1e38), data.y)
        return data

    experiment = make_experiment(f"training.trainer={trainer}", *private)
    made = coordinate(experiment, dataset=_dataset(6, client, digits), on_notice=heard.notice)
    outcome = made.run()
    lines = list(read_lines(tmp_path / "run" / "metrics.jsonl"))
    # Under privacy a client whose examples are all unfit has none; otherwise its numbers are refused.
    good = 2 if private else 1
    assert [(line["cohort"], line["replies"], line["failures"]) for line in lines] == [(6, good, 6 - good)] * 2
    assert all(np.isfinite(array).all() for array in outcome.weights.values())
    told = "\n".join(heard.notices)
    unfit = "has no examples" if private else "not finite"
    for reason in ("the card was pulled out", unfit, "has examples of shape", "float64"):
        assert reason in told


def test_a_run_in_which_every_client_fails_ends_and_says_why(coordinate, make_experiment, digits):
    def client(index):
        raise ValueError(f"no data on {index}")

    experiment = make_experiment("federation.rounds=9")
    with pytest.raises(
        TrainingError, match="every client failed in 3 rounds in a row; the last said: ValueError: no data"
    ):
        coordinate(experiment, dataset=_dataset(6, client, digits)).run()


def test_one_examples_numbers_never_take_its_client_out(coordinate, make_experiment, digits, tmp_path):
    """Under privacy an example may be anything: it must count at most its clipped gradient, alone."""

    def client(index):
        data = digits.client(index)
        x = data.x.copy()
        x[0] = np.nan
        x[1] = 3e38
        return Examples(x, data.y)

    for trainer in ("auto", "one-by-one"):
        experiment = make_experiment("privacy.unit=example", "privacy.sample_rate=1.0", f"training.trainer={trainer}")
        made = coordinate(experiment, trainer, dataset=_dataset(6, client, digits))
        made.run()
        assert [line["failures"] for line in read_lines(tmp_path / trainer / "metrics.jsonl")] == [0, 0]


def test_a_learning_rate_that_explodes_is_a_clear_error(coordinate, make_experiment):
    with pytest.raises(TrainingError, match="not finite"):
        coordinate(make_experiment("training.learning_rate=1e20", "federation.rounds=5")).run()


def test_ctrl_c_leaves_a_run_that_can_be_used_and_resumed(coordinate, make_experiment):
    def interrupt(metrics):
        if metrics.round == 2:
            raise KeyboardInterrupt

    experiment = make_experiment("federation.rounds=4")
    stopped = coordinate(experiment, "broken", on_round=interrupt).run()
    assert (stopped.rounds, stopped.interrupted) == (2, True)
    assert _same(coordinate(experiment, "broken").run().weights, coordinate(experiment, "whole").run().weights)


def test_client_major_training_ends_where_torch_does_and_goes_on_with_the_same_bits(coordinate, make_experiment):
    keys = ("model.norm=none", "federation.rounds=3", "federation.algorithm=scaffold", "training.learning_rate=0.05")
    notices = []
    experiment = make_experiment(*keys, "training.trainer=client-major")
    made = coordinate(experiment, "whole", on_notice=notices.append)
    whole = made.run()
    assert made.engine.trainer == "client after client in compiled steps"
    assert not any("not client-major" in line for line in notices)
    alone = coordinate(make_experiment(*keys, "training.trainer=one-by-one"), "alone").run()
    for name, array in alone.weights.items():
        np.testing.assert_allclose(whole.weights[name], array, atol=1e-5)

    def interrupt(metrics):
        if metrics.round == 2:
            raise KeyboardInterrupt

    assert coordinate(experiment, "broken", on_round=interrupt).run().interrupted
    assert _same(coordinate(experiment, "broken").run().weights, whole.weights)


@pytest.mark.parametrize(
    "keys",
    [
        (),
        ("federation.algorithm=scaffold", "training.learning_rate=0.05"),
        ("privacy.unit=client", "privacy.noise=client"),
    ],
)
def test_a_cohort_asked_in_shards_ends_where_it_does_at_once(keys, coordinate, make_experiment, monkeypatch, tmp_path):
    experiment = make_experiment("federation.rounds=2", "data.clients=7", *keys)
    whole = coordinate(experiment, "whole").run()
    most = []
    train = SimulatedClients.train
    monkeypatch.setattr(SimulatedClients, "train", lambda self, asks: most.append(len(asks)) or train(self, asks))
    monkeypatch.setattr("edgekit.server.engines.shards.SHARD", 3)
    made = coordinate(experiment, "shards").run()
    assert max(most) <= 3
    for name, array in whole.weights.items():
        np.testing.assert_allclose(made.weights[name], array, atol=1e-5)
    counted = ("replies", "failures", "bytes_up", "bytes_down", "epsilon")
    lines = [read_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "shards")]
    for one, other in zip(*lines, strict=True):
        assert [one[key] for key in counted] == [other[key] for key in counted]


@pytest.mark.parametrize(
    "key", ["federation.strategy=FedMedian", "federation.outliers=leave-out", "federation.largest_share=0.2"]
)
def test_single_updates_that_somebody_reads_are_not_folded(key, coordinate, make_experiment, monkeypatch):
    monkeypatch.setattr("edgekit.server.engines.shards.SHARD", 3)
    experiment = make_experiment("federation.rounds=1", "data.clients=7", key)
    made = coordinate(experiment, "each")
    whole = coordinate(experiment, "whole")
    whole.engine.folds = False
    assert _same(made.run().weights, whole.run().weights)


def test_what_client_major_training_cannot_take_trains_as_auto_and_says_why(coordinate, make_experiment):
    for keys, reason in (
        (("model.name=mixer",), "has no rule"),
        (("training.optimiser=adam", "training.learning_rate=0.01"), "knows sgd, not adam"),
    ):
        notices = []
        made = coordinate(make_experiment(*keys, "training.trainer=client-major"), reason[:6], on_notice=notices.append)
        assert made.engine.trainer == "whole cohort in vectorised steps"
        assert any(line.startswith("not client-major: ") and reason in line for line in notices)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(coordinate, make_experiment, tmp_path):
    experiment = make_experiment("federation.rounds=3")
    whole = coordinate(experiment).run()
    newest = tmp_path / "run" / "checkpoint" / "round-000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    assert checkpoint.latest(newest.parent).round == 2
    assert _same(coordinate(experiment).run().weights, whole.weights)
    for file in newest.parent.iterdir():
        file.write_bytes(b"")
    with pytest.raises(RunFolderError, match="no checkpoint in .* can be read"):
        coordinate(experiment).run()


def test_the_last_rounds_are_averaged(coordinate, make_experiment, tmp_path):
    kept = []
    experiment = make_experiment("federation.rounds=4", "federation.average_last=0.5")
    made = coordinate(
        experiment,
        on_round=lambda _: kept.append(checkpoint.latest(tmp_path / "run/checkpoint").state.bundles["weights"]),
    )
    outcome = made.run()
    for name in outcome.weights:
        assert np.allclose(outcome.weights[name], (kept[2][name] + kept[3][name]) / 2, atol=1e-6)


def test_a_million_clients_cost_nothing_until_they_are_asked(coordinate, make_experiment, digits):
    asked = set()

    def client(index):
        asked.add(index)
        return digits.client(index % digits.clients)

    experiment = make_experiment("federation.cohort=5", "federation.rounds=2")
    coordinate(experiment, dataset=_dataset(10**6, client, digits)).run()
    assert 5 <= len(asked) <= 10


def test_a_cohort_beyond_the_natural_clients_is_an_error(coordinate, make_experiment, digits):
    experiment = make_experiment("federation.cohort=5", "data.clients=5")
    with pytest.raises(DataError, match="there are only 3 clients"):
        coordinate(experiment, dataset=_dataset(3, digits.client, digits))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["federation.strategy=FedAvgg"], "did you mean 'FedAvg'"),
        (["federation.arguments.momentum=0.9"], "do not fit fedavg: momentum: Extra inputs"),
        (["federation.strategy=FedAvg", "federation.arguments.momentum=0.9"], "do not fit FedAvg: got an unexpected"),
        (
            ["federation.strategy=FedAvg", "federation.arguments.fraction_train=0.5"],
            "federation.cohort says how many clients take part",
        ),
        (["federation.strategy=DifferentialPrivacyServerSideFixedClipping"], "privacy has a section of its own"),
        (["federation.strategy=FedMedian", "privacy.unit=client"], "looks at single clients' updates"),
        (
            ["federation.strategy=QFedAvg", *ARGUMENTS["QFedAvg"], "privacy.unit=client", "privacy.noise=client"],
            "needs the clients' losses",
        ),
        (["federation.strategy=FedProx", "privacy.unit=example"], "FedProx has no effect here"),
        (["federation.strategy=torch.nn:Linear"], "is not a flwr.serverapp.strategy.Strategy"),
    ],
)
def test_a_strategy_that_does_not_go_is_one_clear_line(overrides, message, coordinate, make_experiment):
    with pytest.raises(ExperimentError) as caught:
        coordinate(make_experiment(*overrides))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_metrics_have_the_contracts_keys(coordinate, make_experiment, tmp_path):
    coordinate(make_experiment()).run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    keys = [
        "round",
        "loss",
        "accuracy",
        "cohort",
        "replies",
        "failures",
        "bytes_up",
        "bytes_down",
        "seconds",
        "epsilon",
        "metrics",
        "clients",
        "measure",
        "beside",
        "problem",
        "devices",
    ]
    assert all(list(line) == keys for line in lines)
    size = sum(a.nbytes for a in arrays.load(tmp_path / "run/checkpoint/round-000002.safetensors")[0].values())
    assert lines[0]["bytes_up"] == lines[0]["bytes_down"] == 6 * size


def test_litert_clients_end_where_torch_clients_end(tmp_path, make_experiment):
    """A simulation of devices without torch: the same batches, so the same model up to rounding."""
    from edgekit.data import load

    ends = {}
    for trainer in ("one-by-one", "litert"):
        experiment = make_experiment(f"training.trainer={trainer}", "model.name=mlp", "data.clients=6")
        run = RunFolder.create(tmp_path / trainer)
        dataset = load(experiment.data, experiment.seed)
        model = build(experiment.model, dataset.shape, 10, experiment.seed, dataset.calibration.x)
        ends[trainer] = Coordinator(experiment, dataset, model, run).run().weights
    assert (tmp_path / "litert/checkpoint/training.tflite").exists()
    for name, array in ends["one-by-one"].items():
        assert np.allclose(ends["litert"][name], array, atol=1e-5)


def test_split_learning_is_coordinated_as_other_training_is(coordinate, make_experiment, heard, tmp_path):
    chosen = ["model.name=mlp", "federation.rounds=3"]
    whole = coordinate(make_experiment(*chosen), "whole").run()
    each = ["split.cut=layers.2", "split.halves=each"]
    split = coordinate(make_experiment(*chosen, *each), "split", on_notice=heard.notice).run()
    for name, array in whole.weights.items():  # a half for each is federated averaging
        assert np.allclose(split.weights[name], array, atol=1e-5), name
    assert "split learning, cut behind layers.2" in split.trainer
    assert "split learning moves about" in heard.notices[0]

    # What the stream moves is counted, and a resumed run has the bits of an undisturbed one.
    shared = ["split.cut=layers.2", "split.codec=int8", "split.window=2"]
    undisturbed = coordinate(make_experiment(*chosen, *shared), "undisturbed").run()
    coordinate(make_experiment(*chosen, *shared, "federation.rounds=2"), "broken").run()
    assert _same(coordinate(make_experiment(*chosen, *shared), "broken").run().weights, undisturbed.weights)
    (first, *_) = read_lines(tmp_path / "undisturbed" / "metrics.jsonl")
    size = sum(array.nbytes for array in undisturbed.weights.values())
    examples = coordinate(make_experiment(*chosen), "count").dataset.total_examples
    assert first["bytes_up"] == pytest.approx(6 * (size - 2080 * 4) + examples * (64 + 32), rel=0.3)


def test_what_split_learning_cannot_do_is_said_before_it_starts(make_experiment):
    for overrides, problem in (
        (["privacy.unit=client"], "protects single examples"),
        (["training.trainer=litert"], "a trainer of its own"),
        (["split.tail=layers.4", "split.labels=server"], "there is none"),
        (["split.window=0"], "split.window"),
        (["split.codec=zip"], "split.codec"),
    ):
        with pytest.raises(ExperimentError, match=problem):
            make_experiment("split.cut=layers.2", *overrides)


def test_a_cut_is_picked_for_a_device_and_the_others_are_shown(coordinate, make_experiment, heard, tmp_path):
    device = tmp_path / "board.toml"
    profile = with_figures(profiles.load("raspberry-pi-4"), {"gflops": 8.0, "mbit_up": 10.0, "mbit_down": 40.0})
    profiles.save(profile, device)
    chosen = ["model.name=dscnn", "model.norm=group", "federation.rounds=1", "split.cut=auto"]
    made = coordinate(make_experiment(*chosen, f"split.device={device}"), on_notice=heard.notice)
    (mark,) = (line for line in heard.notices if line.startswith(">"))
    cut = mark[2:].partition(":")[0]
    assert made.run().trainer.endswith(f"cut behind {cut}")
    assert sum(" MB moved a round, " in line for line in heard.notices) > 3
    profiles.save(with_figures(profile, {"memory_mb": 0.001}), device)
    with pytest.raises(ModelError, match=r"fits the 0.001 MB"):
        coordinate(make_experiment(*chosen, f"split.device={device}"), "small")
    with pytest.raises(UsageError, match="no device profile 'toaster'"):
        coordinate(make_experiment(*chosen, "split.device=toaster"), "none")


@pytest.mark.parametrize("harm", ["deleted", "cut", "foreign"])
def test_a_run_whose_ledger_does_not_reach_its_checkpoint_is_not_resumed(coordinate, make_experiment, tmp_path, harm):
    private = ["privacy.unit=example", "model.name=mlp"]
    coordinate(make_experiment(*private, "federation.rounds=3"), "run").run()
    ledger = tmp_path / "run/privacy.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    if harm == "deleted":
        ledger.unlink()
    elif harm == "cut":
        ledger.write_text(lines[0])
    else:
        coordinate(make_experiment(*private, "privacy.epsilon=4"), "other").run()
        ledger.write_bytes((tmp_path / "other/privacy.jsonl").read_bytes())
    with pytest.raises(PrivacyError, match="does not hold what was spent until round 3.*put this run's own back"):
        coordinate(make_experiment(*private, "federation.rounds=5"), "run").run()
