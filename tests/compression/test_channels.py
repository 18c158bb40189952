"""Networks that lost channels: smaller for real, still of one piece, and made again from what a run keeps."""

import json

import numpy as np
import pytest
import torch

from edgekit.asks import Train
from edgekit.clients.cohort.trainer import VectorisedTrainer
from edgekit.clients.torch_trainer import TorchTrainer, trained_weights
from edgekit.clients.trainer import LocalTask
from edgekit.compression import channels, narrower
from edgekit.compression.record import rebuilt
from edgekit.errors import ModelError
from edgekit.local_settings import LocalSettings
from edgekit.models import build
from edgekit.models.cost import macs
from edgekit.models.norm import fold_weight_standardisation
from edgekit.models.settings import Model

SMALL = {
    "dscnn": {},
    "mobilenetv2": {"arguments": {"stages": [[1, 8, 1, 1], [4, 12, 2, 2]], "head": 32}},
    "mobilenetv3": {"width": 0.25},
    "efficientnet": {"arguments": {"stages": [[1, 3, 8, 1, 1], [4, 3, 12, 1, 2]], "stem": 8, "head": 32}},
    "keyword-dscnn": {"width": 0.25},
    "ode": {"width": 0.5},
    "exits": {},
    "gated": {},
    "mlp": {},
}
QUICK = ("dscnn", "exits", "mobilenetv2")
SHAPE = (1, 16, 16)


def _network(name, norm="weight-standardised"):
    return build(Model(name=name, norm=norm, **SMALL[name]), SHAPE, 10, 0)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in SMALL]
)
def test_a_network_of_the_zoo_loses_half_of_its_work_and_trains_on(name, blocks):
    model = fold_weight_standardisation(_network(name))
    made, history = channels.cut(model, SHAPE, 0.5)
    assert macs(made, SHAPE) <= 0.5 * macs(model, SHAPE)
    assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in model.parameters())
    record = json.loads(json.dumps([{"step": "fold"}, {"step": "channels", "history": history}]))
    again = rebuilt(_network(name), SHAPE, record)
    again.load_state_dict(made.state_dict())
    x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.eval()(x), made.eval()(x))
    each = blocks(6, 4, shape=SHAPE)

    def tasks():
        return [LocalTask(block, np.random.default_rng(1), np.random.default_rng(2)) for block in each]

    for work in (LocalSettings(batch_size=4), LocalSettings("clipped-sum", sample_rate=0.9, clip=0.5)):
        asked = Train(trained_weights(made), work)
        together = VectorisedTrainer(made).train_cohort([asked] * 2, tasks())
        alone = TorchTrainer(made).train(asked, tasks()[0])
        for name_of, array in alone.arrays.items():
            np.testing.assert_allclose(together[0].arrays[name_of], array, rtol=1e-3, atol=2e-5)


def test_what_goes_are_the_channels_of_smallest_norm():
    """Of a plain chain, beside numpy: the rows of a layer and the columns of the next, weighed together."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 12, bias=False), torch.nn.ReLU(), torch.nn.Linear(12, 3, bias=False))
    rows = model[0].weight.detach().numpy().astype(np.float64)
    columns = model[2].weight.detach().numpy().astype(np.float64)
    made, history = channels.cut(model, (6,), 0.6)
    importance = ((rows**2).sum(1) + (columns**2).sum(0)) / 2
    kept = np.array([row in made[0].weight.detach().tolist() for row in rows.astype(np.float32).tolist()])
    assert 0 < kept.sum() < 12
    assert importance[kept].min() > importance[~kept].max()
    assert history


def test_layers_that_shall_stay_do():
    model = fold_weight_standardisation(_network("dscnn"))
    first = next(name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Conv2d))
    made, _ = channels.cut(model, SHAPE, 0.6, [first])
    assert made.get_submodule(first).weight.shape == model.get_submodule(first).weight.shape


@pytest.mark.parametrize(("name", "share", "told"), [("shufflenet", 0.5, "cannot be cut"), ("s4d", 0.3, "can be cut")])
def test_what_cannot_be_cut_is_said_with_the_remedy(name, share, told):
    shape = (1, 16, 16) if name == "shufflenet" else (12, 8)
    with pytest.raises(ModelError, match=told) as error:
        channels.cut(fold_weight_standardisation(build(Model(name=name), shape, 10, 0)), shape, share)
    assert "prune" in str(error.value)


OTHERS = {
    "shufflenet": (1, 16, 16), "capsule": (1, 16, 16), "experts": (1, 16, 16), "vit": (1, 16, 16),
    "mixer": (1, 16, 16), "gru": (12, 8), "mingru": (12, 8), "s4d": (12, 8), "ssd": (12, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", list(OTHERS))
def test_what_cannot_be_cut_by_importance_is_built_narrower(name):
    shape = OTHERS[name]
    model = fold_weight_standardisation(build(Model(name=name), shape, 10, 0))
    made, width = narrower.cut(model, shape, 0.4, [])
    assert macs(made, shape) <= 0.4 * macs(model, shape)
    again = rebuilt(model, shape, [{"step": "narrower", "width": width}])
    held = dict(model.named_parameters())
    for (part, parameter), other in zip(made.named_parameters(), again.parameters(), strict=True):
        assert parameter.shape == other.shape
        assert torch.equal(parameter, held[part][tuple(slice(0, size) for size in parameter.shape)])
    # Once more: the width is of the network as it was.
    twice, less = narrower.cut(made, shape, 0.6, [{"step": "narrower", "width": width}])
    assert less < width
    assert macs(twice, shape) <= 0.6 * macs(made, shape)


def test_a_network_of_ones_own_without_a_width_cannot():
    with pytest.raises(ModelError, match="not of an experiment's"):
        narrower.cut(torch.nn.Linear(4, 2), (4,), 0.5, [])


@pytest.mark.parametrize(
    "record",
    [
        [{"step": "narrower", "width": 1.5}],
        [{"step": "narrower", "width": "x"}],
        [{"step": "narrower"}],
        [{"step": "channels", "history": [["layers.99", True, [0]]]}],
        [{"step": "channels", "history": 3}],
        [{"step": "sparse", "kept": {"layers.0": "x"}}],
        [{"step": "sparse", "kept": {"nowhere": 3}}],
        [{"step": "melt"}],
        [3],
        "fold",
    ],
)
def test_a_record_of_somebody_elses_is_refused_in_words(record):
    with pytest.raises(ModelError) as error:
        rebuilt(_network("dscnn"), SHAPE, record)
    assert "\n" not in str(error.value)
