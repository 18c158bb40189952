"""Exchange: what we write runs alike in four other simulators, and what they write runs alike here."""

import itertools
import json
import subprocess
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest

from edgekit.environments import Environment
from edgekit.errors import ConversionError
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.neuromorphic import convert
from edgekit.neuromorphic import network as networks
from edgekit.neuromorphic.network import SpikingLayer, SpikingNetwork, Synapse
from edgekit.neuromorphic.nir import read_nir
from edgekit.neuromorphic.nir_writing import write_nir
from edgekit.neuromorphic.settings import Spiking

SIMULATORS = Environment(
    "nir-simulators",
    "3.11",
    (
        "torch==2.13.0",
        "norse==1.1.0",
        "spikingjelly[nir]==2.0.0",
        "snntorch==1.0.0",
        "nir==1.0.8",
        "nirtorch==2.6",
        "pbr",
    ),
    bare=("sinabs==3.1.3",),  # it asks for an older nir, which reads no file with a reset
)
SCRIPT = Path(__file__).parent / "nir_simulators.py"
NEED_AN_ENVIRONMENT = pytest.mark.long  # which takes a minute to install, and the network


@pytest.fixture(scope="session")
def simulators():
    SIMULATORS.install()

    def run(*arguments):
        done = subprocess.run(
            [str(SIMULATORS.executable), str(SCRIPT), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]

    return run


def _grid(rng, *shape, low=-8, high=9):
    """Numbers whose sums are exact in float32, so that order does not matter and ties are ties everywhere."""
    return (rng.integers(low, high, shape) / 16).astype(np.float32)


def _network(kind, rng):
    """A network on a grid: a chain of maps with groups, or residuals into neurons and into the readout."""
    if kind == "chain":
        layers = (
            SpikingLayer(
                "a",
                (Synapse(-1, "conv", _grid(rng, 4, 2, 3, 3), (1, 1), (1, 1)),),
                np.repeat(_grid(rng, 4, 1, 1), 5, 1).repeat(5, 2),
                1.0,
                (4, 5, 5),
            ),
            SpikingLayer(
                "b",
                (Synapse(0, "conv", _grid(rng, 4, 1, 3, 3), (2, 2), (1, 1), 4),),
                np.zeros((4, 3, 3), np.float32),
                1.0,
                (4, 3, 3),
            ),
            SpikingLayer("readout", (Synapse(1, "dense", _grid(rng, 3, 36)),), _grid(rng, 3), float("inf"), (3,)),
        )
        return SpikingNetwork(layers, (2, 5, 5), 0.0, 0.5, 2, ("x", "y", "z"))
    first = SpikingLayer("a", (Synapse(-1, "dense", _grid(rng, 8, 6)),), _grid(rng, 8), 1.0, (8,))
    second = SpikingLayer("b", (Synapse(0, "dense", _grid(rng, 7, 8)),), _grid(rng, 7), 1.0, (7,))
    third = SpikingLayer(
        "c", (Synapse(1, "dense", _grid(rng, 5, 7)), Synapse(0, "dense", _grid(rng, 5, 8))), _grid(rng, 5), 1.0, (5,)
    )
    ends = (Synapse(2, "dense", _grid(rng, 3, 5)), Synapse(1, "dense", _grid(rng, 3, 7)))
    readout = SpikingLayer("readout", ends, _grid(rng, 3), float("inf"), (3,))
    return SpikingNetwork((first, second, third, readout), (6,), 0.0, 0.5, 2, ("x", "y", "z"))


@NEED_AN_ENVIRONMENT
@pytest.mark.parametrize("simulator", ["norse", "snntorch", "sinabs", "spikingjelly"])
@pytest.mark.parametrize("kind", ["chain", "residuals"])
def test_what_we_write_gives_the_same_spikes_in(simulator, kind, simulators, tmp_path):
    rng = np.random.default_rng(0)
    network = _network(kind, rng)
    write_nir(network, tmp_path / "network.nir")
    steps, codes = 16, rng.integers(0, 4, (3, *network.input_shape)).astype(np.int32)
    np.save(tmp_path / "inputs.npy", np.repeat(network.decode(codes)[None], steps, 0))
    simulators("run", simulator, tmp_path / "network.nir", tmp_path / "inputs.npy", tmp_path / "out.npy")
    theirs = np.load(tmp_path / "out.npy")
    ours = networks.readouts(network, codes, steps)[-1].numpy()
    assert np.array_equal(theirs, ours)
    assert np.unique(ours).size > 3


@NEED_AN_ENVIRONMENT
@pytest.mark.parametrize(
    ("simulator", "kind"), [("snntorch", "lif"), ("snntorch", "cuba"), ("spikingjelly", "if"), ("spikingjelly", "lif")]
)
def test_what_they_write_gives_the_same_spikes_here(simulator, kind, simulators, tmp_path):
    simulators("write", simulator, kind, tmp_path / "network.nir", tmp_path / "ran.npz")
    network = read_nir(tmp_path / "network.nir")
    with np.load(tmp_path / "ran.npz") as ran:
        x, spikes = ran["x"], ran["spikes"]
    assert network.coding == "frames"
    network = SpikingNetwork(**{**vars(network), "input_bits": 1})
    ours = networks.readouts(network, network.encode(np.moveaxis(x, 0, 1), len(x)), len(x)).numpy()
    assert spikes.sum() > 5
    # Our readout counts the spikes of the last neurons. At >= and > they may differ in exact ties alone.
    assert np.abs(ours - np.cumsum(spikes, 0)).max() <= (0 if simulator == "spikingjelly" else 1)
    assert np.mean(ours == np.cumsum(spikes, 0)) > 0.97


@pytest.mark.parametrize(
    "settings",
    [
        Spiking(),
        Spiking(reset="hard"),
        Spiking(voltage_decay=0.125),
        Spiking(voltage_decay=0.125, current_decay=0.5),
        Spiking(coding="rate"),
    ],
)
def test_a_file_of_ours_brings_the_same_network_back(settings, digits, tmp_path):
    model = build(Model(name="mlp"), digits.shape, 10, 0, digits.calibration.x)
    model.layers[-1].weight.data.normal_()
    network = convert(model, digits.calibration, digits.classes, settings).network
    write_nir(network, tmp_path / "network.nir")
    again = read_nir(tmp_path / "network.nir")
    x = digits.test.x[:20]
    assert np.allclose(networks.run(again, x, 8), networks.run(network, x, 8), atol=1e-4)
    assert again.classes == network.classes
    assert [layer.name for layer in again.layers] == [layer.name for layer in network.layers]
    for one, other in zip(again.layers, network.layers, strict=True):
        assert (one.reset, one.start) == (other.reset, other.start)
        assert one.voltage_decay == pytest.approx(other.voltage_decay, rel=1e-5)


def _graph(neurons, extra=None, edges=None):
    nodes = {
        "input": nir.Input({"input": np.array([3])}),
        "fc": nir.Affine(np.eye(3, dtype=np.float32), np.zeros(3, np.float32)),
        "n": neurons,
        "output": nir.Output({"output": np.array([3])}),
        **(extra or {}),
    }
    return nir.NIRGraph(nodes, edges or [("input", "fc"), ("fc", "n"), ("n", "output")], type_check=False)


def _if(threshold=1.0, reset=0.0, r=1.0):
    return nir.IF(*(np.full(3, value, np.float32) for value in (r, threshold, reset)))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (_graph(_if(threshold=0.0)), "'n' has a threshold of 0"),
        (_graph(_if(reset=0.5)), "'n' resets to 0.5"),
        (_graph(nir.Threshold(np.ones(3, np.float32))), r"'n' \(Threshold\) has no form"),
        (_graph(nir.Delay(np.ones(3, np.float32))), r"'n' \(Delay\) has no form"),
        (
            _graph(_if(), edges=[("input", "fc"), ("fc", "n"), ("n", "fc"), ("n", "output")]),
            "feed back on each other",
        ),
        (_graph(nir.Affine(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))), "no spiking neurons"),
        (
            _graph(nir.LIF(*(np.full(3, v, np.float32) for v in (1e-6, 1.0, 0.0, 1.0)), np.zeros(3, np.float32))),
            "time constant below a step",
        ),
        (
            _graph(nir.LIF(np.array([1e-3, 2e-3, 3e-3]), *(np.full(3, v, np.float32) for v in (1.0, 0.0, 1.0, 0.0)))),
            "tau differs from neuron to neuron",
        ),
    ],
)
def test_what_has_no_form_here_is_refused_by_its_name(graph, message, tmp_path):
    nir.write(tmp_path / "network.nir", graph)
    with pytest.raises(ConversionError, match=message):
        read_nir(tmp_path / "network.nir")


def test_pooling_groups_and_scales_are_read(tmp_path):
    rng = np.random.default_rng(1)
    two = np.array([2, 2])
    nodes = {
        "input": nir.Input({"input": np.array([2, 4, 4])}),
        "conv": nir.Conv2d((4, 4), _grid(rng, 4, 1, 3, 3), (1, 1), (1, 1), (1, 1), 2, _grid(rng, 4)),
        "n": nir.IF(*(np.full((4, 4, 4), v, np.float32) for v in (1.0, 1.0, 0.0))),
        "pool": nir.SumPool2d(kernel_size=two, stride=two, padding=np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([4, 2, 2])}, start_dim=0, end_dim=-1),
        "fc": nir.Linear(_grid(rng, 3, 16)),
        "m": nir.IF(*(np.full(3, v, np.float32) for v in (0.5, 2.0, 0.0))),
        "output": nir.Output({"output": np.array([3])}),
    }
    names = list(nodes)
    nir.write(tmp_path / "network.nir", nir.NIRGraph(nodes, list(itertools.pairwise(names)), type_check=False))
    network = read_nir(tmp_path / "network.nir")
    first, last = network.layers[0], network.layers[1]
    assert first.synapses[0].groups == 2
    summed = last.synapses[0].weight.reshape(3, 4, 4, 4)
    wanted = nodes["fc"].weight.reshape(3, 4, 2, 2).repeat(2, 2).repeat(2, 3) * 0.5 / 2.0
    assert np.allclose(summed, wanted)
    assert last.reset == "hard"


def test_broken_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "network.nir"
    with pytest.raises(ConversionError, match="does not exist"):
        read_nir(path)
    for content in (b"", b"no hdf5", np.random.default_rng(0).bytes(4000)):
        path.write_bytes(content)
        with pytest.raises(ConversionError, match=r"not a readable .nir file") as refusal:
            read_nir(path)
        assert "\n" not in str(refusal.value)
    write_nir(_network("chain", np.random.default_rng(0)), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConversionError, match=r"not a readable .nir file"):
        read_nir(path)
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        metadata = file["node/metadata"]
        facts = json.loads(metadata["edgekit"][()])
        del metadata["edgekit"]
        metadata["edgekit"] = json.dumps({**facts, "reset": "soft"})
    with pytest.raises(ConversionError, match="another version of edgekit"):
        read_nir(path)


def test_what_nir_cannot_say_is_refused(digits, tmp_path):
    model = build(Model(name="mlp"), digits.shape, 10, 0)
    network = convert(model, digits.calibration, digits.classes, Spiking(current_decay=0.5)).network
    with pytest.raises(ConversionError, match="NIR has no neurons whose current decays"):
        write_nir(network, tmp_path / "network.nir")
    assert not list(tmp_path.iterdir())
