"""The emulator against Lava 0.10 itself: every spike, current and voltage of networks that Lava ran.

`lava_golden.npz` was made by `make_lava_golden.py`; test_lava.py does the same with Lava at hand.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array

from edgekit.errors import ConversionError
from edgekit.neuromorphic import emulator
from edgekit.neuromorphic.connections import connections
from edgekit.neuromorphic.emulator import Emulator, Record, convolutions, matrices, products
from edgekit.neuromorphic.energy import fan_out
from edgekit.neuromorphic.lava.verify import compare_records, draw
from edgekit.neuromorphic.loihi import Lif, LoihiLayer, LoihiNetwork, LoihiSynapse, SigmaDelta, load, save

from .make_lava_golden import read_cases

FILE = Path(__file__).parent / "lava_golden.npz"
CASES = read_cases(FILE)
GOLDEN = np.load(FILE, allow_pickle=False)


@pytest.mark.parametrize("name", CASES)
def test_every_spike_current_and_voltage_equals_lavas(name):
    case = CASES[name]
    ours = Emulator(case.network, pipelined=case.pipelined).run(case.codes, record=True).records
    theirs = [Record(*(GOLDEN[f"{name}/{number}.{kind}"] for kind in Record._fields)) for number in range(len(ours))]
    assert compare_records(case.network, ours, theirs).different == ()


def test_the_golden_networks_are_worth_comparing():
    spikes = sum(GOLDEN[key].astype(bool).sum() for key in GOLDEN.files if key.endswith(".spikes"))
    assert len(CASES) >= 50
    assert spikes > 8000


def test_a_difference_is_found_and_named():
    case = CASES["random 0"]
    ours = Emulator(case.network, pipelined=case.pipelined).run(case.codes, record=True).records
    wrong = ours[0].voltages.copy()
    wrong[(0, 3, *([0] * (wrong.ndim - 2)))] += 1
    found = compare_records(case.network, ours, [ours[0]._replace(voltages=wrong), *ours[1:]])
    assert len(found.different) == 1
    assert "1 of" in found.different[0]
    assert "voltages differ, first at sample 0, step 3" in found.different[0]


def test_random_networks_cover_every_option():
    cases = [draw(seed) for seed in range(400)]
    layers = [layer for case in cases for layer in case.network.layers]
    synapses = [synapse for layer in layers for synapse in layer.synapses]
    lif = [layer.neurons for layer in layers if isinstance(layer.neurons, Lif)]
    others = [layer.neurons for layer in layers if isinstance(layer.neurons, SigmaDelta)]
    assert {s.kind for s in synapses} == {"conv", "dense", "sparse", "direct"}
    assert {s.sign for s in synapses} == {"mixed", "excitatory", "inhibitory"}
    assert {s.weight_bits for s in synapses} == set(range(1, 9))
    assert {s.weight_exponent for s in synapses} >= set(range(-3, 8))
    assert {n.bias_exponent for n in lif} == set(range(-2, 8))
    assert {n.reset for n in lif} == {"soft", "hard"}
    assert {n.refractory for n in lif} == {0, 1, 3}
    assert {n.kind for n in others} == {"sigma", "delta", "sigma-delta"}
    assert {n.activation for n in others} == {"relu", "unit"}
    assert {n.cumulative for n in others} == {True, False}
    assert {s.message_bits for s in synapses} >= {0, 1, 4, 8}
    assert any(isinstance(s.delay, int) and s.delay for s in synapses)
    assert {s.kind for s in synapses if not isinstance(s.delay, int)} == {"dense", "sparse"}
    assert any(s.groups > 1 for s in synapses)
    assert any(s.dilation != (1, 1) for s in synapses)
    assert any(len(layer.synapses) > 1 for layer in layers)
    assert {case.pipelined for case in cases} == {True, False}


def test_chunks_and_constant_input_change_nothing():
    case = CASES["dense, soft reset"]
    ready = Emulator(case.network)
    assert np.array_equal(ready.run(case.codes).scores, ready.run(case.codes, chunk=1).scores)
    constant = ready.run(case.codes[:, 0])
    repeated = ready.run(np.repeat(case.codes[:, :1], case.network.steps, 1))
    assert np.array_equal(constant.scores, repeated.scores)
    only_last = ready.run(case.codes, record="readout").records
    assert len(only_last) == 1
    assert np.array_equal(only_last[0].voltages, ready.run(case.codes, record=True).records[-1].voltages)


def _map_network(synapse, source, target, steps=6):
    rng = np.random.default_rng(3)
    bias = rng.integers(-300, 300, target).astype(np.int32)
    layer = LoihiLayer("maps", (synapse,), Lif(200, bias, 2), target)
    return LoihiNetwork((layer,), steps, source, 0.0, 1.0, max(1, synapse.message_bits), ())


FORMS = {  # each is the fastest form of some shape; see `convolutions.convolution`
    "whole": ((1, 4, 4), (4, 4, 4), (3, 3), 1),
    "rows": ((1, 28, 28), (16, 28, 28), (3, 3), 1),
    "patches": ((32, 14, 14), (32, 14, 14), (3, 3), 1),
    "float": ((64, 14, 14), (64, 14, 14), (3, 3), 64),
}
CLASSES = {
    "whole": matrices.ByteMatrix,
    "rows": convolutions._Rows,
    "patches": convolutions._Patches,
    "float": convolutions._FloatConvolution,
}


@pytest.mark.parametrize("bits", [0, 4, 8])
@pytest.mark.parametrize("rate", [0.002, 0.3])
@pytest.mark.parametrize("examples", [1, 5])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_convolution_is_exact(form, examples, rate, bits):
    """Against torch in float64, for one example too, and for so few events that each is followed by itself."""
    source, target, kernel, groups = FORMS[form]
    rng = np.random.default_rng(0)
    weight = 2 * rng.integers(-128, 128, (target[0], source[0] // groups, *kernel)).astype(np.int32)
    synapse = LoihiSynapse(-1, "conv", weight, (1, 1), (1, 1), groups, bits)
    network = _map_network(synapse, source, target)
    (term,) = products.terms(synapse, source, target, (1 << bits) - 1 if bits else 1)
    whole = term.product.whole if isinstance(term.product, products._Either) else term.product
    if bits < 8:
        assert isinstance(whole, CLASSES[form])
    present = rng.random((examples, 6, *source)) < rate
    codes = (present * rng.integers(1, 1 << max(1, bits), present.shape)).astype(np.int32)
    drive = F.conv2d(
        torch.from_numpy(codes).flatten(0, 1).double(), torch.from_numpy(weight).double(), None, 1, 1, 1, groups
    )
    drive = drive.long().view(examples, 6, *target).numpy()
    neurons = network.layers[0].neurons
    voltage = np.zeros((examples, *target), np.int64)
    ran = Emulator(network).run(codes, record=True).records[0]
    for step in range(6):
        arriving = ((drive[:, step] + (1 << 23)) % (1 << 24) - (1 << 23)) << 6  # a convolution's sum has 24 bits
        current = (arriving + (1 << 31)) % (1 << 32) - (1 << 31)
        current -= (1 << 24) * ((current > 1 << 23).astype(int) - (current <= -(1 << 23)))
        voltage = np.clip(voltage + current + (neurons.bias << 2), 1 - (1 << 23), (1 << 23) - 1)
        fired = voltage > neurons.threshold << 6
        voltage -= fired * (neurons.threshold << 6)
        assert np.array_equal(ran.spikes[:, step], fired)
        assert np.array_equal(ran.voltages[:, step], voltage)
    assert ran.spikes.any() or rate < 0.3
    constant = Emulator(network).run(codes[:, 0], record=True).records[0]
    repeated = Emulator(network).run(np.repeat(codes[:, :1], 6, 1), record=True).records[0]
    assert np.array_equal(constant.voltages, repeated.voltages)


def test_single_events_and_whole_products_agree():
    rng = np.random.default_rng(0)
    weight = 2 * rng.integers(-60, 60, (40, 3000)).astype(np.int32)
    held = csr_array(np.where(rng.random(weight.shape) < 0.05, weight, 0).astype(np.int32))
    for synapse in (LoihiSynapse(-1, "dense", weight), LoihiSynapse(-1, "sparse", held)):
        (term,) = products.terms(synapse, (3000,), (40,), 1)
        assert isinstance(term.product, products._Either)
        rows = torch.from_numpy((rng.random((9, 3000)) < 0.01).astype(np.int8))
        wanted = (
            rows.long() @ torch.from_numpy(synapse.weight.toarray() if synapse.kind == "sparse" else weight).T.long()
        )
        for product in (term.product.whole, term.product.events):
            assert torch.equal(product(rows)[:, :40].long() << term.shift, wanted)
        assert product(rows).shape[1] == term.product.width


@pytest.mark.parametrize("name", [*list(CASES)[::6], "random 3", "random 7", "random 11", "random 20"])
def test_a_network_survives_its_file(name, tmp_path):
    case = CASES[name]
    save(case.network, tmp_path / "loihi.npz")
    again = load(tmp_path / "loihi.npz", checked=False)
    one, other = (Emulator(n, pipelined=case.pipelined).run(case.codes).scores for n in (case.network, again))
    assert np.array_equal(one, other)
    assert again.layers[0].synapses[0].stride == case.network.layers[0].synapses[0].stride


def test_two_sources_add_up_before_the_neuron():
    rng = np.random.default_rng(0)
    weights = [2 * rng.integers(-60, 60, (5, 7)).astype(np.int32) for _ in range(2)]
    bias = np.zeros(5, np.int32)
    pair = tuple(LoihiSynapse(-1, "dense", weight, message_bits=4) for weight in weights)
    one = (LoihiSynapse(-1, "dense", weights[0] + weights[1], message_bits=4),)
    codes = rng.integers(0, 16, (3, 7)).astype(np.int32)
    records = [
        emulator.run(
            LoihiNetwork((LoihiLayer("a", synapses, Lif(300, bias), (5,)),), 6, (7,), 0.0, 1.0, 4, ()),
            codes,
            record=True,
        ).records[0]
        for synapses in (pair, one)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*records, strict=True))
    assert records[0][0].any()


def test_a_delay_holds_spikes_back():
    weight = np.full((1, 1), 100, np.int32)
    code = np.zeros((1, 8, 1), np.int32)
    code[0, 1] = 1
    for delay in (0, 3):
        synapse = LoihiSynapse(-1, "dense", weight, sign="excitatory", delay=delay)
        layer = LoihiLayer("a", (synapse,), Lif(50, np.zeros(1, np.int32)), (1,))
        network = LoihiNetwork((layer,), 8, (1,), 0.0, 1.0, 1, ())
        assert np.flatnonzero(emulator.run(network, code, record=True).records[0].spikes[0, :, 0]) == [1 + delay]


def test_codes_of_another_length_or_more_bits_are_refused():
    case = CASES["graded input of 4 bits, dense, leaks"]
    with pytest.raises(ValueError, match="takes 10 steps, the codes have 5"):
        emulator.run(case.network, case.codes[:, :5])
    with pytest.raises(ValueError, match="codes up to 15; these go to 16"):
        emulator.run(case.network, case.codes + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layer: replace(layer, neurons=replace(layer.neurons, threshold=1 << 17)), "threshold 131072"),
        (lambda layer: replace(layer, neurons=replace(layer.neurons, current_decay=4096)), "current_decay 4096"),
        (lambda layer: replace(layer, neurons=replace(layer.neurons, bias_exponent=8)), "a bias beyond"),
        (lambda layer: replace(layer, neurons=replace(layer.neurons, bias=layer.neurons.bias[:1])), "biases of shape"),
        (
            lambda layer: replace(layer, synapses=(replace(layer.synapses[0], weight=layer.synapses[0].weight * 300),)),
            "weights from .*8 bits and a sign",
        ),
        (
            lambda layer: replace(
                layer, synapses=(replace(layer.synapses[0], weight=layer.synapses[0].weight[:, 1:]),)
            ),
            "do not lead from",
        ),
        (lambda layer: replace(layer, synapses=(replace(layer.synapses[0], delay=64),)), "delays beyond 0 to 63"),
        (lambda layer: replace(layer, synapses=(replace(layer.synapses[0], source=4),)), "a synapse from 4"),
    ],
)
def test_a_file_with_numbers_beyond_loihis_formats_is_refused(change, message, tmp_path):
    network = CASES["dense, soft reset"].network
    changed = replace(network, layers=(change(network.layers[0]), *network.layers[1:]))
    save(changed, tmp_path / "loihi.npz")
    with pytest.raises(ConversionError, match=message):
        load(tmp_path / "loihi.npz")


def test_broken_files_are_refused(tmp_path):
    path = tmp_path / "loihi.npz"
    save(CASES["dense, soft reset"].network, path)
    whole = path.read_bytes()
    for content in (b"", b"PK\x03\x04 no zip", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ConversionError, match="not a Loihi network of edgekit"):
            load(path)


@pytest.mark.parametrize("groups", [1, 2])
def test_connections_are_those_of_the_convolution(groups):
    rng = np.random.default_rng(0)
    weight = rng.integers(-3, 4, (4, 4 // groups, 3, 2)).astype(np.int32)
    synapse = LoihiSynapse(0, "conv", weight, (2, 1), (1, 1), groups, dilation=(1, 2))
    source = (4, 5, 6)
    x = torch.from_numpy(rng.integers(-9, 9, (3, *source))).double()
    wanted = F.conv2d(x, torch.from_numpy(weight).double(), None, (2, 1), (1, 1), (1, 2), groups)
    listed = connections(synapse, source, tuple(wanted.shape[1:]))
    assert np.array_equal((listed @ x.flatten(1).numpy().T).T, wanted.flatten(1).numpy())
    assert (listed.data != 0).all()
    counted = fan_out(synapse, source)
    assert np.array_equal(np.diff(listed.tocsc().indptr), counted.flatten().numpy())
