"""Adapters: against plain numpy, merged again, federated alone or kept at home."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.clients.torch_trainer import state
from edgekit.errors import ModelError
from edgekit.models import build
from edgekit.models.adapters import adapt, merged
from edgekit.models.settings import Model

SHAPE = (1, 8, 8)


def _drawn(model):
    """Give adapters weights that change something."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".adapter." in name:
                p.normal_(generator=torch.Generator().manual_seed(len(name)))
    return model


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_a_linear_layers_adapter(kind):
    """Hu et al. 2022, equation 3; Houlsby et al. 2019, section 2.1."""
    model = nn.Sequential(nn.Linear(5, 7))
    x = torch.randn(4, 5)
    before = model(x).detach().numpy()
    adapt(model, ["0"], kind, 2, 3)
    assert np.allclose(model(x).detach().numpy(), before, atol=1e-6)  # nothing, at first
    _drawn(model)
    w = {name: array.astype(np.float64) for name, array in state(model).items()}
    h = x.numpy() @ w["0.base.weight"].T + w["0.base.bias"]
    if kind == "lora":
        expected = h + x.numpy() @ w["0.adapter.0.weight"].T @ w["0.adapter.1.weight"].T
    else:
        narrow = np.maximum(h @ w["0.adapter.0.weight"].T + w["0.adapter.0.bias"], 0)
        expected = h + narrow @ w["0.adapter.2.weight"].T + w["0.adapter.2.bias"]
    assert np.allclose(model(x).detach().numpy(), expected, atol=1e-5)
    assert not np.allclose(expected, before, atol=0.1)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 4),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, (3, 1), stride=2, bias=False),
        nn.Conv2d(3, 5, 3, dilation=2),
        nn.Conv2d(4, 4, 3, groups=4),
    ],
)
def test_lora_becomes_one_layer_again(layer):
    model = nn.Sequential(copy.deepcopy(layer))
    adapt(model, ["0"], "lora", 2, 0)
    _drawn(model)
    x = torch.randn(2, 6) if isinstance(layer, nn.Linear) else torch.randn(2, layer.in_channels, 9, 9)
    one = merged(model)
    assert torch.allclose(one(x), model(x), atol=1e-5)
    grouped = getattr(layer, "groups", 1) > 1
    assert [type(part).__name__ for part in one] == ["LoRA" if grouped else type(layer).__name__]
    assert merged(nn.Sequential(layer))[0] is layer
    assert "0.adapter.0.weight" in state(model)  # it is a copy that was merged


class Shared(nn.Module):
    """One layer in two places, and its weights in a third."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 5)
        self.b, self.c = self.a, nn.Linear(5, 5)
        self.c.weight = self.a.weight

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


@pytest.mark.parametrize("layers", [["a"], ["a", "b"], ["*"], ["c"]])
def test_layers_that_are_shared_stay_so(layers):
    model = Shared()
    adapt(model, layers, "lora", 2, 0)
    _drawn(model)
    x = torch.randn(3, 5)
    assert torch.allclose(merged(model)(x), model(x), atol=1e-4)
    assert (model.a is model.b) == (layers not in (["a"],))


@pytest.mark.parametrize("name", ["mlp", "dscnn", "cnn", "mobilenetv2", "vit", "gru"])
@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_networks_of_the_zoo_take_adapters(name, kind):
    settings = Model(name=name, adapters=["*"], adapter=kind, rank=2, only=["*.adapter"])
    shape = (12, 6) if name == "gru" else SHAPE
    made, plain = build(settings, shape, 10, 0), build(Model(name=name), shape, 10, 0)
    x = torch.randn(3, *shape)
    assert torch.allclose(made.eval()(x), plain.eval()(x), atol=1e-5)
    trained = [name for name, p in made.named_parameters() if p.requires_grad]
    assert trained
    assert all(".adapter." in name for name in trained)
    assert state(made).keys() == state(build(settings, shape, 10, 0)).keys()


def test_a_layer_that_is_none_is_named():
    with pytest.raises(ModelError, match=r"'layer.1' is no linear layer or convolution; did you mean 'layers.1'"):
        build(Model(name="mlp", adapters=["layer.1"]), SHAPE, 10, 0)


def test_adapters_alone_are_federated(coordinate, make_experiment):
    """What was trained elsewhere stays as it is, and does not travel."""
    chosen = ["model.name=mlp", 'model.adapters=["layers.*"]', 'model.only=["*.adapter"]', "federation.rounds=3"]
    made = coordinate(make_experiment(*chosen))
    first = state(made.model)
    found = made.run().weights
    adapters = [name for name in found if ".adapter." in name]
    assert all((found[name] == first[name]).all() for name in found if name not in adapters)
    assert any((found[name] != first[name]).any() for name in adapters)
    line = json.loads(made.run_folder.metrics.read_text().splitlines()[-1])
    assert line["bytes_up"] == 6 * sum(found[name].nbytes for name in adapters)


def test_adapters_alone_stay_at_home(coordinate, make_experiment):
    chosen = ["model.name=mlp", 'model.adapters=["layers.*"]', "federation.algorithm=personal", "federation.rounds=2"]
    chosen += ['federation.arguments.layers=["*.adapter"]', "data.client_test_fraction=0.25"]
    made = coordinate(make_experiment(*chosen))
    found = made.run().weights
    assert all((array == 0).all() for name, array in found.items() if name.endswith(".adapter.1.weight"))
    line = json.loads(made.run_folder.metrics.read_text().splitlines()[-1])
    assert line["bytes_up"] == 6 * sum(array.nbytes for name, array in found.items() if ".adapter." not in name)
    kept = made.engine._here.clients.states.load(0, 3)["own"]
    assert all(".adapter." in name for name in kept)
    assert any((array != 0).any() for name, array in kept.items() if name.endswith(".adapter.1.weight"))
