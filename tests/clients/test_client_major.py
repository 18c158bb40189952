"""Client-major training against torch, one client at a time."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgekit.asks import Train
from edgekit.clients.client_major.choice import lacks
from edgekit.clients.client_major.trainer import ClientMajorTrainer
from edgekit.clients.torch_trainer import TorchTrainer, trained_weights
from edgekit.clients.trainer import LocalTask
from edgekit.data import Examples
from edgekit.errors import ModelError, TrainingError
from edgekit.local_settings import LocalSettings
from edgekit.models import build
from edgekit.models.norm import WeightStandardisedConv2d
from edgekit.models.settings import Model

IMAGE = (3, 14, 14)
PLAIN = LocalSettings(epochs=2, batch_size=5, learning_rate=0.05)


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(588, 20), nn.Linear(20, 10)
        self.twice = nn.Linear(20, 20)

    def forward(self, x):
        x = F.relu(self.first(x.flatten(1)))
        return self.out(F.relu(self.twice(F.relu(self.twice(x)))))


class Residual(nn.Module):
    """A sum with a ReLU, whose parts others read too."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(c, 24, 3, padding=1) for c in (3, 24, 24))
        self.out = nn.Linear(24, 10)

    def forward(self, x):
        x = F.relu(self.one(x))
        y = self.two(x)
        x = F.relu(x + y)
        return self.out((self.three(x) + y).mean((2, 3)))


def lenet():
    first = [nn.Conv2d(3, 6, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(6, 16, 3, stride=2, padding=1, bias=False)]
    return nn.Sequential(
        *first, nn.ReLU6(), nn.AvgPool2d(3, 1), nn.Flatten(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 10)
    )


def overlapping():
    """Pools whose windows overlap, miss the last line, and are cut at the border; channels of 40."""
    first = [nn.Conv2d(3, 40, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(40, 40, 1), nn.MaxPool2d(2)]
    return nn.Sequential(*first, nn.Conv2d(40, 10, (3, 1), padding=(1, 0)), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def strided():
    """A padded convolution that leaves one pixel."""
    first = [nn.Conv2d(3, 20, 3, stride=14, padding=1), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(20, 20, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(20, 10))


NETWORKS = {
    "strided": strided,
    "mlp": lambda: build(Model(name="mlp"), IMAGE, 10, 0),
    "dscnn": lambda: build(Model(name="dscnn"), IMAGE, 10, 0),
    "cnn": lambda: build(Model(name="cnn"), IMAGE, 10, 0),
    "lenet": lenet,
    "overlapping": overlapping,
    "group": lambda: build(Model(name="dscnn", norm="group"), IMAGE, 10, 0),
    "standardised": lambda: build(Model(name="dscnn", norm="weight-standardised"), IMAGE, 10, 0),
    "tied": Tied,
    "residual": Residual,
}


def blocks(clients=4, shape=IMAGE):
    rng = np.random.default_rng(0)
    sizes = [13 + client % 3 for client in range(clients)]
    return [Examples(rng.random((n, *shape), np.float32), rng.integers(0, 10, n)) for n in sizes]


def tasks(data):
    return [LocalTask(block, np.random.default_rng(i), np.random.default_rng(i)) for i, block in enumerate(data)]


def steps_agree(model, asked, shape=IMAGE, tolerance=2e-5):
    data, start = blocks(len(asked), shape), asked[0].weights
    together = ClientMajorTrainer(model, shape, 10).train_cohort(asked, tasks(data))
    alone = TorchTrainer(model)
    for request, one, task in zip(asked, together, tasks(data), strict=True):
        other = alone.train(request, task)
        assert (one.examples, one.steps) == (other.examples, other.steps)
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        largest = max(float(np.abs(other.arrays[name] - request.weights[name]).max()) for name in start)
        assert largest > 1e-3
        for name in start:
            assert one.arrays[name].shape == start[name].shape
            np.testing.assert_allclose(one.arrays[name], other.arrays[name], rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_are_those_of_torch(name):
    torch.manual_seed(0)
    model = NETWORKS[name]()
    steps_agree(model, [Train(trained_weights(model), PLAIN)] * 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "gradient_clip": 0.5},
        {"proximal_mu": 0.3, "gradient_clip": 1e-3, "learning_rate": 10.0},
        {"own_classes": True, "augment": ("flip", "shift")},
    ],
)
def test_so_are_steps_with_more_to_them(changes):
    torch.manual_seed(0)
    model, rng = lenet(), np.random.default_rng(1)
    own = [{n: w + 0.1 * rng.random(w.shape, np.float32) for n, w in trained_weights(model).items()} for _ in range(3)]
    anchor = trained_weights(model)
    drift = {"7.weight": rng.random((20, 16), np.float32), "3.weight": rng.random((16, 6, 3, 3), np.float32)}
    settings = replace(PLAIN, **changes)
    steps_agree(model, [Train(weights, settings, anchor, drift) for weights in own])


@pytest.mark.parametrize("name", ["lenet", "tied", "group", "standardised", "residual", "strided"])
def test_private_work_is_torchs(name):
    torch.manual_seed(0)
    model = NETWORKS[name]()
    weights = trained_weights(model)
    private = LocalSettings(work="dp-sgd", steps=3, sample_rate=0.4, clip=0.5, noise_multiplier=0.7, momentum=0.5)
    steps_agree(model, [Train(weights, private)] * 3)
    data, asked = blocks(3), Train(weights, LocalSettings(work="clipped-sum", sample_rate=0.8, clip=0.5))
    together = ClientMajorTrainer(model, IMAGE, 10).train_cohort([asked] * 3, tasks(data))
    for one, task in zip(together, tasks(data), strict=True):
        other = TorchTrainer(model).train(asked, task)
        for found in weights:
            np.testing.assert_allclose(one.arrays[found], other.arrays[found], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["lenet", "standardised"])
def test_no_example_moves_a_clipped_sum_further_than_the_bound(name):
    torch.manual_seed(0)
    trainer, rng = ClientMajorTrainer(NETWORKS[name](), IMAGE, 10), np.random.default_rng(0)
    weights = trained_weights(NETWORKS[name]())
    for clip in (1e-3, 0.1, 7.0):
        asked = Train(weights, LocalSettings(work="clipped-sum", sample_rate=1.0, clip=clip))
        data = [Examples(rng.random((1, *IMAGE), np.float32) * 4, rng.integers(0, 10, 1)) for _ in range(8)]
        found = trainer.train_cohort([asked] * 8, tasks(data))
        norms = [np.sqrt(sum(np.square(w, dtype=np.float64).sum() for w in one.arrays.values())) for one in found]
        assert 0.99 * min(clip, 0.1) < max(norms) <= clip
    long = [Examples(np.full((1, *IMAGE), 1e37, np.float32), np.zeros(1, np.int64))]
    tiny = Train(weights, replace(asked.settings, clip=1e-6))
    (one,) = trainer.train_cohort([tiny], tasks(long))
    assert np.sqrt(sum(np.square(w, dtype=np.float64).sum() for w in one.arrays.values())) <= 1e-6
    broken = [Examples(np.full((1, *IMAGE), np.nan, np.float32), np.zeros(1, np.int64))]
    (one,) = trainer.train_cohort([asked], tasks(broken))
    assert all(not w.any() for w in one.arrays.values())


def test_numbers_and_single_examples_are_taken():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 33), nn.ReLU(), nn.Linear(33, 10))
    steps_agree(model, [Train(trained_weights(model), replace(PLAIN, batch_size=1))] * 2, (7,))


def test_bits_depend_neither_on_who_trains_beside_nor_on_threads(monkeypatch):
    torch.manual_seed(0)
    model, data = lenet(), blocks(5)
    asked = Train(trained_weights(model), PLAIN)
    together = ClientMajorTrainer(model, IMAGE, 10).train_cohort([asked] * 5, tasks(data))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    threads = ClientMajorTrainer(model, IMAGE, 10).train_cohort([asked] * 5, tasks(data))
    small = ClientMajorTrainer(model, IMAGE, 10, memory_bytes=1)
    alone = [small.train_cohort([asked], [task])[0] for task in tasks(data)]
    for one, two, three in zip(together, threads, alone, strict=True):
        for name in asked.weights:
            assert one.arrays[name].tobytes() == two.arrays[name].tobytes() == three.arrays[name].tobytes()


def test_private_batches_without_examples_are_taken():
    weights = trained_weights(model := lenet())
    settings = LocalSettings(work="dp-sgd", steps=2, sample_rate=1e-9, noise_multiplier=0.7, augment=("flip",))
    steps_agree(model, [Train(weights, settings)] * 2)


def test_what_is_no_number_stays_none():
    model = lenet()
    data = [Examples(np.full((4, *IMAGE), np.nan, np.float32), np.zeros(4, np.int64))]
    (made,) = ClientMajorTrainer(model, IMAGE, 10).train_cohort([Train(trained_weights(model), PLAIN)], tasks(data))
    assert np.isnan(made.loss)
    assert np.isnan(made.arrays["0.weight"]).any()


class Branching(nn.Module):
    """Reads a convolution's result before and after its ReLU."""

    def __init__(self):
        super().__init__()
        self.one, self.out = nn.Conv2d(3, 16, 3), nn.Linear(16, 10)

    def forward(self, x):
        x = self.one(x)
        return self.out((F.relu(x) + x).mean((2, 3)))


class Bent(WeightStandardisedConv2d):
    """Standardised weights with another gain where it is large."""

    def standardised_weight(self):
        return super().standardised_weight() / self.gain * self.gain.clamp(max=5)


class Scaled(nn.Module):
    """A convolution whose weights are computed, but not standardised."""

    def __init__(self):
        super().__init__()
        self.filters, self.gain = nn.Parameter(torch.rand(10, 3, 14, 14)), nn.Parameter(torch.ones(10, 1, 1, 1))

    def forward(self, x):
        return F.conv2d(x, self.filters * torch.rsqrt(self.gain + 0.1)).flatten(1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 10, 1), nn.GroupNorm(2, 10, affine=False), nn.Flatten()), "without gain"),
        (lambda: Scaled(), "weights that are computed"),
        (lambda: nn.Sequential(Bent(3, 10, 14), nn.Flatten()), "weights that are computed"),
        (Branching, "a ReLU of what other layers read too"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(588, 16), nn.Tanh(), nn.Linear(16, 10)), "tanh has no rule"),
        (lambda: nn.Sequential(nn.Conv2d(3, 10, 3, dilation=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "dilated"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(588, 9)), "its scores are not 10"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(588, 10).requires_grad_(False)), "does not learn"),
    ],
)
def test_a_network_without_rules_is_refused_in_words(make, reason):
    with pytest.raises(ModelError, match=reason):
        ClientMajorTrainer(make(), IMAGE, 10)


def test_work_and_labels_without_rules_are_refused_in_words():
    assert lacks(PLAIN) == ""
    for changes in ({"work": "local-dp"}, {"optimiser": "adam"}):
        assert "client-major training" in lacks(replace(PLAIN, **changes))
    model = lenet()
    trainer, asked = ClientMajorTrainer(model, IMAGE, 10), Train(trained_weights(model), PLAIN)
    for labels in (np.array([0, 10]), np.array([-1, 0]), np.eye(10, dtype=np.float32)[:2]):
        bad = [Examples(np.zeros((2, *IMAGE), np.float32), labels)]
        with pytest.raises(TrainingError, match="numbers of classes"):
            trainer.train_cohort([asked], tasks(bad))


def test_code_compiled_before_a_source_changed_is_not_run(tmp_path):
    (tmp_path / "inner.py").write_text("from numba import njit\n\n@njit\ndef more(x):\n    return x + 1\n")
    (tmp_path / "whole.py").write_text(
        "from functools import partial\nfrom numba import njit\nimport inner\nfrom edgekit.compiled import kept\n\n"
        "@partial(kept, sources=(inner,))\n@njit\ndef run(x):\n    return inner.more(x)\n\n"
        "print(run(1), sum(run.stats.cache_hits.values()))\n"
    )

    def ran():
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept"), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "whole.py"]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    assert [ran(), ran()] == ["2 0\n", "2 1\n"]
    (tmp_path / "inner.py").write_text("from numba import njit\n\n@njit\ndef more(x):\n    return x + 2\n")
    assert [ran(), ran()] == ["3 0\n", "3 1\n"]
