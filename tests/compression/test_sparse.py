"""Sparse layers: which weights stay, and that they train as dense ones with a mask do, whatever trains them."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgekit.asks import Train
from edgekit.clients.cohort.trainer import VectorisedTrainer, obstacle
from edgekit.clients.torch_trainer import TorchTrainer, trained_weights
from edgekit.clients.trainer import LocalTask
from edgekit.compression import sparse
from edgekit.errors import ModelError


def _network():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1), nn.Flatten(), nn.Linear(6 * 64, 10),
    )  # fmt: skip


def _masks(model, sparsity=0.7):
    return sparse.largest(sparse.weights_of(model), sparsity, "global")


def test_magnitudes_are_weighed_as_numpy_weighs_them():
    model = _network()
    weights = {name: weight.numpy() for name, weight in sparse.weights_of(model).items()}
    assert set(weights) == {"4", "6"}  # the others have nine inputs
    relative = {name: abs(w) / np.sqrt((w**2).mean()) for name, w in weights.items()}
    line = np.sort(np.concatenate([size.ravel() for size in relative.values()]))
    line = line[round(0.7 * len(line)) - 1]
    for name, mask in _masks(model).items():
        assert ((relative[name] > line) == mask.numpy()).all()
    for name, mask in sparse.largest(sparse.weights_of(model), 0.7, "layer").items():
        assert int(mask.sum()) == mask.numel() - round(0.7 * mask.numel())
        kept, gone = abs(weights[name])[mask.numpy()], abs(weights[name])[~mask.numpy()]
        assert kept.min() >= gone.max()


def test_two_of_four_neighbours_stay():
    weight = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    mask = sparse.largest({"a": weight, "b": torch.randn(4, 1, 3, 3)}, 0.9, "global", "2:4")
    groups = mask["a"].reshape(5, 4, 4)
    assert (groups.sum(2) == 2).all()
    for size, kept in zip(weight.abs().reshape(-1, 4), groups.reshape(-1, 4), strict=True):
        assert size[kept].min() >= size[~kept].max()
    assert mask["b"].all()  # nine inputs are no fours


def test_the_sparsity_grows_as_zhu_and_gupta_say():
    final, begin, apart, steps = 0.9, 10, 5, 4
    for step in range(1, steps + 1):  # equation 1, with an initial sparsity of none
        when = begin + step * apart
        expected = final + (0 - final) * (1 - (when - begin) / (steps * apart)) ** 3
        assert sparse.cubic(step, steps, final) == pytest.approx(expected)


def test_a_sparse_network_is_the_masked_one_and_its_gradients_are_autograds():
    model, x = _network(), torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    masks = _masks(model)
    made = sparse.sparse(model, masks)
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            masked.get_submodule(name).weight.mul_(mask)
    assert torch.equal(made(x), masked(x))
    assert torch.equal(sparse.dense(made)(x), masked(x))
    F.cross_entropy(made(x), torch.arange(4)).backward()
    F.cross_entropy(masked(x), torch.arange(4)).backward()
    for name, mask in masks.items():
        assert torch.allclose(
            made.get_submodule(name).kept.grad, masked.get_submodule(name).weight.grad[mask], atol=1e-7
        )
    assert sum(p.numel() for p in made.parameters()) == sum(int(m.sum()) for m in masks.values()) + 60 + 60 + 6 + 10
    assert sparse.sparsity_of(made) == pytest.approx(0.7, abs=1e-3)
    assert {name: mask.tolist() for name, mask in sparse.masks_of(made).items()} == {
        name: mask.tolist() for name, mask in masks.items()
    }


def test_a_cohort_trains_it_as_one_after_the_other_and_privately(blocks, settings):
    model = sparse.sparse(_network(), _masks(_network())).double()
    each = blocks(20, 13, 7)
    for block in each:
        block.x.setflags(write=False)
    assert obstacle(model.float(), (1, 8, 8), 10, each[0], settings) is None

    def tasks():
        return [LocalTask(b, np.random.default_rng([1, i]), np.random.default_rng([2, i])) for i, b in enumerate(each)]

    asked = Train(trained_weights(model), settings)
    together = VectorisedTrainer(model).train_cohort([asked] * 3, tasks())
    for task, one in zip(tasks(), together, strict=True):
        alone = TorchTrainer(model).train(asked, task)
        for name, array in alone.arrays.items():
            np.testing.assert_allclose(one.arrays[name], array, rtol=1e-4, atol=2e-6)


def test_a_layer_without_a_weight_left_is_named():
    model = _network()
    with pytest.raises(ModelError, match="layer '4': a layer of zeros alone"):
        sparse.sparse(model, {"4": torch.zeros(6, 6, 3, 3, dtype=torch.bool)})


def test_a_random_mask_has_the_densities_of_the_other():
    masks = _masks(_network())
    drawn = sparse.by_chance(masks, torch.Generator().manual_seed(0))
    assert {name: int(mask.sum()) for name, mask in drawn.items()} == {name: int(m.sum()) for name, m in masks.items()}
    assert not torch.equal(drawn["6"], masks["6"])


@pytest.mark.long
def test_devices_without_torch_train_it():
    from edgekit.export.training.file import training_file
    from edgekit.export.training.steps import Options

    made = sparse.sparse(_network(), _masks(_network()))
    _, error = training_file(made, (1, 8, 8), 10, Options(batch=4, private=True), {})
    assert error < 1e-5
