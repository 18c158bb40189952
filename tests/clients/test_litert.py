"""LiteRT clients: the torch trainer's updates, a whole federation without torch, and a budget that is kept."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from edgekit.clients import LocalSettings, LocalTask, Train
from edgekit.clients.budget import Budget, PlannedRun, charge_for
from edgekit.clients.litert import LiteRTTrainer
from edgekit.clients.torch_trainer import TorchTrainer, state, trained_weights
from edgekit.data import Examples
from edgekit.errors import DataError, ExportError, ModelError, PrivacyError, TrainingError
from edgekit.export.training.file import training_file
from edgekit.export.training.steps import Options
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.privacy import Ledger, epsilon


@pytest.fixture(scope="module")
def made():
    """A network with batches of 8, so that Poisson batches of 21 examples take several calls."""
    model = build(Model(name="mlp", norm="group"), (1, 8, 8), 10, 0)
    content, _ = training_file(model, (1, 8, 8), 10, Options(8, 0.5, momentum=True, proximal=True), {})
    return model, content


@pytest.fixture
def trainer(made):
    return LiteRTTrainer(made[1])


def task(block: Examples) -> LocalTask:
    return LocalTask(block, np.random.default_rng(1), np.random.default_rng(2))


def test_an_update_is_the_torch_trainers(settings, made, trainer, blocks):
    model, _ = made
    (block,) = blocks(21)
    ours = trainer.train(Train(state(model), settings), task(block))
    theirs = TorchTrainer(model).train(Train(state(model), settings), task(block))
    assert list(ours.arrays) == list(theirs.arrays)
    for name, array in theirs.arrays.items():
        assert ours.arrays[name].shape == array.shape
        assert np.allclose(ours.arrays[name], array, atol=2e-6), (name, np.abs(ours.arrays[name] - array).max())
    assert ours.examples == theirs.examples
    assert ours.loss is None if theirs.loss is None else abs(ours.loss - theirs.loss) < 1e-5


def test_adamw_on_a_device_is_the_torch_trainers(blocks):
    model = build(Model(name="mlp", norm="none", only=["layers.1"]), (1, 8, 8), 10, 0)
    options = Options(8, proximal=True, private=False, optimiser="adamw", decay=True)
    trainer = LiteRTTrainer(training_file(model, (1, 8, 8), 10, options, {})[0])
    (block,) = blocks(21)
    settings = LocalSettings(
        batch_size=8, epochs=2, optimiser="adamw", learning_rate=0.01, weight_decay=0.1, proximal_mu=0.1
    )
    asked = Train(trained_weights(model), settings)
    ours, theirs = trainer.train(asked, task(block)), TorchTrainer(model).train(asked, task(block))
    assert list(ours.arrays) == list(theirs.arrays)
    assert all(np.allclose(ours.arrays[name], array, atol=5e-6) for name, array in theirs.arrays.items())
    with pytest.raises(TrainingError, match="takes steps of adamw, the round wants sgd"):
        trainer.train(Train(trained_weights(model), LocalSettings(batch_size=8)), task(block))


@pytest.mark.parametrize("work", ["sgd", "dp-sgd"])
def test_augmented_examples_are_the_torch_trainers(work, made, trainer, blocks):
    (block,) = blocks(21)
    settings = LocalSettings(work, batch_size=8, steps=2, sample_rate=0.6, clip=0.5, augment=("crop", "noise"))
    asked = Train(state(made[0]), settings)
    ours, theirs = trainer.train(asked, task(block)), TorchTrainer(made[0]).train(asked, task(block))
    assert all(np.allclose(ours.arrays[name], array, atol=2e-6) for name, array in theirs.arrays.items())


def test_an_empty_poisson_batch_moves_the_weights_by_the_noise_alone(made, trainer, blocks):
    (block,) = blocks(3)
    nobody = LocalSettings("dp-sgd", steps=2, sample_rate=1e-9, clip=0.5, noise_multiplier=1e-9, momentum=0.5)
    ours = trainer.train(Train(state(made[0]), nobody), task(block))
    theirs = TorchTrainer(made[0]).train(Train(state(made[0]), nobody), task(block))
    for name, array in theirs.arrays.items():
        assert np.allclose(ours.arrays[name], array, atol=1e-6)
        assert not np.array_equal(array, state(made[0])[name])


@pytest.mark.parametrize("settings", ["dp-sgd", "clipped-sum"], indirect=True)
def test_an_example_whose_gradient_is_not_finite_counts_as_zero(settings, made, trainer, blocks):
    (block,) = blocks(21)
    block.x[5] = 3e38  # finite, so that no check of the data finds it
    block.x[20] = np.inf
    settings = dataclasses.replace(settings, sample_rate=1.0)
    ours = trainer.train(Train(state(made[0]), settings), task(block))
    theirs = TorchTrainer(made[0]).train(Train(state(made[0]), settings), task(block))
    for name, array in theirs.arrays.items():
        assert np.isfinite(ours.arrays[name]).all()
        assert np.allclose(ours.arrays[name], array, atol=2e-6)


def test_evaluation_and_first_weights_are_the_networks(made, trainer, blocks):
    from edgekit.server.loop.evaluation import evaluate

    model, _ = made
    (block,) = blocks(21)
    assert all(np.array_equal(trainer.initial()[name], array) for name, array in state(model).items())
    assert np.allclose(trainer.evaluate(state(model), block), evaluate(model, state(model), block), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (LocalSettings(batch_size=9), "takes batches of at most 8, the round wants 9"),
        (LocalSettings("dp-sgd", clip=1.0), "clips at 0.5, the round wants 1"),
    ],
)
def test_a_file_made_for_other_settings_is_an_error(settings, complaint, made, trainer, blocks):
    with pytest.raises(TrainingError, match=complaint):
        trainer.train(Train(state(made[0]), settings), task(blocks(4)[0]))


def test_a_file_without_momentum_does_not_forget_it_silently(blocks):
    model = build(Model(name="mlp"), (1, 8, 8), 10, 0)
    plain = LiteRTTrainer(training_file(model, (1, 8, 8), 10, Options(8, private=False), {})[0])
    for settings in (LocalSettings(momentum=0.5), LocalSettings(proximal_mu=0.5)):
        with pytest.raises(TrainingError, match="was made without"):
            plain.train(Train(state(model), settings), task(blocks(4)[0]))


@pytest.mark.parametrize(
    "changed",
    [
        {"steps": -(10**6)},
        {"sample_rate": float("nan")},
        {"update_clip": float("nan"), "update_noise": 1e-12},
        {"noise_multiplier": float("inf")},
        {"clip": 0.0},
        {"work": "everything"},
        {"epochs": 1.5},
    ],
)
def test_settings_out_of_range_never_reach_a_trainer(changed):
    """They come from a server that need not be trusted, and the budget is reckoned with them."""
    text = json.dumps({**dataclasses.asdict(LocalSettings()), **changed})
    with pytest.raises(TrainingError, match="the round"):
        LocalSettings.from_json(text)
    with pytest.raises(TrainingError, match="settings cannot be read"):
        LocalSettings.from_json('{"speed": 3}')


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda b: Examples(b.x, b.y - 10), "10 classes; this client has a label outside 0..9"),
        (lambda b: Examples(b.x[:, :, :4], b.y), r"takes examples of \(1, 8, 8\), this client's are \(1, 4, 8\)"),
        (lambda b: Examples(b.x[:0], b.y[:0]), "no examples"),
    ],
)
def test_examples_that_do_not_fit_are_refused_before_the_budget_is_touched(spoil, complaint, made, blocks, tmp_path):
    ledger = Ledger(tmp_path / "privacy.jsonl")
    settings = LocalSettings("dp-sgd", clip=0.5, noise_multiplier=3)
    asked = Train(state(made[0]), settings)
    with pytest.raises(DataError, match=complaint):
        charge_for(LiteRTTrainer(made[1]), Budget(ledger, 10, 1e-5), asked, spoil(blocks(6)[0]), "a")
    assert ledger.rounds == 0


def test_other_weights_and_other_files_are_refused(made, trainer, blocks, tmp_path):
    weights = {**state(made[0]), "layers.1.weight": np.zeros((3, 3), np.float32)}
    with pytest.raises(ModelError, match=r"'layers.1.weight' has shape \(3, 3\)"):
        trainer.train(Train(weights, LocalSettings()), task(blocks(4)[0]))
    with pytest.raises((ModelError, ExportError), match="refuses the training file|truncated"):
        LiteRTTrainer(made[1][:-2000])
    (tmp_path / "x.tflite").write_bytes(b"\0\0\0\0not one")
    with pytest.raises(ExportError, match="not a .tflite file"):
        LiteRTTrainer(tmp_path / "x.tflite")


def test_a_device_spends_its_budget_and_no_more(made, blocks, tmp_path):
    private = LocalSettings("dp-sgd", steps=3, sample_rate=0.5, clip=0.5, noise_multiplier=1.1)
    ledger = Ledger(tmp_path / "privacy.jsonl")
    twice = epsilon([(1.1, 0.5, 6)], 1e-5, "pld-numpy")
    plan = PlannedRun("task", {(1.1, 0.5): 6})
    trainer, budget = LiteRTTrainer(made[1]), Budget(ledger, 1.01 * twice, 1e-5, planned=plan)

    def train(settings, draw):
        charge_for(trainer, budget, Train(state(made[0]), settings), blocks(9)[0], draw)

    for draw in ("first", "second", "second", "first"):  # the same random numbers again release nothing new
        train(private, draw)
    with pytest.raises(PrivacyError, match="this device will spend epsilon"):
        train(private, "third")
    again = Ledger(tmp_path / "privacy.jsonl")  # what was spent is on the disk
    assert again.epsilon(1e-5, "pld-numpy") == pytest.approx(twice)
    bounded = LocalSettings("clipped-sum", clip=0.5, update_clip=0.1, update_noise=1.0)
    for open_handed in (LocalSettings(), LocalSettings("clipped-sum", clip=0.5), bounded):
        with pytest.raises(PrivacyError, match="asks for an update without noise of its own"):
            train(open_handed, "fourth")


def test_a_clients_own_noise_counts_as_the_plan_counts_it(made, blocks, tmp_path):
    from edgekit.privacy import Schedule, mechanisms
    from edgekit.privacy.settings import Privacy

    made_of = mechanisms.make(Privacy(unit="client", noise="client", epsilon=8.0, clip=0.5))
    plan = made_of.plan(Schedule(1, 1.0, 1, ("weights",)))
    ledger = Ledger(tmp_path / "privacy.jsonl")
    noise = plan.noise_multiplier * plan.sensitivity
    settings = LocalSettings(update_clip=plan.clip, update_noise=noise)
    budget = Budget(ledger, 100, 1e-5)
    charge_for(LiteRTTrainer(made[1]), budget, Train(state(made[0]), settings), blocks(6)[0], "a")
    assert ledger.epsilon(plan.delta, "pld") == pytest.approx(plan.epsilon)


@pytest.mark.parametrize(
    ("history", "delta"),
    [
        ([(1e-160, 0.5, 4)], 1e-5),
        ([(1e-4, 0.5, 1)], 1e-5),
        ([(1e-160, 1.0, 1), (5.0, 0.5, 1)], 1e-5),
        ([(0.5, 0.5, 1)], 1.0),
    ],
)
def test_noise_too_small_to_count_is_never_counted_as_free(history, delta):
    """A coordinator chooses these numbers: what leaves the range of floating point must not come out as zero."""
    assert epsilon(history, delta, "pld-numpy") == float("inf")


FEDERATION = """
import sys
for name in ("torch", "opacus", "sklearn", "litert_torch"): sys.modules[name] = None
import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg
from edgekit.clients import LocalSettings, LocalTask, Train
from edgekit.clients.litert import LiteRTTrainer
from edgekit.data import Examples
from edgekit.flower import begin_run

data = np.load(sys.argv[2])
clients = [Examples(data[f"x{i}"], data[f"y{i}"]) for i in range(6)]
test = Examples(data["x"], data["y"])
begin_run(1)
trainer, strategy = LiteRTTrainer(open(sys.argv[1], "rb").read()), FedAvg()
weights = trainer.initial()
for number in range(4):
    replies = []
    for i, client in enumerate(clients):
        draws = [np.random.default_rng([number, i, kind]) for kind in range(2)]
        update = trainer.train(Train(weights, LocalSettings(batch_size=8)), LocalTask(client, *draws))
        arrays = ArrayRecord({name: Array(array) for name, array in update.arrays.items()})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": update.examples})})
        replies.append(Message(content, dst_node_id=i + 1, message_type="train"))
    arrays, _ = strategy.aggregate_train(number + 1, replies)
    weights = {name: array.numpy() for name, array in arrays.items()}
assert sys.modules["torch"] is None
np.savez(sys.argv[3], accuracy=trainer.evaluate(weights, test)[1], **weights)
"""


def test_a_whole_federation_where_torch_cannot_be_imported_ends_where_torch_clients_end(made, digits, tmp_path):
    model, content = made
    (tmp_path / "training.tflite").write_bytes(content)
    clients = [digits.client(i) for i in range(6)]
    arrays = {f"{kind}{i}": getattr(client, kind) for i, client in enumerate(clients) for kind in "xy"}
    np.savez(tmp_path / "data.npz", x=digits.test.x, y=digits.test.y, **arrays)
    command = [sys.executable, "-c", FEDERATION, "training.tflite", "data.npz", "result.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = np.load(tmp_path / "result.npz")

    from edgekit.server.loop.evaluation import evaluate

    weights = state(model)
    for number in range(4):
        updates = []
        for i, client in enumerate(clients):
            draws = [np.random.default_rng([number, i, kind]) for kind in range(2)]
            updates.append(
                TorchTrainer(model).train(Train(weights, LocalSettings(batch_size=8)), LocalTask(client, *draws))
            )
        total = sum(update.examples for update in updates)
        weights = {
            name: sum(update.arrays[name] * (update.examples / total) for update in updates).astype(np.float32)
            for name in weights
        }
    accuracy = evaluate(model, weights, digits.test)[1]
    assert accuracy > 0.6
    assert abs(float(result["accuracy"]) - accuracy) < 0.01
    assert max(np.abs(result[name] - array).max() for name, array in weights.items()) < 1e-4
