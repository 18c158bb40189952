"""Privacy of split learning, held against Opacus, autograd, dp-accounting, and training without noise."""

import json

import numpy as np
import pytest
import torch
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from opacus.grad_sample import GradSampleModule

from edgekit.algorithms.interactive import alone, trained_alike
from edgekit.algorithms.split import part as part_module
from edgekit.algorithms.split.codec import LARGEST
from edgekit.algorithms.split.device import RELEASES, half
from edgekit.algorithms.split.hiding import Noise, clipped, distance_correlation, noised, through_clip
from edgekit.algorithms.split.line import DirectLine
from edgekit.algorithms.split.mechanisms import SplitByDevices, SplitByServer
from edgekit.algorithms.split.messages import Backward, Forward
from edgekit.algorithms.split.part import Part
from edgekit.algorithms.split.server import in_parts, split_cohort
from edgekit.algorithms.split.settings import Split
from edgekit.algorithms.split.wire import pack_answer, read_answer
from edgekit.clients import LocalSettings, LocalTask, Train
from edgekit.clients.budget import Budget
from edgekit.clients.cohort.trainer import VectorisedTrainer
from edgekit.clients.torch_trainer import TorchTrainer, state
from edgekit.data import Examples
from edgekit.errors import ExperimentError, ModelError, PrivacyError, TrainingError
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.pipeline import job
from edgekit.privacy import Ledger, Schedule
from edgekit.privacy.settings import Privacy

CUT = "layers.3"


@pytest.fixture
def model():
    return build(Model(name="dscnn", norm="group", width=0.5), (1, 8, 8), 10, 0)


def tasks(blocks):
    return [LocalTask(block, np.random.default_rng(k), np.random.default_rng(9)) for k, block in enumerate(blocks)]


def train(model, data, digits, settings, **split):
    trainer = split_cohort(Split(**{"cut": CUT, **split}), model, digits)
    return trainer, trained_alike(half, trainer, state(model), settings, tasks(data))


def close(one, other, tolerance=1e-5):
    return all(np.allclose(one[name], other[name], rtol=1e-4, atol=tolerance) for name in other)


def test_a_part_clips_what_opacus_finds_with_the_gradient_from_elsewhere(model, digits, blocks):
    (block,) = blocks(12)
    plan = split_cohort(Split(cut=CUT), model, digits).plan
    bottom = plan.device.bottom
    gradient = torch.randn(12, *plan.terms.crossing[0], generator=torch.Generator().manual_seed(1)) / 12
    x = torch.from_numpy(block.x)
    for bound in (0.3, 1e6):
        part = Part(bottom, state(model), learning_rate=1.0)
        before = part.weights()
        passed = part.forward(x, wants_gradient=False)
        part.backward_private(passed, gradient, Noise(bound, 0.0, 12.0, np.random.default_rng(0)))
        ours = {name: (before[name] - after) * 12 for name, after in part.weights().items()}
        recording = GradSampleModule(bottom, loss_reduction="sum", batch_first=True)
        recording.zero_grad()
        recording(x).backward(12 * gradient)
        each = {name: p.grad_sample for name, p in bottom.named_parameters()}
        norms = torch.stack([g.flatten(1).square().sum(1) for g in each.values()]).sum(0).sqrt()
        assert bound > norms.max() or bound < norms.min()
        factors = (bound / norms).clamp(max=1.0)
        for name, g in each.items():
            theirs = torch.einsum("i,i...->...", factors, g).numpy()
            assert np.allclose(ours[name], theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max()), name
        recording.to_standard_module()


@pytest.mark.parametrize("labels", ["device", "server"])
@pytest.mark.parametrize("window", [1, 3])
def test_without_noise_and_with_wide_bounds_private_steps_are_plain_ones(model, digits, blocks, labels, window):
    data = blocks(20)
    quiet = {"clip": 1e6, "noise_multiplier": 1e-30, "learning_rate": 0.1, "momentum": 0.9}
    if window == 1:  # one Poisson batch of everybody is a batch of everybody
        _, (ours,) = train(model, data, digits, LocalSettings(work="dp-sgd", steps=3, **quiet), labels=labels)
        plain = LocalSettings(batch_size=20, epochs=3, learning_rate=0.1, momentum=0.9)
        theirs = TorchTrainer(model).train(Train(state(model), plain), tasks(data)[0])
        assert ours.loss is None
        assert close(ours.arrays, theirs.arrays)
    if labels == "device":
        local = LocalSettings(work="local-dp", batch_size=8, epochs=2, **quiet)
        more = {"labels": labels, "window": window}
        _, (ours,) = train(model, data, digits, local, activation_clip=1e4, **more)
        plain = LocalSettings(batch_size=8, epochs=2, learning_rate=0.1, momentum=0.9)
        _, (theirs,) = train(model, data, digits, plain, **more)
        assert ours.loss is None
        assert close(ours.arrays, theirs.arrays)


def test_everything_that_leaves_the_device_is_clipped_and_noised(model, digits):
    """What the server gets, over many examples, has the mean and the spread of the mechanism that is counted."""
    block = Examples(digits.test.x[:300], digits.test.y[:300])
    z, bound, gradient_bound = 5.0, 2.0, 0.3
    settings = LocalSettings(
        work="local-dp", batch_size=300, epochs=1, clip=gradient_bound, noise_multiplier=z, learning_rate=0.1
    )
    seen = {}
    for name, multiplier in (("noised", z), ("quiet", 1e-30)):
        trainer = split_cohort(Split(cut=CUT, activation_clip=bound), model, digits)
        answer = trainer.server.answer

        def listening(client, message, answer=answer, name=name):
            seen.setdefault(name, []).append(message)
            return answer(client, message)

        trainer.server.answer = listening
        work = LocalSettings(**{**vars(settings), "noise_multiplier": multiplier})
        seen[f"{name} weights"] = trained_alike(half, trainer, state(model), work, tasks([block]))[0].arrays
        seen[f"{name} device"] = list(trainer.plan.device_like)
    (forward, backward), (quiet_forward, quiet_backward) = seen["noised"], seen["quiet"]
    assert isinstance(forward, Forward)
    assert forward.labels is None
    assert isinstance(backward, Backward)
    rows = quiet_forward.activation.reshape(300, -1)
    assert np.linalg.norm(rows, axis=1).max() <= bound * (1 + 1e-5)
    noise = (forward.activation - quiet_forward.activation).ravel()
    assert noise.std() == pytest.approx(2 * z * bound, rel=0.02)
    assert abs(noise.mean()) < 5 * noise.std() / np.sqrt(noise.size)
    # The gradient is the mean's: 300 times a row is an example's own.
    assert np.linalg.norm(300 * quiet_backward.gradient.reshape(300, -1), axis=1).max() <= gradient_bound * (1 + 1e-5)
    assert (300 * backward.gradient).std() == pytest.approx(2 * z * gradient_bound, rel=0.05)
    # One step at rate 0.1 over 300 examples; what the gradients themselves differ by is bounded.
    moved = [(seen["noised weights"][n] - seen["quiet weights"][n]).ravel() for n in seen["noised device"]]
    assert 300 / 0.1 * np.concatenate(moved).std() == pytest.approx(2 * z * gradient_bound, rel=0.1)


def test_the_servers_part_is_noised_too_where_it_is_trusted(model, digits, blocks):
    data = blocks(40)
    base = {"work": "dp-sgd", "steps": 1, "clip": 0.3, "learning_rate": 0.1}
    found = []
    for z in (2.0, 1e-30):
        trainer, (update,) = train(model, data, digits, LocalSettings(noise_multiplier=z, **base))
        found.append(update.arrays)
    noise = np.concatenate([(found[0][n] - found[1][n]).ravel() for n in trainer.server.weights(0)])
    assert 40 / 0.1 * noise.std() == pytest.approx(2.0 * 0.3, rel=0.1)
    quiet = np.concatenate([(found[1][n] - state(model)[n]).ravel() for n in found[1]])
    assert 40 / 0.1 * np.linalg.norm(quiet) <= 40 * 0.3 * (1 + 1e-5)  # all parts together


@pytest.mark.parametrize("labels", ["server", "device"])
def test_all_parts_together_move_by_no_more_than_one_bound(model, digits, blocks, labels):
    """Each part is clipped by itself, and each of them reaches its bound here: together that is the whole's."""
    settings = LocalSettings(work="dp-sgd", steps=1, clip=1e-3, learning_rate=0.1, noise_multiplier=1e-30)
    _, (update,) = train(model, blocks(1), digits, settings, labels=labels)
    before = state(model)
    moved = np.concatenate([(update.arrays[name].astype(np.float64) - before[name]).ravel() for name in update.arrays])
    assert np.linalg.norm(moved) / 0.1 == pytest.approx(1e-3, rel=0.02)


def test_an_empty_poisson_batch_is_a_step_of_noise_alone(model, digits, blocks):
    data = blocks(4)
    for labels in ("device", "server"):
        settings = LocalSettings(
            work="dp-sgd", steps=5, sample_rate=1e-9, clip=1.0, noise_multiplier=1e-30, learning_rate=1e-12
        )
        trainer, (update,) = train(model, data, digits, settings, labels=labels)
        up, _ = trainer.take_traffic()
        assert up > 0  # it is sent as any other
        assert close(update.arrays, state(model), 1e-12)


def test_the_plan_counts_all_releases_of_an_epoch():
    settings = Privacy(unit="example", noise="client", epsilon=8.0, delta=1e-5)
    plan = SplitByDevices(settings, RELEASES, 1.0, LARGEST).plan(Schedule(5, 0.3, 2, ("weights",)))
    assert (plan.sample_rate, plan.steps) == (1.0, 6)
    theirs = PLDAccountant()
    # So many Gaussians of one sensitivity are one with as much less noise (Dong et al. 2022, corollary 2).
    theirs.compose(dp_event.GaussianDpEvent(plan.noise_multiplier / 30**0.5))
    assert theirs.get_epsilon(1e-5) == pytest.approx(8.0, rel=0.01)
    trusted = SplitByServer(Privacy(unit="example", sample_rate=0.1)).plan(Schedule(5, 1.0, 2, ("weights",)))
    assert (trusted.sample_rate, trusted.steps) == (0.1, 20)


@pytest.mark.parametrize("noise", ["client", "server"])
def test_a_run_spends_what_it_planned_and_says_against_whom(make_experiment, tmp_path, heard, noise):
    experiment = make_experiment(
        "model.name=mlp", "privacy.unit=example", f"privacy.noise={noise}", "split.cut=layers.2", "federation.rounds=2",
        "training.epochs=1", "data.clients=4", "privacy.sample_rate=0.5", "spiking.enabled=false", "export.presets=[]",
        "training.learning_rate=0.1", "privacy.clip=1.0",
    )  # fmt: skip
    result = job.run(experiment, tmp_path / "run", heard)
    assert result["privacy"]["epsilon"] == pytest.approx(8.0, rel=0.03)
    charges = [json.loads(line) for line in (tmp_path / "run" / "privacy.jsonl").read_text().splitlines()]
    assert [c["steps"] for c in charges] == [3, 3] if noise == "client" else [2, 2]
    said = (tmp_path / "run" / "report.html").read_text()
    if noise == "client":
        assert "holds against the server too: activations" in said
        assert "noise added by the devices," in result["privacy_statement"]
    else:
        assert "against everybody but the server" in said
        assert "The server itself: it sees" in said
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("against the server too" in page) == (noise == "client")


def test_a_device_pays_for_every_attempt_and_no_more_than_it_wants(tmp_path):
    budget = Budget(Ledger(tmp_path / "privacy.jsonl"), 8.0, 1e-5)
    settings = LocalSettings(work="local-dp", epochs=2, noise_multiplier=4.0)
    budget.spend(settings, "one", RELEASES)
    budget.spend(settings, "two", RELEASES)
    charges = [json.loads(line) for line in (tmp_path / "privacy.jsonl").read_text().splitlines()]
    assert [c["steps"] for c in charges] == [6, 6]
    with pytest.raises(PrivacyError, match="and no more"):
        budget.spend(LocalSettings(work="local-dp", epochs=2, noise_multiplier=0.5), "three", RELEASES)
    assert budget.ledger.rounds == 2


def test_clipping_is_differentiated_as_autograd_does():
    rng = np.random.default_rng(0)
    rows = (
        rng.standard_normal((6, 3, 4)).astype(np.float32) * np.array([0.01, 0.1, 1, 2, 5, 0], np.float32)[:, None, None]
    )
    gradient = rng.standard_normal(rows.shape).astype(np.float32)
    x = torch.from_numpy(rows).requires_grad_()
    norms = x.flatten(1).norm(dim=1).clamp(min=1e-20)
    y = x * (1.5 / norms).clamp(max=1.0)[:, None, None]
    y.backward(torch.from_numpy(gradient))
    assert np.allclose(clipped(rows, 1.5), y.detach().numpy(), atol=1e-6)
    assert np.allclose(through_clip(gradient, rows, 1.5), x.grad.numpy(), atol=1e-5)
    broken = rows.copy()
    broken[2, 0, 0] = np.nan
    broken[3, 0, 0] = np.inf
    assert not clipped(broken, 1.5)[2:4].any()
    assert np.array_equal(clipped(broken, 1.5)[:2], clipped(rows, 1.5)[:2])
    assert noised(rows, 0.0, rng) == pytest.approx(rows)


def test_distance_correlation_is_that_of_the_definition_and_its_gradient_autograds():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((9, 1, 4, 4)).astype(np.float32)
    z = (x.reshape(9, -1)[:, :5] ** 2 + 0.1 * rng.standard_normal((9, 5))).astype(np.float32)

    def definition(x, z):
        found = []
        for array in (x.flatten(1).double(), z.flatten(1).double()):
            pairs = (array[:, None] - array[None]).square().sum(2)
            distances = torch.where(pairs > 0, pairs.clamp(min=1e-30).sqrt(), 0.0)
            centred = distances - distances.mean(0)[None] - distances.mean(1)[:, None] + distances.mean()
            found.append(centred)
        a, b = found
        return ((a * b).mean() / ((a * a).mean() * (b * b).mean()).sqrt()).sqrt()

    over = torch.from_numpy(z).requires_grad_()
    theirs = definition(torch.from_numpy(x), over)
    theirs.backward()
    ours, gradient = distance_correlation(x, z)
    assert ours == pytest.approx(float(theirs), rel=1e-9)
    assert np.allclose(gradient, over.grad.numpy(), rtol=1e-4, atol=1e-7)
    assert distance_correlation(x, x)[0] == pytest.approx(1.0, abs=1e-6)
    for degenerate in (np.zeros_like(z), z[:1]):
        value, gradient = distance_correlation(x[: len(degenerate)], degenerate)
        assert value == 0.0
        assert not gradient.any()


def test_no_peek_lowers_the_distance_correlation(digits):
    model = build(Model(name="mlp"), (1, 8, 8), 10, 0)
    block = Examples(digits.test.x[:200], digits.test.y[:200])
    work = LocalSettings(batch_size=20, epochs=20, learning_rate=0.1)
    found = {}
    for weight in (0.0, 1.0):
        trainer = split_cohort(Split(cut="layers.2", no_peek=weight), model, digits)
        (update,) = trained_alike(half, trainer, state(model), work, tasks([block]))
        bottom = Part(trainer.plan.device.bottom, update.arrays, 0.1)
        z = bottom.forward(torch.from_numpy(block.x), wants_gradient=False).y.detach().numpy()
        found[weight] = distance_correlation(block.x, z)[0]
    assert found[1.0] < 0.8 * found[0.0]


def test_what_would_protect_nothing_is_refused(make_experiment, model, digits, blocks):
    for overrides, problem in (
        (["privacy.unit=client"], 'protects single examples: set privacy.unit = "example"'),
        (["privacy.unit=example", "privacy.noise=client", "split.labels=server"], "labels would be sent as they are"),
        (["privacy.unit=example", "split.no_peek=1.0"], "mixes the examples of a batch"),
        (["privacy.unit=example", "split.codec=int8"], "mixes the examples of a batch"),
        (["privacy.unit=none", "serve.statistics_every=1"], "give no statistics"),
    ):
        with pytest.raises(ExperimentError, match=problem):
            make_experiment("split.cut=layers.2", *overrides)
    for settings, labels in (
        (LocalSettings(work="clipped-sum"), "device"),
        (LocalSettings(update_clip=1.0), "device"),
        (LocalSettings(work="local-dp", noise_multiplier=1.0), "server"),
    ):
        with pytest.raises(TrainingError, match="single examples|labels would be sent"):
            train(model, blocks(8), digits, settings, labels=labels)


def test_a_device_does_not_take_the_coordinators_word_for_it(model, digits, blocks):
    """What its guarantee rests on is looked at on the device: in `local-dp` the coordinator is who may not learn."""
    (block,) = blocks(8)
    (task,) = tasks([block])
    work = LocalSettings(work="local-dp", batch_size=8, noise_multiplier=1.0)
    plan = split_cohort(Split(cut=CUT, no_peek=1.0), model, digits).plan
    with pytest.raises(TrainingError, match="NoPeek's penalty, which mixes"):
        plan.begin(state(model), task, work)
    mixing = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 8), torch.nn.ReLU(),
        torch.nn.Linear(8, 10),
    )  # fmt: skip
    device = split_cohort(Split(cut="2"), mixing, digits).plan.device
    with pytest.raises(ModelError, match="BatchNorm1d"):
        device.check(state(mixing), block, work)
    with pytest.raises(TrainingError, match="the network is not cut"):
        TorchTrainer(model).train(Train(state(model), work), task)
    with pytest.raises(TrainingError, match="the network is not cut"):
        VectorisedTrainer(model, 64 << 20).train_cohort([Train(state(model), work)], [task])


@pytest.mark.parametrize("labels", ["device", "server"])
def test_an_example_that_no_server_would_take_is_left_out_and_costs_nobody_else(digits, blocks, labels):
    model = build(Model(name="mlp"), (1, 8, 8), 10, 0)  # without a norm, which would make anything small
    (block,) = blocks(12)
    settings = LocalSettings(work="dp-sgd", steps=1, clip=0.5, noise_multiplier=1e-30, learning_rate=0.1)
    broken = Examples(block.x.copy(), block.y)
    broken.x[3] = 1e12
    more = {"labels": labels, "cut": "layers.2"}
    _, (with_it,) = train(model, [broken], digits, settings, **more)
    without = Examples(np.delete(block.x, 3, 0), np.delete(block.y, 3))
    _, (without_it,) = train(model, [without], digits, settings, **more)
    start = state(model)
    for name in start:  # the sums are the same; each is divided by its client's number of examples
        ours, theirs = 12 * (with_it.arrays[name] - start[name]), 11 * (without_it.arrays[name] - start[name])
        assert np.allclose(ours, theirs, atol=1e-4), name


def test_an_output_that_no_device_would_take_is_not_sent(digits, blocks):
    """The server's part amplifies one example beyond what travels: over the network the device's round goes on."""
    model = build(Model(name="mlp"), (1, 8, 8), 10, 0)
    (block,) = blocks(8)
    block.x[3] *= 1e5
    weights = {name: 1000 * array if name.startswith("layers.3") else array for name, array in state(model).items()}
    plan, server = in_parts(Split(cut="layers.2"), model, digits)
    settings = LocalSettings(work="dp-sgd", steps=1, clip=0.5, noise_multiplier=1e-30, learning_rate=0.1)
    server.begin(weights, settings, 0, [8])
    sent = []

    def travelling(message):
        answer = server.answer(0, message)
        sent.append(read_answer(pack_answer(answer, 1, "float32")))  # which refuses what no training gives
        return answer

    alone(plan.begin(weights, tasks([block])[0], settings).exchanges(), DirectLine(travelling, "float32"))
    output = sent[0].activation
    assert sum(not row.any() for row in output) == 1


def test_many_examples_at_once_are_clipped_as_few(model, digits, blocks):
    (block,) = blocks(150)
    bottom = split_cohort(Split(cut=CUT), model, digits).plan.device.bottom
    found = []
    for at_once in (64, 7):
        part = Part(bottom, state(model), learning_rate=1.0)
        passed = part.forward(torch.from_numpy(block.x), wants_gradient=False)
        part_module.AT_ONCE = at_once
        part.backward_private(passed, torch.ones_like(passed.y) / 150, Noise(0.3, 0.0, 150.0, np.random.default_rng(0)))
        found.append(part.weights())
    part_module.AT_ONCE = 64
    assert close(found[0], found[1])
