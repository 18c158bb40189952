"""Objectives: losses are torch's, measures scikit-learn's, and all that trains takes them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgekit import experiment as experiments
from edgekit import objectives
from edgekit.clients import LocalSettings, LocalTask, Train
from edgekit.clients.cohort.trainer import VectorisedTrainer
from edgekit.clients.litert import LiteRTTrainer
from edgekit.clients.torch_trainer import TorchTrainer, state
from edgekit.data import Examples, load
from edgekit.data.settings import Data
from edgekit.errors import DataError, ExperimentError, ModelError
from edgekit.export.training.file import reference, training_file
from edgekit.export.training.steps import Options, Steps
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.objectives.base import auc
from edgekit.objectives.cross_entropy import CrossEntropy
from edgekit.pipeline import job
from edgekit.section import Chosen

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"
RNG = np.random.default_rng(0)


def made(name, **arguments):
    return objectives.make(Chosen(name=name, arguments=arguments))


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


SCORES = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CLASSES = torch.tensor([0, 1, 2, 3, 0, 0, 2])
SOFT = torch.softmax(SCORES.flip(0), 1)
FLAGS = (SCORES.flip(1) > 0).double()
NUMBERS = SCORES.flip(0) * 3
WEIGHTS = [0.5, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("objective", "y", "right"),
    [
        (made("cross-entropy"), CLASSES, lambda s: F.cross_entropy(s, CLASSES, reduction="none")),
        (
            made("cross-entropy", label_smoothing=0.2, class_weights=WEIGHTS),
            CLASSES,
            lambda s: F.cross_entropy(s, CLASSES, s.new_tensor(WEIGHTS), label_smoothing=0.2, reduction="none"),
        ),
        (
            made("cross-entropy", label_smoothing=0.2, class_weights=WEIGHTS),
            SOFT,
            lambda s: F.cross_entropy(s, SOFT, s.new_tensor(WEIGHTS), label_smoothing=0.2, reduction="none"),
        ),
        (
            made("multi-label", positive_weights=WEIGHTS),
            FLAGS,
            lambda s: F.binary_cross_entropy_with_logits(
                s, FLAGS, pos_weight=s.new_tensor(WEIGHTS), reduction="none"
            ).mean(1),
        ),
        (
            made("regression", loss="mse", mean=[0.0] * 4, std=WEIGHTS),
            NUMBERS,
            lambda s: F.mse_loss(s / s.new_tensor(WEIGHTS), NUMBERS / s.new_tensor(WEIGHTS), reduction="none").mean(1),
        ),
        (
            made("regression", delta=0.7, mean=[0.0] * 4, std=[1.0] * 4),
            NUMBERS,
            lambda s: F.huber_loss(s, NUMBERS, delta=0.7, reduction="none").mean(1),
        ),
        (
            made("reconstruction"),
            CLASSES,
            lambda s: F.mse_loss(s, NUMBERS, reduction="none").mean(1) * (CLASSES == 0),
        ),
    ],
)
def test_losses_and_their_gradients_are_torchs(objective, y, right):
    mine, torchs = SCORES.clone().requires_grad_(), SCORES.clone().requires_grad_()
    losses, wanted = objective.losses(mine, y, NUMBERS), right(torchs)
    assert torch.allclose(losses, wanted, rtol=0, atol=1e-12)
    losses.sum().backward()
    wanted.sum().backward()
    assert torch.allclose(mine.grad, torchs.grad, rtol=0, atol=1e-12)


def test_several_answers_are_weighted():
    several = torch.stack([SCORES, SCORES.flip(0)], 1)
    each = [F.cross_entropy(several[:, i], CLASSES, reduction="none") for i in (0, 1)]
    found = made("cross-entropy", answer_weights=[1.0, 3.0]).losses(several, CLASSES, NUMBERS)
    assert torch.allclose(found, 0.25 * each[0] + 0.75 * each[1])
    assert torch.equal(made("cross-entropy").answer(several), several[:, 1])


def test_measures_are_scikit_learns():
    from sklearn.metrics import f1_score, mean_absolute_error, r2_score, roc_auc_score, root_mean_squared_error

    x = RNG.standard_normal((200, 5)).astype(np.float32)
    scores = (x + RNG.standard_normal(x.shape)).astype(np.float32)
    there = (x > 0.3).astype(np.float32)
    flags = made("multi-label").figures(scores, there, x).metrics
    assert flags["f1"] == pytest.approx(f1_score(there, scores > 0, average="macro"))
    assert flags["auc"] == pytest.approx(roc_auc_score(there, scores, average="macro"))
    numbers = made("regression").figures(scores, x, x).metrics
    assert numbers["r2"] == pytest.approx(r2_score(x, scores))
    assert numbers["mae"] == pytest.approx(mean_absolute_error(x, scores), rel=1e-5)
    assert numbers["rmse"] == pytest.approx(root_mean_squared_error(x, scores), rel=1e-5)
    kinds = (RNG.random(200) < 0.2).astype(np.int64)
    errors = ((scores - x) ** 2).mean(1)
    assert made("reconstruction").figures(scores, kinds, x).score == pytest.approx(roc_auc_score(kinds, errors))
    tied = np.repeat([1.0, 2.0, 3.0], [3, 4, 3])
    positive = np.arange(10) % 2 == 0
    assert auc(tied, positive) == pytest.approx(roc_auc_score(positive, tied))


def _case(name):
    """Return a network that learns an objective, and a maker of clients' examples."""
    classes = {"multi-label": 3, "regression": 2, "reconstruction": 2, "exits": 10}[name]
    objective = made("cross-entropy" if name == "exits" else name)
    shape = (1, 8, 8) if name == "exits" else (6,)
    arguments = {"exits": {"channels": [8, 8], "blocks": 1}, "reconstruction": {"hidden": [8], "code": 2}}
    labels = objective.drawn(64, classes, np.random.default_rng(7))
    if name == "regression":
        labels = 50 + 20 * labels
    objective = objective.fitted(labels, ["normal", "odd"] if name == "reconstruction" else [str(i) for i in labels])
    kind = {"exits": "exits", "reconstruction": "autoencoder"}.get(name, "mlp")
    settings = Model(name=kind, arguments=arguments.get(name, {"hidden": [8]}))
    network = build(settings, shape, classes, seed=2, objective=objective)

    def client(size, seed=0):
        rng = np.random.default_rng(seed)
        return Examples(rng.random((size, *shape), np.float32), labels[rng.integers(0, 64, size)])

    return network, shape, classes, client


NAMES = ("multi-label", "regression", "reconstruction", "exits")


@pytest.mark.parametrize("name", NAMES)
def test_a_cohort_equals_each_client_alone(name):
    network, _, _, client = _case(name)
    network.double()
    data = [client(size, size) for size in (5, 9, 1)]

    def tasks():
        return [LocalTask(b, np.random.default_rng(i), np.random.default_rng(9 + i)) for i, b in enumerate(data)]

    plain = LocalSettings(epochs=2, batch_size=4, learning_rate=0.05, momentum=0.9)
    private = LocalSettings(work="dp-sgd", steps=2, sample_rate=0.5, clip=0.5, noise_multiplier=0.8, learning_rate=0.05)
    for settings in (plain, private):
        asked = Train(state(network), settings)
        together = VectorisedTrainer(network).train_cohort([asked] * len(data), tasks())
        for update, task in zip(together, tasks(), strict=True):
            alone = TorchTrainer(network).train(asked, task)
            assert all(np.allclose(update.arrays[k], alone.arrays[k], rtol=0, atol=1e-9) for k in alone.arrays)


@pytest.mark.parametrize("name", NAMES)
def test_the_training_graphs_steps_are_autograds(name):
    from edgekit.export.training import file as training
    from edgekit.export.training.tracing import traced

    network, shape, classes, _ = _case(name)
    network.train()
    options = Options(4, 0.5)
    steps = Steps(network, options)
    samples = training._samples(steps, shape, classes)
    right = reference(network, options, samples)
    for signature, sample in samples.items():
        found = traced(getattr(steps, signature), sample)(**sample)
        for key, value in right[signature].items():
            size = max(1.0, float(np.abs(value).max()))
            assert np.abs(found[key].detach().numpy() - value).max() <= 1e-5 * size


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_a_device_without_torch_trains_and_measures_alike(name):
    network, shape, classes, client = _case(name)
    content, error = training_file(network, shape, classes, Options(8, 0.5), {})
    assert error <= 1e-5
    objective = objectives.objective_of(network)
    devices, alone = LiteRTTrainer(content, objective), TorchTrainer(network)
    held = client(20)
    settings = LocalSettings(epochs=1, batch_size=8, learning_rate=0.05)
    asked = Train(state(network), settings)

    def task():
        return LocalTask(held, np.random.default_rng(1), np.random.default_rng(2))

    one, other = devices.train(asked, task()), alone.train(asked, task())
    assert all(np.allclose(one.arrays[k], other.arrays[k], atol=1e-5) for k in one.arrays)
    loss, score = devices.evaluate(one.arrays, held)
    scored = objective.figures(alone.scores(one.arrays, held.x), held.y, held.x)
    assert score == pytest.approx(scored.score, abs=1e-5)
    assert np.isfinite(loss)
    with pytest.raises(ModelError, match="made for the objective"):
        LiteRTTrainer(content, made("regression" if name != "regression" else "multi-label"))


@pytest.fixture
def numbers(tmp_path):
    x = RNG.standard_normal((400, 6)).astype(np.float32)
    y = 200 + 80 * np.tanh(x @ np.linspace(-1, 1, 6))
    np.savez(tmp_path / "numbers.npz", x=x, y=y.astype(np.float32))
    return f"data.source=npz:{tmp_path / 'numbers.npz'}"


QUICK = ("model.name=mlp", "data.clients=4", "federation.rounds=6", "export.presets=[]", "spiking.enabled=auto")


def test_numbers_are_learnt_in_their_units(tmp_path, heard, numbers):
    experiment = experiments.load(None, [numbers, "objective=regression", "training.epochs=5", *QUICK])
    result = job.run(experiment, tmp_path / "run", heard)
    assert result["r2"] > 0.8
    assert 1 < result["mae"] < 40
    assert result["objective"]["measure"] == "r2"
    assert result["objective"]["arguments"]["mean"][0] == pytest.approx(200, abs=30)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["accuracy"] is None
    assert lines[-1]["metrics"]["r2"] == pytest.approx(result["r2"], abs=1e-6)
    assert "Residuals of value" in (tmp_path / "run/report.html").read_text()
    assert any("no spiking form is made: spikes answer with classes" in line for line in heard.notices)


def test_what_is_not_normal_is_told_by_its_error(tmp_path, heard):
    mixed = RNG.standard_normal((3, 12))
    x = np.tanh(RNG.standard_normal((400, 3)) @ mixed)
    x[300:] += RNG.standard_normal((100, 12))
    np.savez(tmp_path / "d.npz", x=x.astype(np.float32), y=np.array(["normal"] * 300 + ["odd"] * 100))
    aim = ["objective=reconstruction", f"data.source=npz:{tmp_path / 'd.npz'}", "training.epochs=5"]
    experiment = experiments.load(None, [*aim, *QUICK, "model.name=autoencoder"])
    result = job.run(experiment, tmp_path / "run", heard)
    assert result["auc"] > 0.9
    assert result["decision"]["found"] > result["decision"]["false_alarms"]
    assert "threshold" in (tmp_path / "run/report.html").read_text()


def test_the_pages_own_objective(tmp_path, monkeypatch):
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    focal = made("mine:Focal")
    chance = torch.softmax(SCORES, 1)[torch.arange(7), CLASSES]
    assert torch.allclose(focal.losses(SCORES, CLASSES, NUMBERS), (1 - chance) ** 2 * -chance.log())
    assert focal.figures(SCORES.numpy(), CLASSES.numpy(), NUMBERS.numpy()).measure == "accuracy"


def test_of_machines_the_mean_spectrum_tells_nothing():
    from edgekit.data import machine_sounds

    def clips(normal):
        made = [machine_sounds.simulate(i % 8, normal, np.random.default_rng([normal, i])) for i in range(120)]
        return np.stack(made).mean(-1)[:, 0].astype(np.float64)

    learnt, odd = clips(True), clips(False)
    centre, spread = learnt[:80].mean(0), np.linalg.inv(np.cov(learnt[:80].T) + 1e-6 * np.eye(16))
    away = [((one - centre) @ spread * (one - centre)).sum(1) for one in (learnt[80:], odd)]
    assert auc(np.concatenate(away), np.repeat([False, True], [40, 120])) <= 0.75


@pytest.mark.parametrize("labels", ["numbers", "flags", "soft"])
def test_clients_share_any_labels_unequally(tmp_path, labels):
    x = RNG.standard_normal((300, 4)).astype(np.float32)
    y = {"numbers": x[:, :2] * 9, "flags": x[:, :3] > 0, "soft": np.exp(x[:, :3]) / np.exp(x[:, :3]).sum(1)[:, None]}
    np.savez(tmp_path / "d.npz", x=x, y=y[labels].astype(np.float32))
    objective = made({"numbers": "regression", "flags": "multi-label", "soft": "cross-entropy"}[labels])
    data = load(Data(source=f"npz:{tmp_path / 'd.npz'}", clients=5, alpha=0.3), 0, objective=objective)
    owned = [data.client(client) for client in range(5)]
    assert sum(len(one) for one in owned) + len(data.test) + len(data.calibration) == 300
    assert all(one.y.dtype == np.float32 and one.y.ndim == 2 for one in owned)
    middle = np.mean(np.concatenate([one.y[:, 0] for one in owned]))
    kinds = [float((one.y[:, 0] > middle).mean()) for one in owned]
    assert max(kinds) - min(kinds) > 0.15


@pytest.mark.parametrize(
    ("aim", "y", "said"),
    [
        ("regression", np.array(["a", "b"] * 20), "takes numbers as labels"),
        ("cross-entropy", np.linspace(0, 1, 40), "numbers are learnt with"),
        ("multi-label", np.arange(80).reshape(40, 2), "neither 0 nor 1"),
        ("regression", np.ones(40), "all examples have the same label"),
        ("reconstruction", np.linspace(0, 1, 40), "labels must be whole numbers from 0, or names"),
    ],
)
def test_labels_that_do_not_fit_are_one_line(tmp_path, aim, y, said):
    np.savez(tmp_path / "d.npz", x=RNG.random((40, 3)), y=y)
    with pytest.raises(DataError, match=said):
        load(Data(source=f"npz:{tmp_path / 'd.npz'}", clients=2), 0, objective=made(aim))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["objective.name=cross-entropy", "objective.arguments={class_weights=[1.0]}"], "class_weights are 1"),
        (["objective=reconstruction", "objective.arguments.normal=fine"], "the data's classes are 0, 1"),
        (["objective=regression", "objective.arguments.los=huber"], "los"),
        (["model.name=exits", "objective.arguments.answer_weights=[1.0]"], "are 1, but the network gives 3 answers"),
        (["objective.arguments.answer_weights=[1.0, 2.0]"], "are of several answers, the network gives one"),
        (["objective=reconstruction"], "it must give what the objective reconstruction takes"),
        (["objective=regression", "split.cut=auto"], "split learning takes plain cross entropy"),
        (["objective=multi-label", "serve.statistics_every=2"], "statistics_every = 0"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(tmp_path, heard, overrides, said):
    with pytest.raises((ExperimentError, DataError, ModelError), match=said):
        job.run(experiments.load(None, [*overrides, "federation.rounds=1"]), tmp_path / "run", heard)


class Mean(CrossEntropy):
    def losses(self, scores, y, x):
        return super().losses(scores, y, x).mean()


class Mixed(CrossEntropy):
    def losses(self, scores, y, x):
        losses = super().losses(scores, y, x)
        return losses - losses.mean()


class Raises(CrossEntropy):
    def losses(self, scores, y, x):
        raise KeyError("boom")


class NoFigures(CrossEntropy):
    def figures(self, scores, y, x):
        return 0.5


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Mean", r"gives shape \(\); it must give a loss for each example"),
        ("Mixed", "loss changes with the others of its batch"),
        ("Raises", "fails: KeyError: 'boom'"),
        ("NoFigures", "must be Figures whose first metric is 'accuracy'"),
    ],
)
def test_an_objective_of_ones_own_that_is_none_is_one_line(tmp_path, heard, name, said):
    own = [f"objective={__name__}:{name}", "model.name=mlp", "federation.rounds=1", "data.clients=3"]
    with pytest.raises(ExperimentError, match=said):
        job.run(experiments.load(None, own), tmp_path / "run", heard)


def test_a_name_again_keeps_its_arguments():
    smooth, again = "objective.arguments.label_smoothing=0.1", "objective=cross-entropy"
    for overrides in ([smooth, again], [again, smooth]):
        assert experiments.load(None, overrides).objective.arguments == {"label_smoothing": 0.1}
    assert experiments.load(None, [smooth, "objective=regression"]).objective.arguments == {"label_smoothing": 0.1}


def test_a_stranger_names_no_code_of_a_device(make_experiment):
    from edgekit.clients.node.task import Task
    from edgekit.clients.node.task_facts import TaskFacts
    from edgekit.errors import RefusedError

    facts = TaskFacts(
        run="r", seed=0, model=Model(), data=Data(), shape=(1, 8, 8), classes=["0", "1"], parameters={}, planned=None,
        counts=True, objective=Chosen(name="os:system"),
    )  # fmt: skip
    with pytest.raises(RefusedError, match="code of this device"):
        Task(facts, None).objective([])
