"""The emulator against Lava 0.10 itself: every spike, current and voltage of networks that Lava ran.

`lava_golden.npz` was made by `make_lava_golden.py`, which runs Intel's Lava in a Python 3.10 of its own.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from edgekit.neuromorphic import emulator
from edgekit.neuromorphic.emulator import Emulator
from edgekit.neuromorphic.energy import fan_out
from edgekit.neuromorphic.loihi import Lif, LoihiLayer, LoihiNetwork, LoihiSynapse, load, save

GOLDEN = np.load(Path(__file__).parent / "lava_golden.npz", allow_pickle=False)
CASES = json.loads(str(GOLDEN["cases"]))
SIGNS = {1: "mixed", 2: "excitatory", 3: "inhibitory"}


def _network(case: int) -> LoihiNetwork:
    layers = []
    for number, described in enumerate(CASES[case]["layers"]):
        synapse = LoihiSynapse(
            number - 1,
            described["kind"],
            GOLDEN[f"{case}.{number}.weights"],
            tuple(described["stride"]),
            tuple(described["padding"]),
            described["groups"],
            described["num_message_bits"],
            tuple(described["dilation"]),
            described["weight_exp"],
            described["num_weight_bits"],
            SIGNS[described["sign_mode"]],
        )
        bias = GOLDEN[f"{case}.{number}.bias_mant"].astype(np.int32)
        layers.append(
            LoihiLayer(
                str(number),
                (synapse,),
                Lif(
                    described["vth"],
                    bias,
                    described["bias_exp"],
                    described["du"],
                    described["dv"],
                    described["reset"],
                ),
                bias.shape,
            )
        )
    shape = GOLDEN[f"{case}.input"].shape[2:]
    return LoihiNetwork(tuple(layers), CASES[case]["steps"], shape, 0.0, 1.0, 8, ())


@pytest.mark.parametrize("case", range(len(CASES)), ids=[described["name"] for described in CASES])
def test_every_spike_current_and_voltage_equals_lavas(case):
    activity = emulator.run(_network(case), GOLDEN[f"{case}.input"], record=True)
    for number, recorded in enumerate(activity.records):
        for kind, ours in zip(("spikes", "u", "v"), recorded, strict=True):
            assert np.array_equal(ours, GOLDEN[f"{case}.{number}.{kind}"]), (number, kind)


def test_the_golden_networks_are_worth_comparing():
    spikes = sum(GOLDEN[f"{i}.{j}.spikes"].sum() for i, c in enumerate(CASES) for j in range(len(c["layers"])))
    assert len(CASES) >= 24
    assert spikes > 5000


def test_chunks_and_constant_input_change_nothing():
    network = _network(0)
    inputs = GOLDEN["0.input"]
    whole, chunked = emulator.run(network, inputs), Emulator(network).run(inputs, chunk=1)
    assert np.array_equal(whole.scores, chunked.scores)
    constant = emulator.run(network, inputs[:, 0])
    repeated = emulator.run(network, np.repeat(inputs[:, :1], network.steps, 1))
    assert np.array_equal(constant.scores, repeated.scores)


@pytest.mark.parametrize("case", [0, 12, 19, 26])
def test_a_network_survives_its_file(case, tmp_path):
    network = _network(case)
    save(network, tmp_path / "loihi.npz")
    again = load(tmp_path / "loihi.npz")
    one, other = (emulator.run(n, GOLDEN[f"{case}.input"]).scores for n in (network, again))
    assert np.array_equal(one, other)
    assert again.layers[0].synapses[0].stride == network.layers[0].synapses[0].stride


def test_two_sources_add_up_before_the_neuron():
    rng = np.random.default_rng(0)
    weights = [2 * rng.integers(-60, 60, (5, 7)).astype(np.int32) for _ in range(2)]
    bias = np.zeros(5, np.int32)
    pair = tuple(LoihiSynapse(-1, "dense", weight, message_bits=4) for weight in weights)
    one = (LoihiSynapse(-1, "dense", weights[0] + weights[1], message_bits=4),)
    codes = rng.integers(0, 16, (3, 7)).astype(np.int32)
    records = [
        emulator.run(
            LoihiNetwork((LoihiLayer("a", synapses, Lif(300, bias), (5,)),), 6, (7,), 0.0, 1.0, 4, ()), codes, record=True
        ).records[0]
        for synapses in (pair, one)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*records, strict=True))
    assert records[0][0].any()


def test_the_fan_out_counts_every_connection_also_at_the_border():
    weight = np.random.default_rng(0).integers(-3, 4, (4, 2, 3, 3)).astype(np.int32)
    synapse = LoihiSynapse(0, "conv", weight, stride=(2, 1), padding=(1, 1), groups=2)
    counted = fan_out(synapse, (4, 5, 6))
    connected = torch.from_numpy((weight != 0).astype(float))
    for channel, row, column in np.ndindex(4, 5, 6):
        one = torch.zeros(1, 4, 5, 6, dtype=torch.float64)
        one[0, channel, row, column] = 1
        reached = F.conv2d(one, connected, None, (2, 1), (1, 1), 1, 2)
        assert counted[channel, row, column] == (reached > 0).sum()
