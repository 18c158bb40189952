"""The vectorised cohort equals clients trained alone, which equal torch's own optimiser; private work equals Opacus."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from edgekit.clients import LocalSettings, LocalTask, Train
from edgekit.clients.cohort.depthwise import shifted_depthwise
from edgekit.clients.cohort.trainer import VectorisedTrainer, obstacle
from edgekit.clients.torch_trainer import TorchTrainer, state
from edgekit.data import batches
from edgekit.errors import TrainingError
from edgekit.models import build
from edgekit.models.settings import Model

SMALL = {"mobilenetv2": {"stages": [[1, 16, 1, 1], [4, 24, 2, 2], [4, 24, 1, 1]], "head": 32}}
NETS = [(name, norm) for name in ("mlp", "dscnn", "mobilenetv2") for norm in ("group", "weight-standardised", "none")]


class Odd(nn.Module):
    """Layers that the rules must leave to torch.func, or handle beside the common ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding="same")
        self.strided = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2, bias=False)
        self.mix = nn.Conv2d(8, 8, 1, stride=1)
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(torch.tanh(self.first(x)), 2)
        x = F.avg_pool2d(F.gelu(self.mix(self.strided(x))), 2)
        scores: torch.Tensor = self.out(self.norm(x.flatten(2).transpose(1, 2))).mean(1)
        return scores


class Recurrent(nn.Module):
    """Torch has no batching rule for its fused GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 12, batch_first=True)
        self.out = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.out(self.gru(x[:, 0])[0][:, -1])
        return scores


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.body(x)
        return scores


def _net(name, norm):
    return build(Model(name=name, norm=norm, arguments=SMALL.get(name, {})), (1, 8, 8), 10, seed=3).double()


def _tasks(blocks):
    return [LocalTask(b, np.random.default_rng(i), np.random.default_rng(100 + i)) for i, b in enumerate(blocks)]


def _same(one, other, tolerance):
    return all(np.allclose(one.arrays[k], other.arrays[k], rtol=0, atol=tolerance) for k in other.arrays)


SETTINGS = {
    "plain": LocalSettings(epochs=2, batch_size=4, learning_rate=0.05),
    "momentum and proximal term": LocalSettings(batch_size=3, momentum=0.9, proximal_mu=0.3, learning_rate=0.02),
    "dp-sgd": LocalSettings(
        work="dp-sgd", steps=3, sample_rate=0.4, clip=0.5, noise_multiplier=0.8, learning_rate=0.05, momentum=0.5
    ),
    "clipped sum": LocalSettings(work="clipped-sum", sample_rate=0.7, clip=0.3),
}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize(("name", "norm"), NETS)
def test_a_cohort_of_unequal_clients_equals_each_client_alone(name, norm, kind, blocks):
    model, data = _net(name, norm), blocks(5, 17, 9, 1)
    weights = state(model)
    together = VectorisedTrainer(model).train_cohort([Train(weights, SETTINGS[kind])] * len(data), _tasks(data))
    for update, task in zip(together, _tasks(data), strict=True):
        alone = TorchTrainer(model).train(Train(weights, SETTINGS[kind]), task)
        # Noise is drawn alike but rounded to float32 on its way.
        assert _same(update, alone, 1e-9)
        assert update.examples == len(task.examples)


@pytest.mark.parametrize("kind", ["plain", "momentum and proximal term", "dp-sgd"])
def test_clients_of_a_cohort_start_and_are_pulled_each_its_own_way(kind, blocks):
    model, data = _net("dscnn", "none"), blocks(5, 17, 9, 1)
    rng = np.random.default_rng(0)

    def moved(scale):
        return {name: w + scale * rng.standard_normal(w.shape) for name, w in state(model).items()}

    drifts = [{name: 0.1 * rng.standard_normal(w.shape) for name, w in state(model).items()} for _ in data]
    del drifts[1]["layers.0.weight"]
    asked = [Train(moved(0.1), SETTINGS[kind], moved(0.1), drift) for drift in drifts]
    asked[3] = Train(moved(0.1), SETTINGS[kind])
    together = VectorisedTrainer(model).train_cohort(asked, _tasks(data))
    for update, request, task in zip(together, asked, _tasks(data), strict=True):
        assert _same(update, TorchTrainer(model).train(request, task), 1e-9)


def test_a_step_goes_along_gradient_plus_pull_to_the_anchor_plus_drift(blocks):
    """Torch's optimiser over the loss with mu / 2 |w - anchor|^2 + drift w added, differentiated by autograd."""
    model, (data,) = _net("mlp", "none"), blocks(12)
    rng = np.random.default_rng(1)
    anchor, drift = ({name: rng.standard_normal(w.shape) for name, w in state(model).items()} for _ in range(2))
    settings = LocalSettings(batch_size=12, epochs=3, learning_rate=0.05, momentum=0.9, proximal_mu=0.3)
    found = TorchTrainer(model).train(Train(state(model), settings, anchor, drift), _tasks([data])[0])
    theirs = copy.deepcopy(model)
    optimiser = torch.optim.SGD(theirs.parameters(), 0.05, 0.9)
    x, y = torch.from_numpy(data.x).double(), torch.from_numpy(data.y)
    for _ in range(3):
        optimiser.zero_grad()
        loss = F.cross_entropy(theirs(x), y)
        for name, p in theirs.named_parameters():
            pull = 0.15 * ((p - torch.from_numpy(anchor[name])) ** 2).sum()
            loss = loss + pull + (torch.from_numpy(drift[name]) * p).sum()
        loss.backward()
        optimiser.step()
    assert all(np.allclose(found.arrays[name], p.detach().numpy(), atol=1e-9) for name, p in theirs.named_parameters())
    assert found.steps == 3


def test_a_pull_that_is_not_of_the_network_is_refused(blocks):
    model, data = _net("mlp", "none"), blocks(5)
    weights = state(model)
    first = next(iter(weights))
    for asked, message in (
        (Train(weights, LocalSettings(), anchor={}), "anchor is not of this network"),
        (Train(weights, LocalSettings(), drift={"other": weights[first]}), "drift is not of this network"),
        (Train(weights, LocalSettings(), drift={first: weights[first].ravel()}), "drift is not of this network"),
        (Train(weights, LocalSettings("clipped-sum"), drift={first: weights[first]}), "without drift"),
    ):
        for train in (TorchTrainer(model).train, lambda a, t: VectorisedTrainer(model).train_cohort([a], [t])):
            with pytest.raises(TrainingError, match=message):
                train(asked, _tasks(data)[0])


SPIKING = {
    "qcfs": Model(name="dscnn", activation="qcfs", arguments={"channels": [8, 8]}),
    "spiking-cnn": Model(name="spiking-cnn", norm="weight-standardised", arguments={"channels": [4, 6]}),
    "spiking-mlp": Model(name="spiking-mlp", arguments={"hidden": [12, 9], "current_decay": 0.5}),
}


@pytest.mark.parametrize("kind", ["plain", "momentum and proximal term"])
@pytest.mark.parametrize("name", SPIKING)
def test_spiking_networks_and_qcfs_are_vectorised_too(name, kind, blocks):
    model = build(SPIKING[name], (1, 8, 8), 10, 0).double()
    assert obstacle(build(SPIKING[name], (1, 8, 8), 10, 0), (1, 8, 8), 10) is None
    data, weights = blocks(5, 17, 9), state(model)
    together = VectorisedTrainer(model).train_cohort([Train(weights, SETTINGS[kind])] * len(data), _tasks(data))
    for update, task in zip(together, _tasks(data), strict=True):
        assert _same(update, TorchTrainer(model).train(Train(weights, SETTINGS[kind]), task), 1e-9)
        assert any(not np.allclose(update.arrays[name], weights[name]) for name in weights)


@pytest.mark.parametrize("name", SPIKING)
def test_a_spiking_networks_clipped_sum_is_that_of_autograd(name, blocks):
    """All time steps of a layer are one product: nobody may take each for an example of its own."""
    model, (examples,) = build(SPIKING[name], (1, 8, 8), 10, 0).double(), blocks(7)
    settings = LocalSettings(work="clipped-sum", sample_rate=1.0, clip=0.05)
    (together,) = VectorisedTrainer(model).train_cohort([Train(state(model), settings)], _tasks([examples]))
    alone = TorchTrainer(model).train(Train(state(model), settings), _tasks([examples])[0])
    wanted = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y in zip(examples.x, examples.y, strict=True):
        model.zero_grad()
        F.cross_entropy(model(torch.from_numpy(x[None]).double()), torch.tensor([y])).backward()
        norm = torch.sqrt(sum(p.grad.square().sum() for p in model.parameters()))
        for name, parameter in model.named_parameters():
            wanted[name] += parameter.grad * min(1.0, 0.05 / float(norm + 1e-6))
    for update in (together, alone):
        assert all(np.allclose(update.arrays[name], tensor.numpy(), atol=1e-9) for name, tensor in wanted.items())


def test_layers_without_a_rule_of_ours_are_vectorised_too(blocks):
    model, data = Odd().double(), blocks(5, 8)
    weights = state(model)
    for settings in (SETTINGS["plain"], SETTINGS["clipped sum"]):
        for update, task in zip(
            VectorisedTrainer(model).train_cohort([Train(weights, settings)] * len(data), _tasks(data)),
            _tasks(data),
            strict=True,
        ):
            assert _same(update, TorchTrainer(model).train(Train(weights, settings), task), 1e-10)


def test_a_small_memory_bound_changes_nothing_but_the_chunks(blocks):
    model, data = _net("dscnn", "none"), blocks(5, 17, 9, 1, 4)
    weights = state(model)
    for kind in ("plain", "dp-sgd"):
        whole, chunked = (
            VectorisedTrainer(model, size).train_cohort([Train(weights, SETTINGS[kind])] * len(data), _tasks(data))
            for size in (1 << 30, 1)
        )
        assert all(_same(a, b, 1e-10) for a, b in zip(whole, chunked, strict=True))


def test_training_alone_is_torchs_own_sgd(blocks):
    model, (data,) = _net("mlp", "none"), blocks(10)
    settings = LocalSettings(epochs=3, batch_size=4, learning_rate=0.1, momentum=0.8)
    update = TorchTrainer(model).train(Train(state(model), settings), _tasks([data])[0])
    own = copy.deepcopy(model)
    optimiser = torch.optim.SGD(own.parameters(), 0.1, 0.8)
    for indices in batches.shuffled(10, 4, 3, np.random.default_rng(0)):
        optimiser.zero_grad()
        F.cross_entropy(own(torch.from_numpy(data.x[indices]).double()), torch.from_numpy(data.y[indices])).backward()
        optimiser.step()
    assert all(np.array_equal(update.arrays[name], array) for name, array in state(own).items())


@pytest.mark.parametrize(("name", "norm"), NETS)
def test_a_clipped_sum_is_the_sum_of_autograds_clipped_gradients(name, norm, blocks):
    model, (data,) = _net(name, norm), blocks(6)
    settings = LocalSettings(work="clipped-sum", sample_rate=1.0, clip=0.7)
    (update,) = VectorisedTrainer(model).train_cohort([Train(state(model), settings)], _tasks([data]))
    expected = {name: np.zeros_like(array) for name, array in state(model).items()}
    for x, y in zip(data.x, data.y, strict=True):
        loss = F.cross_entropy(model(torch.from_numpy(x[None]).double()), torch.tensor([y]))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norm_of_all = torch.sqrt(sum((g**2).sum() for g in gradients))
        for key, gradient in zip(expected, gradients, strict=True):
            expected[key] += (gradient * min(1.0, 0.7 / (norm_of_all + 1e-6))).numpy()
    assert all(np.allclose(update.arrays[key], expected[key], atol=1e-12) for key in expected)


def test_a_dp_sgd_step_without_noise_is_opacus_step(blocks):
    (data,) = blocks(12)
    model = build(Model(norm="group"), (1, 8, 8), 10, seed=1)
    settings = LocalSettings(work="dp-sgd", steps=1, sample_rate=1.0, clip=0.4, learning_rate=0.3)
    (update,) = VectorisedTrainer(model).train_cohort([Train(state(model), settings)], _tasks([data]))
    loader = DataLoader(TensorDataset(torch.from_numpy(data.x), torch.from_numpy(data.y)), batch_size=12)
    theirs = copy.deepcopy(model).train()
    wrapped, optimiser, loader = PrivacyEngine().make_private(
        module=theirs,
        optimizer=torch.optim.SGD(theirs.parameters(), 0.3),
        data_loader=loader,
        noise_multiplier=0.0,
        max_grad_norm=0.4,
        poisson_sampling=False,
    )
    for x, y in loader:
        F.cross_entropy(wrapped(x), y).backward()
        optimiser.step()
    for name, parameter in theirs.named_parameters():
        assert np.allclose(update.arrays[name], parameter.detach().numpy(), atol=1e-6), name


def test_local_noise_has_the_deviation_of_the_plan(blocks):
    model, (data,) = _net("mlp", "none"), blocks(20)
    quiet, noisy = (
        LocalSettings(work="dp-sgd", sample_rate=0.5, clip=2.0, noise_multiplier=n, learning_rate=1.0) for n in (0, 3)
    )
    (a,), (b,) = (
        VectorisedTrainer(model).train_cohort([Train(state(model), settings)], _tasks([data]))
        for settings in (quiet, noisy)
    )
    noise = np.concatenate([(b.arrays[k] - a.arrays[k]).ravel() for k in a.arrays])
    # One step: learning rate * multiplier * clip / expected batch.
    assert noise.std() == pytest.approx(3 * 2.0 / (0.5 * 20), rel=0.03)


def test_a_client_whose_numbers_explode_harms_no_other(blocks):
    data = blocks(6, 6, 6)
    data[1].x[:] = 1e30
    model = build(Model(), (1, 8, 8), 10, 0)
    settings = LocalSettings(batch_size=2, learning_rate=0.1)
    updates = VectorisedTrainer(model).train_cohort([Train(state(model), settings)] * len(data), _tasks(data))
    finite = [all(np.isfinite(array).all() for array in update.arrays.values()) for update in updates]
    assert finite == [True, False, True]
    alone = TorchTrainer(model).train(Train(state(model), settings), _tasks(data)[2])
    assert _same(updates[2], alone, 1e-5)


def test_a_module_with_dropout_trains_alike_each_time(blocks):
    (data,) = blocks(12)
    model = Dropping()
    settings = LocalSettings(batch_size=4)
    one, same = (TorchTrainer(model).train(Train(state(model), settings), _tasks([data])[0]) for _ in range(2))
    assert all(np.array_equal(one.arrays[name], same.arrays[name]) for name in one.arrays)


def test_a_module_with_batch_norm_gives_its_statistics_beside_its_weights(blocks):
    (data,) = blocks(12)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    held = state(model)
    weights = {name: held[name] for name, _ in model.named_parameters()}
    asked = Train(weights, LocalSettings(batch_size=4), buffers={name: held[name] for name in held.keys() - weights})
    update = TorchTrainer(model).train(asked, _tasks([data])[0])
    assert update.arrays.keys() == weights.keys()
    assert update.buffers["2.num_batches_tracked"].shape == ()
    assert update.buffers["2.num_batches_tracked"] == 3


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Recurrent(), "it cannot be done so"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)), "it keeps '2.running_mean' from the data"),
    ],
)
def test_what_cannot_be_vectorised_is_known_beforehand_and_says_why(module, reason):
    assert reason in (obstacle(module, (1, 8, 8), 10) or "")


def test_a_last_batch_of_one_joins_the_one_before_it():
    drawn = batches.shuffled(9, 4, 2, np.random.default_rng(0), least_batch=2)
    assert [len(batch) for batch in drawn] == [4, 5, 4, 5]
    assert [len(batch) for batch in batches.shuffled(9, 4, 1, np.random.default_rng(0))] == [4, 4, 1]
    assert [len(batch) for batch in batches.shuffled(1, 4, 1, np.random.default_rng(0), least_batch=2)] == [1]
    assert sorted(np.concatenate(drawn[:2]).tolist()) == list(range(9))
    assert all(
        np.array_equal(one, same)
        for one, same in zip(
            batches.shuffled(8, 4, 2, np.random.default_rng(1)),
            batches.shuffled(8, 4, 2, np.random.default_rng(1), 2),
            strict=True,
        )
    )


@pytest.mark.parametrize(("name", "norm"), NETS)
def test_the_zoo_can_be_vectorised(name, norm):
    model = build(Model(name=name, norm=norm, arguments=SMALL.get(name, {})), (1, 8, 8), 10, 0)
    assert obstacle(model, (1, 8, 8), 10) is None


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (5, 4)])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 3)])
def test_shifted_depthwise_is_torchs_convolution_and_gradient(stride, size, kernel):
    padding = (kernel[0] // 2, kernel[1] // 2)
    x = torch.randn(2, 6, *size, dtype=torch.float64, requires_grad=True)
    w = torch.randn(6, 1, *kernel, dtype=torch.float64, requires_grad=True)
    ours = shifted_depthwise(x, w, stride, padding)
    theirs = F.conv2d(x, w, None, stride, padding, 1, 6)
    assert torch.allclose(ours, theirs, atol=1e-12)
    seed = torch.randn_like(theirs)
    for a, b in zip(torch.autograd.grad(ours, (x, w), seed), torch.autograd.grad(theirs, (x, w), seed), strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_poisson_batches_take_each_example_at_the_rate():
    drawn = batches.poisson(1000, 0.3, 200, np.random.default_rng(0))
    counts = np.bincount(np.concatenate(drawn), minlength=1000)
    assert counts.mean() == pytest.approx(60, rel=0.02)
    assert counts.std() == pytest.approx(np.sqrt(200 * 0.3 * 0.7), rel=0.1)


def test_shuffled_batches_hold_every_example_once_an_epoch():
    drawn = batches.shuffled(10, 4, 2, np.random.default_rng(0))
    assert [len(indices) for indices in drawn] == [4, 4, 2, 4, 4, 2]
    assert sorted(np.concatenate(drawn[:3]).tolist()) == list(range(10))


OPTIMISERS = {
    "weight decay": {"weight_decay": 0.1, "momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "adam": {"optimiser": "adam", "learning_rate": 0.01, "weight_decay": 0.01},
    "adamw": {"optimiser": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
    "clipped": {"gradient_clip": 0.3},
    "clipped adam and fedprox": {"optimiser": "adam", "gradient_clip": 0.3, "proximal_mu": 0.5},
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_of_a_cohort_are_torchs(name, blocks):
    model, data = _net("mlp", "none").double(), blocks(17, 9, 5)
    weights, settings = state(model), LocalSettings(epochs=2, batch_size=4, **OPTIMISERS[name])
    together = VectorisedTrainer(model).train_cohort([Train(weights, settings)] * 3, _tasks(data))
    for update, task in zip(together, _tasks(data), strict=True):
        assert _same(update, TorchTrainer(model).train(Train(weights, settings), task), 1e-10)
    plain = replace(settings, optimiser="sgd", nesterov=False, weight_decay=0.0, gradient_clip=0.0)
    assert not _same(together[0], TorchTrainer(model).train(Train(weights, plain), _tasks(data)[0]), 1e-6)


def test_adam_is_torchs_own_over_a_clients_batches(blocks):
    """Held against a loop that anybody would write."""

    model, (data,) = copy.deepcopy(_net("mlp", "none")).float(), blocks(12)
    settings = LocalSettings(batch_size=4, optimiser="adamw", learning_rate=0.02, weight_decay=0.1, gradient_clip=0.5)
    own = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(own.parameters(), 0.02, weight_decay=0.1)
    for indices in batches.draw(12, settings, _tasks([data])[0].batches_rng):
        optimiser.zero_grad()
        F.cross_entropy(own(torch.from_numpy(data.x[indices])), torch.from_numpy(data.y[indices])).backward()
        torch.nn.utils.clip_grad_norm_(own.parameters(), 0.5)
        optimiser.step()
    for trained in (
        TorchTrainer(model).train(Train(state(model), settings), _tasks([data])[0]),
        VectorisedTrainer(model).train_cohort([Train(state(model), settings)], _tasks([data]))[0],
    ):
        assert all(np.allclose(trained.arrays[name], w, atol=1e-6) for name, w in state(own).items())


def test_private_steps_are_of_plain_sgd(blocks):
    model, (data,) = _net("mlp", "none"), blocks(12)
    for work in ("dp-sgd", "clipped-sum"):
        with pytest.raises(TrainingError, match="private steps are of plain SGD: the round's optimiser"):
            TorchTrainer(model).train(Train(state(model), LocalSettings(work, optimiser="adam")), _tasks([data])[0])


def test_schedules_are_torchs():
    from edgekit.clients.settings import Training

    rounds, dummy = 10, torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(dummy, rounds)
    wanted = []
    for _ in range(rounds):
        wanted.append(dummy.param_groups[0]["lr"])
        dummy.step()
        cosine.step()
    training = Training(learning_rate=0.4, schedule="cosine")
    assert [training.rate(number, rounds) for number in range(1, 11)] == pytest.approx(wanted)
    stepped = Training(learning_rate=0.4, schedule="step", step_rounds=3, step_factor=0.1)
    assert [stepped.rate(number, rounds) for number in (1, 3, 4, 7)] == pytest.approx([0.4, 0.4, 0.04, 0.004])
    warm = Training(learning_rate=0.4, warm_up=4, schedule="cosine")
    assert [warm.rate(number, rounds) for number in (1, 2, 4, 5)] == pytest.approx([0.1, 0.2, 0.4, 0.4])
    assert 0 < warm.rate(10, rounds) < 0.05
    assert Training(learning_rate=0.4).rate(9, rounds) == 0.4
