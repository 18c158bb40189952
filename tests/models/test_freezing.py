"""Training a part of a network: what stays is what it was, in every trainer and in the training graph."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.clients import LocalSettings, LocalTask, Train
from edgekit.clients.cohort.trainer import VectorisedTrainer
from edgekit.clients.torch_trainer import TorchTrainer, state
from edgekit.errors import ModelError
from edgekit.export.training import file as training
from edgekit.export.training.steps import Options, Steps
from edgekit.export.training.tracing import traced
from edgekit.models import build, check_private
from edgekit.models.freezing import train_only
from edgekit.models.settings import Model
from edgekit.neuromorphic.trace import trace

SETTINGS = (
    LocalSettings(epochs=2, batch_size=4, learning_rate=0.05, momentum=0.9),
    LocalSettings(work="dp-sgd", steps=2, sample_rate=0.5, clip=0.5, noise_multiplier=0.8, learning_rate=0.05),
)


class Normed(nn.Module):
    """A body with batch norm, as people bring from elsewhere, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(144, 10)
        self.body(torch.rand(16, 1, 8, 8))  # statistics of something

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def network() -> nn.Module:
    return build(Model(name=f"{__name__}:Normed", only=["head"]), (1, 8, 8), 10, 0)


def test_batch_norm_that_stays_gives_what_it_gave_in_any_batch():
    torch.manual_seed(0)
    model = Normed().eval()
    x = torch.rand(5, 1, 8, 8)
    before = model(x)
    train_only(model, ["head"])
    model.train()
    assert torch.allclose(model(x), before, atol=1e-6)
    assert torch.allclose(torch.cat([model(one) for one in x.split(1)]), before, atol=1e-6)
    check_private(model, x.numpy())


@pytest.mark.parametrize(
    ("norm", "shape"),
    [(nn.BatchNorm1d(3), (4, 3)), (nn.BatchNorm1d(3), (4, 3, 5)), (nn.BatchNorm3d(3, affine=False), (4, 3, 2, 2, 2))],
)
def test_batch_norms_of_other_shapes_stay_too(norm, shape):
    norm(torch.rand(*shape) * 3)
    model = nn.Sequential(nn.Identity(), norm, nn.Flatten(), nn.LazyLinear(2)).eval()
    x = torch.rand(*shape)
    before = model(x)
    train_only(model, ["3"])
    assert torch.allclose(model.train()(x), before, atol=1e-6)


def test_it_has_a_spiking_form(digits):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    )
    model(torch.rand(16, 1, 8, 8))
    x = torch.from_numpy(digits.calibration.x[:20])
    whole = trace(model, (1, 8, 8), x)
    train_only(model, ["4"])
    frozen = trace(model, (1, 8, 8), x)
    for one, other in zip(whole.layers, frozen.layers, strict=True):
        for a, b in zip(one.drive.terms, other.drive.terms, strict=True):
            assert torch.allclose(a.weight, b.weight, atol=1e-6)
        assert torch.allclose(one.drive.bias, other.drive.bias, atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "private"])
def test_trainers_leave_it_as_it_was_and_agree(settings, blocks):
    model = network().double()
    before, data = state(model), blocks(5, 9)
    weights = {name: array for name, array in before.items() if name.startswith("head")}

    def tasks():
        return [LocalTask(b, np.random.default_rng(i), np.random.default_rng(100 + i)) for i, b in enumerate(data)]

    together = VectorisedTrainer(model).train_cohort([Train(weights, settings)] * 2, tasks())
    for update, task in zip(together, tasks(), strict=True):
        alone = TorchTrainer(model).train(Train(weights, settings), task)
        assert set(alone.arrays) == set(update.arrays) == set(weights)
        for name, array in alone.arrays.items():
            assert np.allclose(update.arrays[name], array, rtol=0, atol=1e-9)
            assert not np.array_equal(array, weights[name])
    after = state(model)
    assert all(np.array_equal(after[name], before[name]) for name in before if name not in weights)


def test_the_training_graph_steps_the_head_alone():
    model, options = network().train(), Options(4, 0.5)
    training.check_trainable(model, (1, 8, 8))
    steps = Steps(model, options)
    samples = training._samples(steps, (1, 8, 8), 10)
    right = training.reference(model, options, samples)
    for name in ("train", "train_dp"):
        found = traced(getattr(steps, name), samples[name])(**samples[name])["w"]
        assert np.allclose(found.numpy(), right[name]["w"], rtol=0, atol=1e-6)
    moved = found - samples["train_dp"]["w"]
    assert (moved[-1450:] != 0).all()


@pytest.mark.parametrize(
    ("model", "only", "complaint"),
    [
        (Normed(), ["had"], "model.only 'had' is no layer of the network: it has body, head"),
        (
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), nn.Linear(64, 10)),
            ["2"],
            "layer '1' keeps no statistics",
        ),
    ],
)
def test_what_cannot_stay_or_is_not_there_is_named(model, only, complaint):
    with pytest.raises(ModelError, match=complaint):
        train_only(model, only)


def test_patterns_mean_parameters_by_name():
    model = Normed()
    train_only(model, ["body.0", "*.bias"])
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {"body.0.weight", "body.0.bias", "body.1.bias", "head.bias"}
    assert isinstance(model.body[1], nn.BatchNorm2d)  # one of its parameters learns, so its statistics do
