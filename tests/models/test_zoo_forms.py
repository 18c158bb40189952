"""Each network of the zoo in the forms that it is trained and delivered in, at tiny sizes.

The cohort is held against clients trained alone, the file against torch in LiteRT, the training graph against torch.
"""

import numpy as np
import pytest
import torch

from edgekit.clients import LocalSettings, LocalTask, Train
from edgekit.clients.cohort.trainer import VectorisedTrainer
from edgekit.clients.torch_trainer import TorchTrainer, state
from edgekit.data import Examples
from edgekit.export.convert import to_float32
from edgekit.export.tflite import Subject, as_device, export
from edgekit.export.training.file import training_file
from edgekit.export.training.steps import Options
from edgekit.export.verify import run_examples
from edgekit.models import build
from edgekit.models.efficientnet import EfficientNet
from edgekit.models.mobilenetv3 import MobileNetV3
from edgekit.models.settings import Model

NETWORKS = {
    "mobilenetv3": ({"stages": [[5, 24, 16, True, True, 1]], "head": 16}, (1, 8, 8)),
    "efficientnet": (
        {"stages": [[2, 5, 8, 1, 1]], "stem": 8, "head": 16, "coefficient": 1.0},
        (1, 8, 8),
    ),
    "shufflenet": ({"stages": [[16, 2]], "stem": 8, "head": 16}, (1, 8, 8)),
    "vit": ({"dim": 8, "depth": 1, "heads": 2}, (1, 8, 8)),
    "vit performer": ({"dim": 8, "depth": 1, "heads": 2, "attention": "performer"}, (1, 8, 8)),
    "vit longformer": ({"dim": 8, "depth": 1, "heads": 2, "attention": "longformer"}, (1, 8, 8)),
    "cnn-vit": ({"dim": 16, "depth": 1, "heads": 2}, (1, 8, 8)),
    "mixer": ({"dim": 8, "depth": 1}, (1, 8, 8)),
    "capsule": ({"channels": 8, "kinds": 2, "size": 4, "out": 4}, (1, 8, 8)),
    "ode": ({"channels": 8, "steps": 1}, (1, 8, 8)),
    "experts": ({"channels": [8, 8], "experts": 3, "hidden": 8}, (1, 8, 8)),
    "experts top-1": ({"channels": [8, 8], "experts": 3, "hidden": 8, "gating": "top-1"}, (1, 8, 8)),
    "gated": ({"channels": [8, 8], "blocks": 1}, (1, 8, 8)),
    "s4d": ({"dim": 6, "state": 3, "depth": 1}, (1, 6, 9)),
    "ssd": ({"dim": 8, "state": 3, "depth": 1, "heads": 2}, (6, 9)),
    "gru": ({"hidden": 6}, (1, 6, 5)),
    "mingru": ({"dim": 6, "depth": 1}, (1, 6, 9)),
    "graph gcn": ({"hidden": 8, "depth": 2, "kind": "gcn"}, (7, 10)),
    "graph gat": ({"hidden": 8, "depth": 2, "kind": "gat"}, (7, 10)),
    "keyword-dscnn": ({"channels": 16, "blocks": 2}, (1, 16, 12)),
    "tcn": ({"channels": [8, 16]}, (1, 6, 12)),
    "gru tokens": ({"hidden": 6, "vocabulary": 9}, (5,)),
    "mingru masked": ({"dim": 6, "depth": 1, "masked": True}, (6, 9)),
    "fusion late": ({"dim": 8, "first": [1, 8, 8]}, (70,)),
    "fusion cross-attention": ({"dim": 8, "first": [1, 8, 8], "kind": "cross-attention"}, (70,)),
}
KIN = (
    "efficientnet", "shufflenet", "vit performer", "vit longformer", "experts top-1", "graph gat", "gru tokens",
    "mingru masked", "fusion late",
)  # fmt: skip
"""Networks like another one here."""
SETTINGS = {
    "plain": LocalSettings(epochs=2, batch_size=4, learning_rate=0.05, momentum=0.9),
    "private": LocalSettings(
        work="dp-sgd", steps=2, sample_rate=0.5, clip=0.5, noise_multiplier=0.8, learning_rate=0.05
    ),
}


def _built(name):
    arguments, shape = NETWORKS[name]
    return build(Model(name=name.split()[0], norm="group", arguments=arguments), shape, 10, seed=3), shape


def _as_read(x, name):
    """Return random examples from 0 to 1 as the network reads them."""
    if "tokens" in name:
        return np.floor(9 * x)
    if "masked" in name:
        x[..., 0, :] = 1
        x[1::2, ..., 4:] = 0
    return x


def _tasks(data):
    return [LocalTask(b, np.random.default_rng(i), np.random.default_rng(100 + i)) for i, b in enumerate(data)]


@pytest.mark.parametrize("name", [pytest.param(one, marks=[pytest.mark.long] * (one in KIN)) for one in NETWORKS])
def test_a_cohort_equals_each_client_alone_and_the_file_equals_torch(name, blocks):
    model, shape = _built(name)
    content = to_float32(model, shape)
    x = _as_read(np.random.default_rng(0).random((6, *shape), np.float32), name)
    with torch.no_grad():
        scores = model.eval()(torch.from_numpy(x)).numpy()
    assert np.abs(run_examples(content, as_device(x)).scores - scores).max() <= 1e-5 * max(1.0, np.abs(scores).max())
    model.double()
    data = [Examples(_as_read(one.x, name), one.y) for one in blocks(5, 9, 1, shape=shape)]
    for settings in SETTINGS.values():
        weights = state(model)
        together = VectorisedTrainer(model).train_cohort([Train(weights, settings)] * len(data), _tasks(data))
        for update, task in zip(together, _tasks(data), strict=True):
            alone = TorchTrainer(model).train(Train(weights, settings), task)
            assert all(np.allclose(update.arrays[k], alone.arrays[k], rtol=0, atol=1e-9) for k in alone.arrays)


@pytest.mark.long
@pytest.mark.parametrize("name", NETWORKS)
def test_its_training_graph_takes_torchs_steps_and_int8_agrees(name, tmp_path):
    model, shape = _built(name)
    _, error = training_file(model, shape, 10, Options(4, 0.5), {})
    assert error <= 1e-5
    random = np.random.default_rng(0)
    x = _as_read(random.random((256, *shape), np.float32), name)
    with torch.no_grad():  # examples that it is surest of: nothing trained it, and rounding decides between equals
        best = model.eval()(torch.from_numpy(x)).topk(2, 1).values
    x = x[(best[:, 1] - best[:, 0]).argsort()[:64].numpy()]
    subject = Subject(model, shape, x, None, x, list("0123456789"), None)
    made = export(subject, ["int8"], tmp_path, {}, 0.05)
    assert made["int8"].score >= 0.95


def test_sizes_are_the_papers():
    # With BatchNorm's two numbers a channel, as group norm has them too (the papers' tables give 2.5 M and 5.3 M).
    assert sum(p.numel() for p in MobileNetV3((3, 224, 224), 1000).parameters()) == 2_542_856
    assert sum(p.numel() for p in EfficientNet((3, 224, 224), 1000).parameters()) == 5_288_548


def test_one_coefficient_scales_depth_width_and_resolution():
    # Tan & Le 2019, equation 3: about twice the multiply-adds a step.
    small, large = EfficientNet((3, 64, 64), 10), EfficientNet((3, 64, 64), 10, coefficient=1.0)
    assert large.size == (74, 74)
    assert len(large.layers) > len(small.layers)
    assert sum(p.numel() for p in large.parameters()) > 1.4 * sum(p.numel() for p in small.parameters())


def test_images_are_resized_as_torch_does_it():
    model = EfficientNet((3, 12, 10), 5, coefficient=2.0, stages=[[1, 3, 8, 1, 1]], stem=8, head=8)
    seen = []
    model.layers.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x = torch.rand(2, 3, 12, 10)
    model(x)
    wanted = torch.nn.functional.interpolate(x, (16, 13), mode="bilinear", align_corners=False)
    assert torch.allclose(seen[0], wanted, atol=1e-6)


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("name", ["tcn", "s4d", "ssd", "gru", "mingru"])
def test_a_frame_sees_nothing_later(name, norm):
    arguments, shape = NETWORKS[name]
    model = build(Model(name=name, norm=norm, arguments=arguments), shape, 10, seed=3)
    frames = torch.rand(1, shape[-1], 6)
    changed = frames.clone()
    changed[:, 3:] = 0.0
    one, other = model.over_time(frames), model.over_time(changed)
    assert torch.allclose(one[:, :3], other[:, :3], atol=1e-6)
    assert not torch.allclose(one[:, 3:], other[:, 3:])
