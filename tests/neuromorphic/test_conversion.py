"""Conversion: folding is exact, spikes approach the network, snnTorch and NIR agree, integers stay close."""

import json

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgekit.data import Examples
from edgekit.errors import ConversionError
from edgekit.experiment import Model, Spiking
from edgekit.models import build
from edgekit.neuromorphic import convert, emulator, quantise
from edgekit.neuromorphic import network as networks
from edgekit.neuromorphic.conversion import _activations
from edgekit.neuromorphic.energy import cost, macs
from edgekit.neuromorphic.nir import write_nir
from edgekit.neuromorphic.loihi import prepared_weight
from edgekit.neuromorphic.trace import trace
from edgekit.neuromorphic.tune import SnnTorchNetwork, tune

SMALL = {"mobilenetv2": {"stages": [[1, 16, 1, 1], [4, 24, 2, 2], [4, 24, 1, 1]], "head": 32}}
EXACT = [
    ("mlp", "none", {}),
    ("dscnn", "none", {}),
    ("dscnn", "weight-standardised", {"pool": 4}),
    ("dscnn", "weight-standardised", {"depthwise_activation": False, "channels": [8, 12, 16]}),
    ("mobilenetv2", "weight-standardised", SMALL["mobilenetv2"]),
    ("mobilenetv2", "none", SMALL["mobilenetv2"]),
]


class Functional(nn.Module):
    """The same network written with functions instead of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.out = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = x + torch.relu(self.second(x))
        x = F.avg_pool2d(F.relu6(x), 2)
        scores: torch.Tensor = self.out(torch.flatten(x, 1))
        return scores


def _fit(model, digits, epochs=12):
    x = np.concatenate([digits.client(i).x for i in range(digits.clients)])
    y = np.concatenate([digits.client(i).y for i in range(digits.clients)])
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(y), generator=order).split(32):
            optimiser.zero_grad()
            F.cross_entropy(model(torch.from_numpy(x)[batch]), torch.from_numpy(y)[batch]).backward()
            optimiser.step()
    return model.eval()


def _accuracy(scores, digits):
    return float((scores.argmax(1) == digits.test.y).mean())


@pytest.fixture(scope="module")
def trained(digits):
    settings = Model(norm="weight-standardised", arguments={"channels": [16, 32], "strides": [1, 1], "pool": 4})
    return _fit(build(settings, digits.shape, 10, 0, digits.calibration.x), digits)


@pytest.fixture(scope="module")
def converted(trained, digits):
    return convert(trained, digits.calibration, digits.classes, Spiking())


@pytest.mark.parametrize(("name", "norm", "arguments"), EXACT)
def test_pooling_weight_standardisation_bottlenecks_and_residuals_fold_exactly(name, norm, arguments, digits):
    model = build(Model(name=name, norm=norm, arguments=arguments), digits.shape, 10, 0).eval()
    x = torch.from_numpy(digits.test.x[:9])
    with torch.no_grad():
        _, scores = _activations(trace(model, digits.shape, x), x)
    assert torch.allclose(scores, model(x).detach(), rtol=1e-4, atol=1e-5)


def test_functions_and_batch_norm_fold_exactly_too(digits):
    model = Functional()
    model(torch.from_numpy(digits.test.x))  # batch norm learns its statistics
    model.eval()
    x = torch.from_numpy(digits.test.x[:9])
    with torch.no_grad():
        traced = trace(model, digits.shape, x)
        _, scores = _activations(traced, x)
        assert torch.allclose(scores, model(x), atol=1e-5)
    assert traced.frozen == ()
    assert [layer.ceiling for layer in traced.layers] == [float("inf"), float("inf"), 6.0]


def test_a_frozen_group_norm_is_exact_for_one_example(digits):
    """Frozen at the statistics of one example, the norm must give that example's own result."""
    model = build(Model(norm="group"), digits.shape, 10, 0).eval()
    one = torch.from_numpy(digits.test.x[:1])
    with torch.no_grad():
        traced = trace(model, digits.shape, one)
        _, scores = _activations(traced, one)
        assert torch.allclose(scores, model(one), atol=1e-5)
    assert len(traced.frozen) == 5


def test_freezing_norms_that_costs_too_much_is_refused(digits, trained):
    calibration = digits.calibration
    shifted = Examples(
        np.concatenate([calibration.x, calibration.x * 40 + 20]).astype(np.float32),
        np.concatenate([calibration.y, calibration.y]),
    )
    model = _fit(build(Model(norm="group"), digits.shape, 10, 0), digits, epochs=6)
    with pytest.raises(ConversionError, match="freezing the norms .*weight-standardised"):
        convert(model, shifted, digits.classes, Spiking())


def test_more_steps_approach_the_network(trained, converted, digits):
    wanted = trained(torch.from_numpy(digits.test.x)).detach().numpy()
    errors = [
        np.abs(networks.run(converted.network, digits.test.x, steps) - wanted).mean() for steps in (2, 8, 32, 128)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * np.abs(wanted).mean()


def test_eight_steps_of_loihi_integers_stay_within_a_point_and_a_half(trained, converted, digits):
    network = _accuracy(trained(torch.from_numpy(digits.test.x)).detach().numpy(), digits)
    integers = quantise(converted.network, 8, digits.calibration.x)
    activity = emulator.run(integers, integers.encode(digits.test.x))
    assert network > 0.95
    assert _accuracy(activity.scores, digits) >= network - 0.015


def test_the_integers_keep_to_loihis_formats(converted, digits):
    integers = quantise(converted.network, 8, digits.calibration.x)
    for layer in integers.layers:
        assert np.abs(layer.neurons.bias).max() <= 4095
        assert 0 <= layer.neurons.bias_exponent <= 7
        assert 0 < layer.neurons.threshold < 1 << 17
        for synapse in layer.synapses:
            assert (synapse.weight % 2 == 0).all()
            assert synapse.weight.min() >= -256
            assert synapse.weight.max() <= 254
            assert np.array_equal(prepared_weight(synapse), synapse.weight)
    codes = integers.encode(digits.test.x)
    assert codes.min() == 0
    assert codes.max() == 15
    assert np.abs(emulator.run(integers, codes).scores).max() < (1 << 23) - 1


def test_examples_with_an_offset_keep_it_through_zero_padding(digits):
    """Codes start at zero, the examples at -1: what padding means differs, and goes into each neuron's bias."""
    model = build(Model(arguments={"channels": [8, 16], "strides": [1, 2]}), digits.shape, 10, 0, digits.calibration.x)
    shifted = Examples(digits.calibration.x * 2 - 1, digits.calibration.y)
    torch.nn.init.normal_(model.layers[-1].weight)
    network = convert(model, shifted, digits.classes, Spiking(input_bits=5)).network
    integers = quantise(network, 64, shifted.x)
    scores = emulator.run(integers, integers.encode(shifted.x)).scores.astype(float)
    wanted = model(torch.from_numpy(shifted.x)).detach().numpy()
    assert np.corrcoef(scores.ravel(), wanted.ravel())[0, 1] > 0.99


def test_snntorch_runs_the_same_network(converted, digits):
    x = digits.test.x[:40]
    module = SnnTorchNetwork(converted.network)
    with torch.no_grad():
        theirs = module(torch.from_numpy(converted.network.decode(converted.network.encode(x, 8))), 8).numpy()
    assert np.allclose(theirs, networks.run(converted.network, x, 8), atol=1e-4)


def test_tuning_with_snntorch_helps_a_network_of_few_steps(digits):
    model = _fit(build(Model(norm="none", arguments={"channels": [16, 32, 32]}), digits.shape, 10, 0), digits)
    network = convert(model, digits.calibration, digits.classes, Spiking()).network
    scores = model(torch.from_numpy(digits.calibration.x)).detach()
    tuned, told = tune(network, digits.calibration, scores, 2, seed=0)
    before, after = (_accuracy(networks.run(n, digits.test.x, 2), digits) for n in (network, tuned))
    assert "tuned with snnTorch" in told
    # Neurons of a channel go on sharing their bias, which exchange files rely on.
    assert all(np.ptp(layer.bias.reshape(len(layer.bias), -1), 1).max() == 0 for layer in tuned.layers)
    assert after > before


def test_tuning_that_does_not_help_is_left_out(converted, trained, digits):
    scores = trained(torch.from_numpy(digits.calibration.x)).detach()
    network, told = tune(converted.network, digits.calibration, scores, 64, seed=0)
    assert ("did not help" in told) == (network is converted.network)


def _run_nir(graph, x, steps):
    """Simulate a NIR graph from its own nodes and edges alone, by NIR's equations and our metadata."""
    facts = json.loads(graph.metadata["edgekit"])
    assert facts["reset"] == "soft"
    incoming = {}
    for source, target in graph.edges:
        incoming.setdefault(target, []).append(source)
    voltages, total = {}, 0

    def value(name):
        node = graph.nodes[name]
        if isinstance(node, nir.Input):
            return torch.from_numpy(x)
        drive = sum(known[source] if source in known else value(source) for source in incoming[name])
        if isinstance(node, nir.Flatten):
            result = drive.flatten(1)
        elif isinstance(node, nir.Affine):
            result = F.linear(drive, torch.from_numpy(node.weight), torch.from_numpy(node.bias))
        elif isinstance(node, nir.Conv2d):
            weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
            result = F.conv2d(drive, weight, bias, tuple(node.stride), tuple(node.padding), 1, int(node.groups))
        elif isinstance(node, nir.IF):
            threshold = torch.from_numpy(node.v_threshold)
            voltage = voltages.get(name, threshold / 2) + drive * torch.from_numpy(node.r)
            result = (voltage >= threshold).float()
            voltages[name] = voltage - threshold * result
        else:
            result = drive
        known[name] = result
        return result

    for _ in range(steps):
        known = {}
        total = total + value("output")
    return (total / steps).numpy()


@pytest.mark.parametrize(("name", "norm", "arguments"), EXACT)
def test_the_nir_file_read_back_gives_the_same_scores(name, norm, arguments, digits, tmp_path):
    model = build(Model(name=name, norm=norm, arguments=arguments), digits.shape, 10, 0, digits.calibration.x)
    torch.nn.init.normal_(model.layers[-1].weight)
    network = convert(model, digits.calibration, digits.classes, Spiking()).network
    write_nir(network, tmp_path / "network.nir")
    graph = nir.read(tmp_path / "network.nir")
    x = network.decode(network.encode(digits.test.x[:12], 6))
    assert np.allclose(_run_nir(graph, x, 6), networks.run(network, digits.test.x[:12], 6), atol=1e-3)
    assert [file.name for file in tmp_path.iterdir()] == ["network.nir"]


def test_costs_are_counted_from_the_spikes(converted, trained, digits):
    integers = quantise(converted.network, 8, digits.calibration.x)
    codes = integers.encode(digits.test.x[:30])
    spent = cost(integers, codes, emulator.run(integers, codes))
    # By hand for the readout: every spike of the last neurons reaches ten classes, or fewer where a weight is 0.
    last = emulator.run(integers, codes).spikes[-2].sum() / 30
    assert spent.synops > 9 * last
    assert spent.neurons == sum(int(np.prod(layer.shape)) for layer in integers.layers)
    assert 0 < spent.energy_joules < 1e-3
    assert macs(trained, digits.shape) == 64 * 9 * 16 + 64 * 9 * 16 + 64 * 16 * 32 + 512 * 10


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 10)],
            "'2' .*MaxPool2d.* average pooling",
        ),
        ([nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 10)], "'1' .*Tanh"),
        (
            [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)],
            "'1'.*put a ReLU between",
        ),
        ([nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 10)], "not a multiple"),
        ([nn.Flatten(), nn.Linear(64, 10), nn.ReLU()], "must end in a linear layer"),
    ],
)
def test_a_layer_without_a_spiking_form_is_named(layers, message, digits):
    with pytest.raises(ConversionError, match=message):
        convert(nn.Sequential(*layers), digits.calibration, digits.classes, Spiking())
