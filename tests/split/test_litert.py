"""A device's parts in LiteRT: held against the same parts in torch, and against the whole network's training."""

import numpy as np
import pytest

from edgekit.algorithms.interactive import steps
from edgekit.algorithms.split.device import Device
from edgekit.algorithms.split.line import DirectLine
from edgekit.algorithms.split.server import split_cohort
from edgekit.algorithms.split.settings import Split
from edgekit.clients import LocalSettings, LocalTask, Train
from edgekit.clients.litert_parts import LiteRTDevice
from edgekit.clients.torch_trainer import TorchTrainer, state
from edgekit.data import Examples
from edgekit.errors import DataError, ExportError, ModelError, TrainingError
from edgekit.export.training.file import training_file
from edgekit.export.training.split_file import split_file
from edgekit.export.training.steps import Options
from edgekit.models import build
from edgekit.models.settings import Model

NETWORKS = {
    "dscnn": (Model(name="dscnn", norm="group", width=0.5), "layers.3"),
    "mlp": (Model(name="mlp"), "layers.2"),
}
WORK = LocalSettings(batch_size=8, epochs=2, learning_rate=0.1, momentum=0.9, proximal_mu=0.1)


LONG = [pytest.param(case, marks=pytest.mark.long) for case in (("dscnn", "server"), ("mlp", "device"))]


@pytest.fixture(scope="module", params=[("dscnn", "device"), ("mlp", "server"), *LONG], ids="-".join)
def made(request, digits):
    """A network, how it is cut, and its device without torch."""
    name, labels = request.param
    settings, cut = NETWORKS[name]
    model = build(settings, (1, 8, 8), 10, 0)
    split = Split(cut=cut, labels=labels)
    plan = split_cohort(split, model, digits).plan
    parts = plan.device
    content, error = split_file(
        parts.bottom, parts.tail, (1, 8, 8), plan.terms.crossing, 10, Options(batch=8, private=False), {}
    )
    assert error < 1e-5
    return model, split, LiteRTDevice(content)


def _task(block):
    return LocalTask(block, np.random.default_rng(1), np.random.default_rng(2))


def test_the_parts_train_as_torch_does_in_one_piece(made, blocks, digits):
    model, split, device = made
    (block,) = blocks(21)  # the last batch of an epoch is not full
    trainer = split_cohort(split, model, digits)
    trainer.server.begin(state(model), WORK, 0)
    line = DirectLine(lambda message: trainer.server.answer(0, message), "float32")
    ours = Device(device, trainer.plan.terms, state(model), _task(block), WORK)
    device.check(state(model), block, WORK)
    for _ in steps(ours.exchanges(), line):
        pass
    update = ours.update()
    theirs = TorchTrainer(model).train(Train(state(model), WORK), _task(block))
    arrays = update.arrays | trainer.server.weights(0)
    assert arrays.keys() == theirs.arrays.keys()
    for name in arrays:
        assert np.allclose(arrays[name], theirs.arrays[name], rtol=1e-4, atol=1e-5), name
    assert update.loss == pytest.approx(theirs.loss, rel=1e-4)


def test_a_window_leaves_batches_under_way_their_weights(made, blocks, digits):
    model, split, device = made
    (block,) = blocks(40)
    split = split.model_copy(update={"window": 4})
    found = []
    for kind in ("litert", "torch"):
        trainer = split_cohort(split, model, digits)
        trainer.server.begin(state(model), WORK, 0)
        line = DirectLine(lambda message, trainer=trainer: trainer.server.answer(0, message), "float32")
        by = device if kind == "litert" else trainer.plan.device
        one = Device(by, trainer.plan.terms, state(model), _task(block), WORK)
        for _ in steps(one.exchanges(), line):
            pass
        found.append(one.update().arrays)
    for name in found[0]:
        assert np.allclose(found[0][name], found[1][name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("name", ["mlp", pytest.param("dscnn", marks=pytest.mark.long)])
def test_private_steps_are_those_of_torch(name, blocks, digits):
    """Clipped, in pieces where a Poisson batch is larger than the file's, and with the noise of the same draws."""
    settings, cut = NETWORKS[name]
    model = build(settings, (1, 8, 8), 10, 0)
    trainer = split_cohort(Split(cut=cut), model, digits)
    parts = trainer.plan.device
    content, error = split_file(
        parts.bottom, parts.tail, (1, 8, 8), trainer.plan.terms.crossing, 10, Options(batch=8, private=True), {}
    )
    assert error < 1e-5
    device = LiteRTDevice(content)
    (block,) = blocks(21)
    broken = Examples(block.x.copy(), block.y)
    broken.x[3] = np.nan
    for data, work in (
        (block, LocalSettings(work="dp-sgd", steps=3, clip=0.3, noise_multiplier=1e-30, momentum=0.9)),
        (block, LocalSettings(work="dp-sgd", steps=3, sample_rate=0.05, clip=0.3, noise_multiplier=1e-30)),
        (block, LocalSettings(work="local-dp", batch_size=8, epochs=2, clip=0.3, noise_multiplier=1e-30)),
        (broken, LocalSettings(work="dp-sgd", steps=2, clip=0.3, noise_multiplier=1e-30)),
    ):
        found = []
        for by in (device, parts):
            by.check(state(model), data, work)
            trainer.server.begin(state(model), work, 0, [21])
            line = DirectLine(lambda message: trainer.server.answer(0, message), "float32")
            one = Device(by, trainer.plan.terms, state(model), _task(data), work)
            for _ in steps(one.exchanges(), line):
                pass
            update = one.update()
            assert update.loss is None
            found.append(update.arrays)
        for weight in found[0]:
            assert np.allclose(found[0][weight], found[1][weight], rtol=1e-4, atol=1e-5), weight
    noisy = LocalSettings(work="local-dp", batch_size=21, epochs=1, clip=0.3, noise_multiplier=5.0, learning_rate=1.0)
    trainer.server.begin(state(model), noisy, 0)
    line = DirectLine(lambda message: trainer.server.answer(0, message), "float32")
    with pytest.raises(TrainingError, match="batches of at most 8"):
        device.check(state(model), block, noisy)
    small = Examples(block.x[:8], block.y[:8])
    one = Device(device, trainer.plan.terms, state(model), _task(small), noisy)
    for _ in steps(one.exchanges(), line):
        pass
    moved = [(array - state(model)[weight]).ravel() for weight, array in one.update().arrays.items()]
    assert 8 * np.concatenate(moved).std() == pytest.approx(2 * 5.0 * 0.3, rel=0.1)


def test_what_does_not_fit_the_file_is_refused(made, blocks):
    model, _, device = made
    (block,) = blocks(8)
    weights = state(model)
    with pytest.raises(TrainingError, match="batches of at most 8, the round wants 16"):
        device.check(weights, block, LocalSettings(batch_size=16))
    with pytest.raises(TrainingError, match="the training file has plain steps"):
        device.check(weights, block, LocalSettings(work="dp-sgd", batch_size=8))
    with pytest.raises(ModelError, match="not of the training file's network"):
        device.check({name: array for name, array in weights.items() if "bias" in name}, block, WORK)
    with pytest.raises(DataError, match="no examples"):
        device.check(weights, Examples(block.x[:0], block.y[:0]), WORK)


def test_other_files_and_networks_are_refused(digits):
    model = build(NETWORKS["mlp"][0], (1, 8, 8), 10, 0)
    whole, _ = training_file(model, (1, 8, 8), 10, Options(batch=8, private=False), {})
    with pytest.raises(ModelError, match="no training graph of a network that is cut"):
        LiteRTDevice(whole)
    from torch import nn

    normed = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(ExportError, match="mixes the examples"):
        split_file(normed, None, (1, 8, 8), [(4, 6, 6)], 10, Options(batch=8), {})
