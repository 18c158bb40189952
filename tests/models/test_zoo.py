"""The zoo: shapes, no BatchNorm, widths, clear errors; weight standardisation and its folding."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit import objectives
from edgekit.errors import ExperimentError, ModelError
from edgekit.models import batch_norms, build, check_private
from edgekit.models.kinds import aim_of
from edgekit.models.mobilenetv2 import MobileNetV2
from edgekit.models.norm import WeightStandardisedConv2d, fold_weight_standardisation
from edgekit.models.settings import Model
from edgekit.models.shufflenet import ShuffleNet
from edgekit.registry import MODELS
from edgekit.section import Chosen

SMALL = {"mobilenetv2": {"stages": [[1, 16, 1, 1], [4, 24, 2, 2]], "head": 32}}


class MaybeNormed(nn.Module):
    def __init__(self, normed: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10) if normed else nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.body(x)
        return scores


@pytest.mark.parametrize("norm", ["group", "weight-standardised", "none"])
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("graph", "fusion")])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28)])
def test_every_network_takes_images_of_any_size_and_has_no_batch_norm(name, norm, shape):
    if (name.startswith("spiking") and norm == "group") or (name, norm) == ("spiking-mlp", "weight-standardised"):
        with pytest.raises(ModelError, match="a norm of spikes is no neuron of a chip"):
            build(Model(name=name, norm=norm), shape, 7, seed=0)
        return
    objective = objectives.make(Chosen(name=aim_of(MODELS.load(name))))
    model = build(Model(name=name, norm=norm, arguments=SMALL.get(name, {})), shape, 7, seed=0, objective=objective)
    assert model(torch.zeros(2, *shape)).shape == (2, *objective.outputs(7, shape))
    assert batch_norms(model) == []
    check_private(model)


def test_the_seed_decides_the_weights():
    one, same, other = (build(Model(), (1, 8, 8), 10, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_mobilenetv2_of_width_one_is_the_papers():
    # Sandler et al. 2018, table 4: 3.4 million parameters, with BatchNorm's two a channel as group norm has too.
    model = MobileNetV2((3, 224, 224), 1000)
    assert sum(p.numel() for p in model.parameters()) == 3_504_872


def test_shufflenet_of_width_one_is_the_papers():
    # With BatchNorm's two numbers a channel, as group norm has them too: 2.3 M (Ma et al. 2018, table 8).
    assert sum(p.numel() for p in ShuffleNet((3, 224, 224), 1000).parameters()) == 2_278_604


def test_the_width_multiplier_makes_networks_smaller():
    sizes = [
        sum(p.numel() for p in build(Model(name="mobilenetv2", width=width), (1, 8, 8), 10, 0).parameters())
        for width in (0.25, 0.5, 1.0)
    ]
    assert sizes == sorted(sizes)


def test_folded_weight_standardisation_gives_the_same_scores():
    model = build(Model(norm="weight-standardised"), (1, 8, 8), 10, 0)
    x = torch.rand(5, 1, 8, 8)
    folded = fold_weight_standardisation(model)
    assert not any(isinstance(layer, WeightStandardisedConv2d) for layer in folded.modules())
    assert torch.allclose(model(x), folded(x), atol=1e-6)


def test_standardised_filters_have_zero_mean_and_the_norm_of_their_gain():
    layer = WeightStandardisedConv2d(8, 16, 3)
    weight = layer.standardised_weight()
    assert torch.allclose(weight.mean((1, 2, 3)), torch.zeros(16), atol=1e-6)
    assert torch.allclose(weight.flatten(1).norm(dim=1), layer.gain.flatten(), rtol=1e-3)


def test_calibration_examples_give_every_layer_unit_variance(digits):
    model = build(Model(norm="none"), digits.shape, 10, 0, digits.calibration.x)
    seen = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output: seen.append(output.std().item()))
    scores = model(torch.from_numpy(digits.calibration.x))
    assert np.allclose(seen, 1.0, atol=0.01)
    assert scores.abs().max() == 0


class Asking(nn.Linear):
    """Its names are those of the zoo's constructors; `width` means something of its own."""

    def __init__(self, shape: tuple[int, ...], classes: int = 3, norm: str = "none", width: int = 32) -> None:
        super().__init__(shape[0], classes)
        self.seen = shape, classes, norm, width


def test_a_module_of_the_users_is_offered_what_it_has_names_for():
    asking = f"{__name__}:Asking"
    assert build(Model(name=asking, norm="group"), (4,), 10, 0).seen == ((4,), 10, "group", 32)
    assert build(Model(name=asking, arguments={"width": 5}), (4,), 10, 0).seen == ((4,), 10, "none", 5)


def test_a_module_of_the_users_by_its_import_path():
    model = build(Model(name=f"{__name__}:MaybeNormed", arguments={"normed": False}), (1, 8, 8), 10, 0)
    assert type(model).__name__ == "MaybeNormed"
    check_private(model)


def test_batch_norm_under_privacy_is_refused_and_the_layer_is_named():
    with pytest.raises(ModelError, match=r"layer 'body.2' \(BatchNorm1d\)"):
        check_private(MaybeNormed())


def test_a_layer_that_keeps_something_of_the_data_is_refused_under_privacy():
    with pytest.raises(ModelError, match=r"layer '0' \(InstanceNorm2d\) keeps 'running_mean'"):
        check_private(nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True)))


@pytest.mark.parametrize(
    ("settings", "shape", "error", "message"),
    [
        (Model(name="dscn"), (1, 8, 8), ExperimentError, "did you mean 'dscnn'"),
        (Model(name="nowhere:Net"), (1, 8, 8), ExperimentError, "no module named 'nowhere'"),
        (Model(name="torch.nn:Net"), (1, 8, 8), ExperimentError, "has no 'Net'"),
        (Model(name="torch:tanh"), (1, 8, 8), ModelError, "not a torch.nn.Module class"),
        (Model(arguments={"depth": 3}), (1, 8, 8), ExperimentError, "unexpected keyword argument 'depth'"),
        (Model(), (64,), ModelError, "use mlp"),
        (Model(arguments={"pool": 3}), (1, 8, 8), ModelError, "cannot be pooled"),
        (Model(name="graph"), (5, 5), ModelError, r"graph needs examples of \(nodes, features \+ nodes\)"),
        (Model(name="graph", arguments={"kind": "gin"}), (5, 9), ModelError, "'gin' is none of gcn, gat"),
        (Model(name="graph"), (2, 5, 9), ModelError, r"graph needs examples of \(nodes"),
        (Model(name="fusion", arguments={"first": [1, 4, 4]}), (1, 8, 8), ModelError, "two inputs in one row"),
        (Model(name="fusion", arguments={"first": [9]}), (9,), ModelError, r"\[9\] and \[0\] do not add up"),
        (Model(name="fusion"), (9,), ModelError, "two inputs in one row"),
        (
            Model(name="fusion", arguments={"kind": "sum", "first": [4]}),
            (9,),
            ModelError,
            "none of late, cross-attention",
        ),
        (Model(name="gru"), (9,), ModelError, "give gru the vocabulary of tokens"),
        (Model(name="gru", arguments={"vocabulary": 9}), (1, 6, 5), ModelError, r"needs examples of \(time,\)"),
        (Model(name="tcn", arguments={"kernel": 1}), (6, 9), ModelError, "a kernel of two frames at least"),
        (Model(name="vit"), (1, 1, 28), ModelError, "cuts patches of 2 x 2, and images have 1 x 28"),
        (
            Model(name="vit", arguments={"attention": "flash"}),
            (1, 8, 8),
            ModelError,
            "none of softmax, performer",
        ),
        (Model(name="mlp", width=1e9), (1, 8, 8), ModelError, "does not fit into memory: a smaller width"),
        (Model(name="mixer"), (64,), ModelError, "mixer needs images"),
        (Model(name="experts", arguments={"experts": 1}), (1, 8, 8), ModelError, "two experts at least"),
        (Model(name="torch.nn:Identity"), (1, 8, 8), ModelError, r"must give scores of shape \(2, 10\)"),
        (
            Model(name="torch.nn:Linear", arguments={"in_features": 3, "out_features": 10}),
            (4,),
            ModelError,
            "cannot take",
        ),
    ],
)
def test_what_cannot_be_built_is_one_clear_line(settings, shape, error, message):
    with pytest.raises((error, ModelError) if error is ExperimentError else error, match=message) as caught:
        build(settings, shape, 10, 0)
    assert "\n" not in str(caught.value)


def test_capsules_need_classes_to_route_between():
    with pytest.raises(ModelError, match="there is one: give two"):
        build(Model(name="capsule"), (1, 8, 8), 1, 0)


def test_experts_that_nobody_is_sent_to_are_told():
    model = build(Model(name="experts", arguments={"gating": "top-1", "experts": 3}), (1, 8, 8), 4, 0)
    with torch.no_grad():
        model.gate.bias.copy_(torch.tensor([0.0, 90.0, 0.0]))
    assert model.remarks(torch.rand(5, 1, 8, 8)) == [
        'no calibration example is sent to 2 of 3 experts (number 0, 2): fewer experts, or gating = "soft", wastes '
        "nothing"
    ]
    model.gating = "soft"
    assert model.remarks(torch.rand(5, 1, 8, 8)) == []
