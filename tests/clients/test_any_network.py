"""Whatever network comes: what a cohort and private steps do with it is held against plain autograd."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgekit.algorithms.base import Algorithm, Client
from edgekit.asks import Ask, Train, Update
from edgekit.clients.cohort.trainer import VectorisedTrainer, obstacle
from edgekit.clients.halves import leaving, run_halves
from edgekit.clients.torch_trainer import TorchTrainer, state
from edgekit.clients.trainer import LocalTask
from edgekit.data import Examples, batches
from edgekit.errors import EdgekitError, ModelError, TrainingError
from edgekit.local_settings import LocalSettings
from edgekit.models import check_private
from edgekit.models.requirements import mixes, moving_buffers

CLIP = 0.1
SUM = LocalSettings(work="clipped-sum", sample_rate=1.0, clip=CLIP)


class Body(nn.Module):
    """Two layers, with something in between."""

    def __init__(self, between=lambda h: h, hidden=12):
        super().__init__()
        self.a, self.out = nn.Linear(64, hidden), nn.Linear(hidden, 10)
        self.between = between

    def forward(self, x):
        return self.out(torch.tanh(self.between(self.a(torch.flatten(x, 1)))))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.out(torch.tanh(self.b(torch.tanh(self.a(torch.flatten(x, 1))))))


class Unused(Body):
    def __init__(self):
        super().__init__()
        self.aux = nn.Linear(64, 5)


class Frozen(Body):
    def __init__(self):
        super().__init__()
        self.a.requires_grad_(False)


class Rnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.r, self.out = nn.GRU(8, 12, batch_first=True), nn.Linear(12, 10)

    def forward(self, x):
        return self.out(self.r(x.squeeze(1))[0][:, -1])


class Tokens(nn.Module):
    def __init__(self, **how):
        super().__init__()
        self.e, self.out = nn.Embedding(17, 8, **how), nn.Linear(8, 10)

    def forward(self, x):
        return self.out(self.e((x.flatten(1) * 16).long()).mean(1))


class Viewed(nn.Module):
    """As in PyTorch's and Flower's first tutorials."""

    def __init__(self):
        super().__init__()
        self.mean: torch.Tensor
        self.register_buffer("mean", torch.full((1, 1, 1), 0.3))
        self.conv, self.pool, self.out = nn.Conv2d(1, 6, 3), nn.MaxPool2d(2), nn.Linear(54, 10)

    def forward(self, x):
        batch, _, _, _ = x.size()
        x = self.pool(F.relu(self.conv((x - self.mean) / 0.25)))
        x = F.dropout(x, 0.0, training=self.training)
        return self.out(x.view(-1, 54).view(batch, 54)) + 0 * self.conv.weight.data.sum()


def _normed(h):
    return F.batch_norm(h, None, None, training=True)


def _sorted(h):
    return h + torch.sort(h, 0).values


NETWORKS = {
    "plain": Body,
    "mean of the batch taken off": lambda: Body(lambda h: h - h.mean(0)),
    "attention over the batch": lambda: Body(lambda h: torch.softmax(h @ h.T, 1) @ h),
    "sorted over the batch": lambda: Body(_sorted),
    "in place": lambda: Body(lambda h: h.mul_(2).add_(1)),
    "tied": Tied,
    "unused": Unused,
    "frozen": Frozen,
    "recurrent": Rnn,
    "padding row": lambda: Tokens(padding_idx=1),
    "by frequency": lambda: Tokens(scale_grad_by_freq=True),
    "view and constants": Viewed,
    "instance norm": lambda: nn.Sequential(nn.InstanceNorm2d(1), nn.Flatten(), nn.Linear(64, 10)),
}
MIXING = {"mean of the batch taken off", "attention over the batch", "sorted over the batch"}
ALONE = {*MIXING, "recurrent", "by frequency"}


def _made(name):
    torch.manual_seed(0)
    return NETWORKS[name]()


def _examples(size, seed=0):
    rng = np.random.default_rng(seed)
    return Examples(rng.random((size, 1, 8, 8), np.float32), rng.integers(0, 10, size))


def _task(examples):
    return LocalTask(examples, np.random.default_rng(1), np.random.default_rng(2))


def _weights(model):
    held = state(model)
    return {name: held[name] for name, p in model.named_parameters() if p.requires_grad}


def _by_autograd(model, examples):
    """Each example alone through the module, its gradient clipped, all added up."""
    wanted = {name: torch.zeros_like(p) for name, p in model.named_parameters() if p.requires_grad}
    for x, y in zip(examples.x, examples.y, strict=True):
        model.zero_grad()
        F.cross_entropy(model(torch.from_numpy(x[None].copy())), torch.tensor([y])).backward()
        each = {name: p.grad for name, p in model.named_parameters() if name in wanted and p.grad is not None}
        norm = torch.sqrt(sum(gradient.square().sum() for gradient in each.values()))
        for name, gradient in each.items():
            wanted[name] += gradient * min(1.0, CLIP / float(norm + 1e-6))
    return wanted


@pytest.mark.parametrize("name", NETWORKS)
def test_a_clipped_sum_is_that_of_single_examples(name):
    model, examples = _made(name), _examples(9)
    trainer = TorchTrainer(model)
    trainer.check(Train(_weights(model), SUM), examples)
    found = trainer.train(Train(_weights(model), SUM), _task(examples)).arrays
    wanted = _by_autograd(model, examples)
    assert found.keys() == wanted.keys()
    assert all(np.allclose(found[key], wanted[key].numpy(), rtol=1e-3, atol=1e-6) for key in wanted)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_example_moves_a_clipped_sum_by_no_more_than_the_bound(name):
    model, examples = _made(name), _examples(9)
    trainer = TorchTrainer(model)
    whole = trainer.train(Train(_weights(model), SUM), _task(examples)).arrays
    less = trainer.train(Train(_weights(model), SUM), _task(Examples(examples.x[:-1], examples.y[:-1]))).arrays
    moved = np.sqrt(sum(np.square(whole[key] - less[key]).sum() for key in whole))
    assert moved <= CLIP * (1 + 1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cohort_trains_what_it_trains_as_one_alone_does(name):
    model, shape = _made(name), (1, 8, 8)
    for work in ("sgd", "clipped-sum", "dp-sgd"):
        settings = LocalSettings(work=work, batch_size=4, learning_rate=0.3, sample_rate=0.5, clip=CLIP, steps=3)
        reason = obstacle(model, shape, 10, _examples(16, 3), settings)
        assert bool(reason) == (name in ALONE and (work == "sgd" or name not in MIXING)), reason
        if reason:
            continue
        blocks = [_examples(size, size) for size in (9, 5, 4)]
        together = VectorisedTrainer(model).train_cohort([Train(_weights(model), settings)] * 3, map_tasks(blocks))
        for one, block in zip(together, blocks, strict=True):
            alone = TorchTrainer(model).train(Train(_weights(model), settings), _task(block)).arrays
            assert one.arrays.keys() == alone.keys()
            assert all(np.allclose(one.arrays[key], alone[key], rtol=1e-3, atol=2e-6) for key in alone)


def map_tasks(blocks):
    return [_task(block) for block in blocks]


@pytest.mark.parametrize("public", [0, 40])
def test_a_private_step_is_divided_by_the_true_number_or_by_a_public_one(public):
    """Else the noise tells how many examples there are: with a public number 9 and 8 move the weights alike."""
    model = _made("plain")
    settings = replace(SUM, work="dp-sgd", learning_rate=1.0, expected_examples=public)
    for size in (9, 8):
        examples = _examples(size)
        step = {name: -total / (public or size) for name, total in _by_autograd(model, examples).items()}
        weights = _weights(model)
        (together,) = VectorisedTrainer(model).train_cohort([Train(weights, settings)], [_task(examples)])
        for found in (together, TorchTrainer(model).train(Train(weights, settings), _task(examples))):
            assert all(np.allclose(found.arrays[k] - weights[k], step[k].numpy(), atol=2e-6) for k in step)


def test_what_mixes_is_seen():
    x = _examples(9).x
    assert {name for name in NETWORKS if mixes(_made(name), x)} == MIXING
    assert mixes(Body(nn.BatchNorm1d(12)), x)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(12), nn.BatchNorm1d(12, track_running_stats=False)])
def test_batch_norm_goes_one_client_at_a_time_and_is_never_private(layer):
    model, examples = Body(layer), _examples(16)
    settings = LocalSettings(batch_size=4, least_batch=2)
    assert obstacle(model, (1, 8, 8), 10, examples, settings)
    with pytest.raises(ModelError, match="mixes the examples"):
        check_private(model, examples.x)


def test_an_embedding_s_padding_row_stays():
    model, blocks = _made("padding row"), [_examples(size, size) for size in (9, 4)]
    weights, settings = _weights(model), LocalSettings(batch_size=3, learning_rate=0.5)
    for one in VectorisedTrainer(model).train_cohort([Train(weights, settings)] * 2, map_tasks(blocks)):
        assert np.array_equal(one.arrays["e.weight"][1], weights["e.weight"][1])
        assert not np.array_equal(one.arrays["e.weight"], weights["e.weight"])


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.Dropout1d(0.5), nn.Dropout2d(0.4)])
@pytest.mark.parametrize("work", ["sgd", "clipped-sum", "dp-sgd"])
def test_dropout_draws_by_client_alone_and_beside_others(layer, work):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2), layer, nn.Flatten(1), nn.Linear(144, 10))
    if isinstance(layer, nn.Dropout2d):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Flatten(1), nn.Linear(144, 10))
    settings = LocalSettings(work=work, batch_size=4, learning_rate=0.3, sample_rate=0.5, clip=5.0, steps=3)
    assert obstacle(model, (1, 8, 8), 10, _examples(16), settings) is None
    blocks, weights = [_examples(size, size) for size in (9, 6, 3)], _weights(model)
    together = VectorisedTrainer(model).train_cohort([Train(weights, settings)] * 3, map_tasks(blocks))
    for one, block in zip(together, blocks, strict=True):
        alone = TorchTrainer(model).train(Train(weights, settings), _task(block)).arrays
        assert all(np.allclose(one.arrays[key], alone[key], rtol=1e-3, atol=2e-6) for key in alone)
    other = LocalTask(blocks[0], np.random.default_rng(9), np.random.default_rng(2))
    if work != "clipped-sum":
        again = VectorisedTrainer(model).train_cohort([Train(weights, settings)] * 2, [map_tasks(blocks)[0], other])
        same, another = (one.arrays["0.weight"] for one in again)
        assert np.allclose(same, together[0].arrays["0.weight"], atol=2e-6)
        assert not np.allclose(another, together[0].arrays["0.weight"], atol=1e-3)


def test_dropout_drops_its_share_and_keeps_the_mean():
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(64, 10)

        def forward(self, x):
            dropped = F.dropout(torch.ones_like(x.flatten(1)), 0.25, training=True)
            seen.append(dropped.detach().numpy().copy())
            return self.out(x.flatten(1) * dropped)

    model = Watched()
    TorchTrainer(model).train(Train(_weights(model), LocalSettings(batch_size=64)), _task(_examples(128)))
    masks = np.concatenate([mask.ravel() for mask in seen])
    assert np.allclose(np.unique(masks), [0, 4 / 3])
    assert abs((masks == 0).mean() - 0.25) < 0.02
    assert not np.array_equal(seen[0], seen[1])


def test_constants_are_told_from_what_moves():
    x = _examples(9).x
    assert moving_buffers(_made("view and constants"), x) == []
    check_private(_made("view and constants"), x)
    norm = Body(nn.BatchNorm1d(12))
    assert moving_buffers(norm, x) == [
        "between.running_mean",
        "between.running_var",
        "between.num_batches_tracked",
    ]
    tracked = nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ModelError, match="keeps 'running_mean' from the data"):
        check_private(tracked, x)


class Sly(Body):
    """Keeps something once it has seen enough examples: no probe of a few can know."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("kept", torch.zeros(64))

    def forward(self, x):
        if self.training:
            self.seen = self.seen + 0
            if x.sum() > 33:
                self.kept += x.flatten(1).sum(0)
        return super().forward(x)


class Counting(Body):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + self.calls)


class Remembering(Body):
    def __init__(self):
        super().__init__()
        self.memory = []

    def forward(self, x):
        self.memory.append(x.detach().mean())
        return super().forward(x) + torch.stack(self.memory).sum()


class Smoothed(Body):
    def __init__(self):
        super().__init__()
        self.last = torch.zeros(())

    def forward(self, x):
        self.last = 0.5 * self.last + x.mean()
        return super().forward(x) + self.last


class InPlace(Body):
    def __init__(self):
        super().__init__()
        self._held = {"tensor": torch.zeros(()), "array": np.zeros(1)}

    def forward(self, x):
        self._held["tensor"].add_(x.detach().mean())
        self._held["array"] += 1
        return super().forward(x) + self._held["tensor"] + float(self._held["array"][0])


class MovingFrozen(Body):
    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x):
        with torch.no_grad():
            self.level.add_(x.mean())
        return super().forward(x) + self.level


@pytest.mark.parametrize("kind", [Counting, Remembering, Smoothed, InPlace])
def test_what_is_kept_in_plain_python_mixes_no_examples_and_goes_one_at_a_time(kind):
    torch.manual_seed(0)
    model, examples, said = kind(), _examples(9), []
    trainer = TorchTrainer(model, said.append)
    trainer.check(Train(_weights(model), SUM), examples)
    whole = trainer.train(Train(_weights(model), SUM), _task(examples)).arrays
    one = [trainer.train(Train(_weights(model), SUM), _task(Examples(examples.x[i : i + 1], examples.y[i : i + 1])))
           for i in range(9)]  # fmt: skip
    assert all(np.allclose(whole[k], sum(each.arrays[k] for each in one), atol=1e-6) for k in whole)
    assert any("run one after the other" in line and "keeps" in line for line in said)
    assert "keeps" in obstacle(model, (1, 8, 8), 10, _examples(16))


def test_a_frozen_parameter_that_forward_moves_is_no_constant():
    model = MovingFrozen()
    assert moving_buffers(model, _examples(9).x) == ["level"]
    with pytest.raises(ModelError, match="keeps 'level' from the data"):
        check_private(model, _examples(9).x)
    assert "keeps 'level'" in obstacle(model, (1, 8, 8), 10, _examples(16))


@pytest.mark.parametrize("names", [["a.weight"], ["between.running_mean"]])
@pytest.mark.parametrize("work", [LocalSettings(update_clip=1.0, update_noise=1.0), replace(SUM, work="dp-sgd")])
def test_a_protected_round_takes_and_gives_no_statistics(names, work):
    """Else whoever asks could have anything by that name, without clip and noise."""
    model = Body(nn.BatchNorm1d(12))
    held, weights = state(model), _weights(model)
    asked = Train(weights, work, buffers={name: held[name] for name in names})
    with pytest.raises(EdgekitError, match="takes no running statistics|mixes the examples"):
        TorchTrainer(model).check(asked, _examples(9))
    with pytest.raises(EdgekitError, match="takes no running statistics"):
        TorchTrainer(model).train(asked, _task(_examples(9)))
    bundles = {"weights": weights, "buffers": {name: held[name] for name in names}}
    ask = Ask(bundles, settings=work)
    ended = run_halves({0: Algorithm().local(ask, Client(9, frozenset(weights)))}, {0: ask}, lambda waiting: {})[0]
    assert "takes no running statistics" in str(ended)
    update = Update({**bundles})
    with pytest.raises(TrainingError, match="do not leave a protected round"):
        leaving(update, ask, Client(9, frozenset(weights)), Algorithm(), [], None, np.random.default_rng)


def test_parameters_are_no_statistics():
    model = Body(nn.BatchNorm1d(12))
    asked = Train(_weights(model), LocalSettings(batch_size=4), buffers={"a.weight": state(model)["a.weight"]})
    with pytest.raises(ModelError, match="these buffers are not of this device's network"):
        TorchTrainer(model).train(asked, _task(_examples(9)))


@pytest.mark.parametrize("trainer", ["cohort", "alone"])
def test_a_private_step_is_divided_by_the_expected_batch_not_by_the_drawn_one(trainer):
    model, examples = _made("plain"), _examples(11)
    settings = replace(SUM, work="dp-sgd", learning_rate=1.0, sample_rate=0.5)
    (drawn,) = batches.draw(11, settings, np.random.default_rng(1))
    assert len(drawn) != 5.5
    step = {n: -total / 5.5 for n, total in _by_autograd(model, Examples(examples.x[drawn], examples.y[drawn])).items()}
    weights, task = _weights(model), _task(examples)
    if trainer == "cohort":
        (found,) = VectorisedTrainer(model).train_cohort([Train(weights, settings)], [task])
    else:
        found = TorchTrainer(model).train(Train(weights, settings), task)
    assert all(np.allclose(found.arrays[n] - weights[n], step[n].numpy(), atol=2e-6) for n in step)


def test_a_buffer_that_changes_late_ends_the_private_round():
    model, calm = Sly(), Examples(np.full((4, 1, 8, 8), 0.01, np.float32), np.zeros(4, np.int64))
    check_private(model, calm.x)
    trainer, settings = TorchTrainer(model), replace(SUM, work="dp-sgd")
    trainer.train(Train(_weights(model), settings), _task(calm))
    loud = Examples(np.ones((4, 1, 8, 8), np.float32), calm.y)
    with pytest.raises(TrainingError, match="'kept' keeps something|in-place arithmetic"):
        trainer.train(Train(_weights(model), settings), _task(loud))


class Broken(Body):
    def forward(self, x):
        if self.training:
            raise RuntimeError("no training\nhere")
        return super().forward(x)


@pytest.mark.parametrize("work", ["sgd", "clipped-sum", "dp-sgd"])
def test_what_cannot_be_trained_is_known_before_anything_is_spent(work):
    model = Broken()
    with pytest.raises(EdgekitError, match="no training here"):
        TorchTrainer(model).check(Train(_weights(model), replace(SUM, work=work)), _examples(4))


def test_a_check_leaves_no_trace():
    model = _made("plain")
    trainer, task = TorchTrainer(model), _task(_examples(9))
    asked = Train(_weights(model), LocalSettings(batch_size=4))
    before, random = state(model), torch.random.get_rng_state()
    trainer.check(asked, task.examples)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(np.array_equal(before[name], array) for name, array in state(model).items())
    fresh = TorchTrainer(model).train(asked, _task(_examples(9)))
    assert np.array_equal(trainer.train(asked, task).arrays["a.weight"], fresh.arrays["a.weight"])
