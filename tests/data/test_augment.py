"""Augmentation: each kind does what it says, by example, and all trainers see the same."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.clients import LocalSettings, LocalTask, Train
from edgekit.clients.cohort.trainer import VectorisedTrainer
from edgekit.clients.torch_trainer import TorchTrainer, state
from edgekit.data.augment import AUGMENTATIONS, Augmenter, check, together
from edgekit.errors import ExperimentError, TrainingError

IMAGES = np.random.default_rng(0).random((40, 2, 16, 12), np.float32) + 1


def changed(kind, x=IMAGES):
    return Augmenter([kind], 3)(x)


def test_flips_are_mirrored_or_as_they_were():
    found = changed("flip")
    flipped = (found == IMAGES[..., ::-1]).all((1, 2, 3))
    assert (flipped | (found == IMAGES).all((1, 2, 3))).all()
    assert 8 < flipped.sum() < 32


@pytest.mark.parametrize("kind", ["crop", "shift"])
def test_what_moves_is_whole_but_for_the_edge(kind):
    found = changed(kind)
    places = set()
    for one, other in zip(found, IMAGES, strict=True):
        down, right = next(
            (down, right)
            for down in ((0,) if kind == "shift" else range(-2, 3))
            for right in range(-2, 3)
            if np.array_equal(one, _moved(other, down, right))
        )
        places.add((down, right))
    assert len(places) > 3


def _moved(x, down, right):
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2)))
    return padded[:, 2 + down : 18 + down, 2 + right : 14 + right]


def test_noise_is_a_twentieth_of_the_examples_spread():
    x = IMAGES * np.arange(1, 41, dtype=np.float32)[:, None, None, None]
    away = (changed("noise", x) - x).reshape(40, -1).std(1) / x.reshape(40, -1).std(1)
    assert away.mean() == pytest.approx(0.05, rel=0.05)
    assert (np.abs(away - 0.05) < 0.01).all()


@pytest.mark.parametrize(("kind", "most"), [("spec", 2 / 16 + 2 / 12), ("cutout", 4 / (16 * 12))])
def test_what_is_hidden_is_the_mean(kind, most):
    found = changed(kind)
    hidden = found != IMAGES
    assert 0 < hidden.mean() <= most + 1e-9 if kind == "cutout" else 0.02 < hidden.mean() < most
    means = np.broadcast_to(IMAGES.mean((1, 2, 3), keepdims=True), IMAGES.shape)
    assert np.allclose(found[hidden], means[hidden])


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_each_client_draws_for_itself(kind):
    sizes = [3, 1, 6]
    cuts = np.split(IMAGES[:10], np.cumsum(sizes)[:-1])
    alone = [Augmenter([kind], seed)(part) for seed, part in enumerate(cuts)]
    everyone = together([kind], IMAGES[:10], [Augmenter([kind], seed) for seed in range(3)], sizes)
    assert np.array_equal(everyone, np.concatenate(alone))
    again = Augmenter([kind], 0)
    assert not np.array_equal(again(cuts[2]), again(cuts[2]))


@pytest.mark.parametrize("work", ["sgd", "dp-sgd", "clipped-sum"])
def test_a_cohort_sees_what_each_client_alone_sees(work, blocks):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).double()
    kinds = ("flip", "crop", "noise", "cutout")
    settings = LocalSettings(work=work, epochs=2, steps=2, batch_size=4, sample_rate=0.5, clip=0.5, augment=kinds)
    data = blocks(5, 9, 1)

    def tasks():
        return [LocalTask(b, np.random.default_rng(i), np.random.default_rng(9 + i)) for i, b in enumerate(data)]

    def trained(settings):
        asked = Train(state(model), settings)
        return [TorchTrainer(model).train(asked, task) for task in tasks()]

    asked = Train(state(model), settings)
    plain = LocalSettings(**{**settings.__dict__, "augment": ()})
    for one, other, unchanged in zip(
        VectorisedTrainer(model).train_cohort([asked] * 3, tasks()), trained(settings), trained(plain), strict=True
    ):
        assert all(np.allclose(one.arrays[k], other.arrays[k], rtol=0, atol=1e-9) for k in one.arrays)
        assert any(not np.allclose(one.arrays[k], unchanged.arrays[k], atol=1e-7) for k in one.arrays)


def test_what_does_not_fit_is_one_line():
    with pytest.raises(
        ExperimentError, match=r"'flip' needs images of \(channels, height, width\); these examples have"
    ):
        check(["noise", "flip"], (12,))
    with pytest.raises(TrainingError, match="unknown augmentation"):
        LocalSettings.from_json('{"augment": ["os.system"]}')
    assert LocalSettings.from_json(LocalSettings(augment=("flip",)).to_json()).augment == ("flip",)
