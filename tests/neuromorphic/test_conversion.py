"""Conversion: folding is exact, spikes approach the network, snnTorch and NIR agree, integers stay close."""

import json
from dataclasses import replace

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgekit.data import Examples
from edgekit.errors import ConversionError
from edgekit.models import build
from edgekit.models.cost import macs
from edgekit.models.qcfs import QCFS, fit_thresholds, use_qcfs
from edgekit.models.settings import Model
from edgekit.neuromorphic import convert, emulator, quantise
from edgekit.neuromorphic import network as networks
from edgekit.neuromorphic.conversion import _activations
from edgekit.neuromorphic.energy import cost
from edgekit.neuromorphic.loihi import prepared_weight
from edgekit.neuromorphic.nir_writing import write_nir
from edgekit.neuromorphic.settings import Spiking
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


@pytest.mark.parametrize(
    "settings",
    [
        Spiking(reset="hard"),
        Spiking(voltage_decay=0.1),
        Spiking(voltage_decay=0.1, current_decay=0.4, reset="hard"),
        Spiking(current_decay=0.3),
        Spiking(coding="rate"),
        Spiking(coding="latency"),
        Spiking(scaling="layer"),
    ],
)
def test_every_neuron_and_code_is_the_same_in_snntorch(settings, trained, digits):
    network = convert(trained, digits.calibration, digits.classes, settings).network
    x, steps = digits.test.x[:30], 12
    inputs = torch.from_numpy(network.decode(network.encode(x, steps)))
    with torch.no_grad():
        theirs = SnnTorchNetwork(network)(inputs, steps).numpy()
    ours = networks.run(network, x, steps)
    # Rounding may take a voltage over its threshold in one of them alone; then a spike differs.
    assert np.isclose(theirs, ours, atol=1e-4).mean() > 0.98
    assert np.ptp(ours) > 1


@pytest.mark.parametrize(("coding", "least"), [("current", 0.95), ("rate", 0.9), ("latency", 0.9)])
def test_every_code_reaches_the_networks_accuracy(coding, least, trained, digits):
    network = convert(trained, digits.calibration, digits.classes, Spiking(coding=coding)).network
    integers = quantise(network, 32, digits.calibration.x)
    codes = integers.encode(digits.test.x)
    assert codes.shape[1:] == ((1, 8, 8) if coding == "current" else (32, 1, 8, 8))
    assert _accuracy(emulator.run(integers, codes).scores, digits) > least
    sums = codes.sum(1) if coding == "rate" else codes
    values = networks.encode(digits.test.x, network.input_low, network.input_step, 4, "current", 32)
    if coding == "rate":  # the mean of each pixel's spikes is its value
        assert np.abs((sums / 32).mean(0) - values.mean(0)).max() < 1.0
    if coding == "latency":  # one spike a pixel, the sooner the brighter
        first = np.where(codes.any(1), codes.argmax(1), 32)
        assert (codes != 0).sum(1).max() == 1
        assert np.array_equal(first, 32 - np.rint(values / 15 * 32))


def test_a_latency_code_that_other_sources_reach_too_is_refused(digits):
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 1)
            self.third, self.out = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(256, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.first(x))
            scores: torch.Tensor = self.out(torch.relu(self.third(y) + self.second(x)).flatten(1))
            return scores

    with pytest.raises(ConversionError, match=r"mixes the input with other sources.*spiking.coding = .current"):
        convert(Skip(), digits.calibration, digits.classes, Spiking(coding="latency"))


def test_qcfs_in_as_many_steps_as_levels_is_the_network_itself(digits):
    """Bu et al. 2022, theorem 2: where every layer's input is a constant current, spikes count the levels exactly."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    torch.manual_seed(0)
    use_qcfs(model, 4)
    codes = np.rint(digits.test.x * 15) / 15
    fit_thresholds(model, torch.from_numpy(digits.calibration.x))
    calibration = Examples((np.rint(digits.calibration.x * 15) / 15).astype(np.float32), digits.calibration.y)
    network = convert(model, calibration, digits.classes, Spiking()).network
    with torch.no_grad():
        wanted = model(torch.from_numpy(codes.astype(np.float32))).numpy()
    assert np.allclose(networks.run(network, codes.astype(np.float32), 4), wanted, atol=1e-4)


def test_a_trained_threshold_below_zero_is_refused(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), QCFS(4, -0.5), nn.Linear(8, 10))
    with pytest.raises(ConversionError, match=r"'2': its threshold fell to -0.5"):
        convert(model, digits.calibration, digits.classes, Spiking())


class OneDimensional(nn.Module):
    """A network over sequences (channels, length), as of audio."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(8, 12, 3, padding="same"),
            nn.BatchNorm1d(12),
            nn.ReLU(),
            nn.Conv1d(12, 12, 3, padding=2, dilation=2, groups=12),
            nn.ReLU(),
            nn.AvgPool1d(2),
            nn.Conv1d(12, 16, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(16, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.body(x)
        return scores


def test_networks_over_sequences_fold_exactly_and_spike(digits):
    x = digits.test.x.reshape(-1, 8, 8)
    model = OneDimensional()
    model(torch.from_numpy(x))
    model.eval()
    with torch.no_grad():
        traced = trace(model, (8, 8), torch.from_numpy(x[:9]))
        _, scores = _activations(traced, torch.from_numpy(x[:9]).unsqueeze(2))
        assert torch.allclose(scores, model(torch.from_numpy(x[:9])), atol=1e-5)
    network = convert(model, Examples(x[:60], digits.test.y[:60]), digits.classes, Spiking()).network
    wanted = model(torch.from_numpy(x[:40])).detach().numpy()
    assert np.corrcoef(networks.run(network, x[:40], 128).ravel(), wanted.ravel())[0, 1] > 0.99
    integers = quantise(network, 32, x[:60])
    assert integers.input_shape == (8, 1, 8)
    assert emulator.run(integers, integers.encode(x[:5])).scores.shape == (5, 10)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), "padding by 'circular'"),
        (nn.Conv2d(1, 4, 2, padding="same"), "needs an odd kernel"),
        (nn.Conv1d(64, 4, 1), "needs a map|depends on its data|has no spiking form"),
    ],
)
def test_convolutions_without_a_form_are_named(layer, message, digits):
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(10))
    if isinstance(layer, nn.Conv1d):
        model = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(4, 10))
        with pytest.raises(ConversionError, match=message):
            trace(model, digits.shape, torch.from_numpy(digits.calibration.x))
        return
    model(torch.from_numpy(digits.test.x[:2]))
    with pytest.raises(ConversionError, match=f"'0'.*{message}"):
        convert(model, digits.calibration, digits.classes, Spiking())


@pytest.mark.parametrize("name", ["spiking-mlp", "spiking-cnn"])
@pytest.mark.parametrize("arguments", [{}, {"current_decay": 0.5}])
def test_a_network_trained_as_spikes_is_taken_over_as_it_is(name, arguments, digits):
    settings = Model(name=name, arguments={**arguments, "steps": 6})
    model = build(settings, digits.shape, 10, 0, digits.calibration.x)
    torch.nn.init.normal_(model.layers[-1].weight)
    network = convert(model, digits.calibration, digits.classes, Spiking()).network
    exact = network.decode(network.encode(digits.test.x, 6))  # the codes' grain aside
    with torch.no_grad():
        wanted = model(torch.from_numpy(exact)).numpy()
    found = networks.run(network, exact, 6)
    assert np.isclose(found, wanted, atol=1e-4).mean() > 0.99
    integers = quantise(network, 6, digits.calibration.x)
    answers = emulator.run(integers, integers.encode(digits.test.x)).scores.argmax(1)
    assert (answers == wanted.argmax(1)).mean() > 0.9


@pytest.mark.long
def test_tuning_with_snntorch_helps_a_network_of_few_steps(digits):
    model = _fit(build(Model(norm="none", arguments={"channels": [16, 32, 32]}), digits.shape, 10, 0), digits)
    network = convert(model, digits.calibration, digits.classes, Spiking()).network
    own = [digits.client(i) for i in range(12)]  # enough of them that it helps on every machine
    examples = Examples(np.concatenate([e.x for e in own]), np.concatenate([e.y for e in own]))
    tuned, told = tune(network, examples, model(torch.from_numpy(examples.x)).detach(), 2, seed=0)
    before, after = (_accuracy(networks.run(n, digits.test.x, 2), digits) for n in (network, tuned))
    assert "tuned with snnTorch" in told
    # Neurons of a channel go on sharing their bias, which exchange files rely on.
    assert all(np.ptp(layer.bias.reshape(len(layer.bias), -1), 1).max() == 0 for layer in tuned.layers)
    assert after > before


@pytest.mark.long
def test_tuning_that_does_not_help_is_left_out(converted, trained, digits):
    scores = trained(torch.from_numpy(digits.calibration.x)).detach()
    network, told = tune(converted.network, digits.calibration, scores, 64, seed=0)
    assert ("did not help" in told) == (network is converted.network)


def _run_nir(graph, x, steps):
    """Simulate a NIR graph from its own nodes and edges alone, by NIR's equations and our metadata."""
    facts = json.loads(graph.metadata["edgekit"])
    assert set(facts["reset"].values()) == {"soft"}
    assert set(facts["start"].values()) == {0.5}
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


@pytest.mark.parametrize("bits", [8, 6, 4, 3])
def test_fewer_weight_bits_keep_to_their_grain(bits, converted, digits):
    integers = quantise(converted.network, 8, digits.calibration.x, weight_bits=bits)
    for layer in integers.layers:
        for synapse in layer.synapses:
            assert (synapse.weight % (1 << (9 - bits)) == 0).all()
            assert np.array_equal(prepared_weight(synapse), synapse.weight)
    accuracy = _accuracy(emulator.run(integers, integers.encode(digits.test.x)).scores, digits)
    assert accuracy > (0.9 if bits >= 4 else 0.6)


def test_scales_that_cut_off_weights_are_chosen_where_they_help(digits):
    """One weight far beyond the others: rounding for its sake would take the rest's precision."""
    torch.manual_seed(1)  # of other networks, the rest's precision may be worth less
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    model[1].weight.data[0, 0] = 2.5 * model[1].weight.data.abs().max()
    network = convert(model, digits.calibration, digits.classes, Spiking()).network
    integers = quantise(network, 16, digits.calibration.x, weight_bits=4)
    assert (np.abs(integers.layers[0].synapses[0].weight) >= 224).sum() > 1
    wanted = networks.run(network, digits.test.x, 16)
    found = emulator.run(integers, integers.encode(digits.test.x)).scores
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.95


def test_currents_that_pile_up_do_not_wrap(digits):
    network = convert(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
        digits.calibration,
        digits.classes,
        Spiking(coding="latency"),
    ).network
    heavy = replace(
        network.layers[0], synapses=(replace(network.layers[0].synapses[0], weight=np.full((32, 64), 0.9, np.float32)),)
    )
    integers = quantise(replace(network, layers=(heavy, *network.layers[1:])), 32, digits.calibration.x)
    record = emulator.run(integers, integers.encode(digits.calibration.x), record=True).records[0]
    assert np.abs(record.currents).max() < 1 << 23
    assert (
        np.diff(record.currents.astype(np.int64), axis=1) >= -2100
    ).all()  # they only grow, the smallest decay aside


def test_a_threshold_of_zero_is_refused(converted, digits):
    first = replace(converted.network.layers[0], threshold=0.0)
    network = replace(converted.network, layers=(first, *converted.network.layers[1:]))
    with pytest.raises(ConversionError, match="has the threshold 0: neurons need one above 0"):
        quantise(network, 8, digits.calibration.x)


def test_costs_are_counted_from_the_spikes(converted, trained, digits):
    integers = quantise(converted.network, 8, digits.calibration.x)
    codes = integers.encode(digits.test.x[:30])
    spent = cost(integers, codes, emulator.run(integers, codes))
    # By hand for the readout: every spike of the last neurons reaches ten classes, or fewer where a weight is 0.
    last = emulator.run(integers, codes).spikes[-2].sum() / 30
    assert spent.synops > 9 * last
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


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.25])
def test_a_latency_code_brings_the_whole_charge_whatever_the_current_decays(decay, digits):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    network = convert(
        model, digits.calibration, digits.classes, Spiking(coding="latency", current_decay=decay, input_bits=6)
    ).network
    wanted = model(torch.from_numpy(digits.test.x[:60])).detach().numpy()
    assert np.corrcoef(networks.run(network, digits.test.x[:60], 64).ravel(), wanted.ravel())[0, 1] > 0.97


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Conv2d(1, 4, 3), nn.Flatten(), nn.ReLU(), nn.Linear(144, 10)], "put Flatten after it"),
        (
            [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 10, 1), nn.Flatten()],
            "must end in a linear layer",
        ),
        (
            [nn.Conv2d(1, 4, 3), nn.Flatten(), nn.BatchNorm1d(144), nn.ReLU(), nn.Linear(144, 10)],
            "put it before Flatten",
        ),
        ([nn.Linear(8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)], "put Flatten before it"),
        (
            [
                nn.Conv2d(1, 4, 3),
                nn.BatchNorm2d(4, track_running_stats=False),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(144, 10),
            ],
            "track_running_stats=True",
        ),
    ],
)
def test_shapes_and_norms_without_a_form_are_named(layers, message, digits):
    with pytest.raises(ConversionError, match=message):
        convert(nn.Sequential(*layers), digits.calibration, digits.classes, Spiking())


def test_weights_that_are_not_finite_are_refused(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    model[1].weight.data[0, 0] = float("nan")
    with pytest.raises(ConversionError, match=r"'1.weight' holds values that are not finite"):
        convert(model, digits.calibration, digits.classes, Spiking())


def test_a_silent_layer_costs_nothing_else(digits):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))
    model[3].bias.data.fill_(-50.0)
    network = convert(model, digits.calibration, digits.classes, Spiking()).network
    integers = quantise(network, 8, digits.calibration.x)
    assert not emulator.run(integers, integers.encode(digits.test.x[:20])).spikes[1].any()


def test_what_a_spiking_network_brings_itself_is_not_changed_silently(digits):
    model = build(Model(name="spiking-mlp"), digits.shape, 10, 0, digits.calibration.x)
    with pytest.raises(
        ConversionError, match="spiking.reset cannot change a network that was trained as a spiking one"
    ):
        convert(model, digits.calibration, digits.classes, Spiking(reset="hard"))
