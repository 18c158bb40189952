"""What a network takes of a chip, by hand where that can be done; and decisions before the last step."""

from dataclasses import replace

import numpy as np
import pytest

from edgekit.errors import ConversionError
from edgekit.neuromorphic.decision import affordable, curve, decide, margins
from edgekit.neuromorphic.loihi import Lif, LoihiLayer, LoihiNetwork, LoihiSynapse
from edgekit.neuromorphic.resources import CHIPS, require_fit, resources


def _dense(outputs, inputs, source=-1, fill=2):
    weight = np.full((outputs, inputs), fill, np.int32)
    return LoihiLayer(
        f"{source}", (LoihiSynapse(source, "dense", weight),), Lif(9, np.zeros(outputs, np.int32)), (outputs,)
    )


def _network(*layers, shape):
    return LoihiNetwork(layers, 4, shape, 0.0, 1.0, 1, ())


def test_a_dense_layer_is_divided_by_its_synapses_memory():
    # 2000 neurons of 1500 synapses of 9 bits: a core of 128 KiB holds 1048576 // 13500 = 77 of them.
    found = resources(_network(_dense(2000, 1500), shape=(1500,)), "loihi-1")
    (layer,) = found.layers
    assert layer.neurons_per_core == (77,) * 25 + (75,)
    assert (layer.neurons, layer.synapses, layer.fan_in, layer.fan_out) == (2000, 3_000_000, 1500, 0)
    assert layer.synapse_bytes == 3_000_000 * 9 // 8
    assert found.input_fan_out == 2000
    assert found.cores == 26
    assert found.chips == 1


def test_small_synapses_leave_the_number_of_neurons_as_the_limit():
    network = _network(_dense(2500, 3), _dense(10, 2500, 0), shape=(3,))
    assert resources(network, "loihi-1").layers[0].neurons_per_core == (1024, 1024, 452)
    assert resources(network, "loihi-2").layers[0].neurons_per_core == (2500,)


def test_axons_limit_a_core_too():
    weight = np.zeros((8, 8000), np.int32)
    for neuron in range(8):
        weight[neuron, 1000 * neuron : 1000 * (neuron + 1)] = 2
    layer = LoihiLayer("a", (LoihiSynapse(-1, "dense", weight),), Lif(9, np.zeros(8, np.int32)), (8,))
    found = resources(_network(layer, shape=(8000,)), "loihi-1")
    assert found.layers[0].neurons_per_core == (4, 4)
    weight[0] = 2
    with pytest.raises(ConversionError, match="one neuron has more than the 4096 sources"):
        resources(_network(layer, shape=(8000,)), "loihi-1")


def test_a_convolution_is_stored_once_a_core_on_loihi_2_and_once_a_connection_on_loihi_1():
    weight = np.full((16, 3, 3, 3), 4, np.int32)
    synapse = LoihiSynapse(-1, "conv", weight, padding=(1, 1))
    layer = LoihiLayer("a", (synapse,), Lif(9, np.zeros((16, 20, 20), np.int32)), (16, 20, 20))
    network = _network(layer, shape=(3, 20, 20))
    one, two = (resources(network, chip) for chip in ("loihi-1", "loihi-2"))
    connections = 16 * 3 * (3 * 20 - 2) ** 2  # three rows and columns each, one fewer at the borders
    assert one.synapses == two.synapses == connections
    assert one.layers[0].synapse_bytes == -(-connections * 9 // 8)
    assert two.layers[0].synapse_bytes == -(-16 * 27 * 9 // 8)
    assert two.layers[0].neurons_per_core == (6400,)
    assert one.cores == 7
    assert one.layers[0].fan_in == 27
    assert sum(one.layers[0].neurons_per_core) == 6400


def test_a_network_beyond_a_chip_is_refused():
    found = resources(_network(_dense(20000, 1500), shape=(1500,)), "loihi-1")
    assert found.chips == 3
    with pytest.raises(ConversionError, match="needs 260 cores of Loihi 1, and a chip has 128"):
        require_fit(found)
    with pytest.raises(ConversionError, match="one neuron's synapses need more than the 128 KiB"):
        resources(_network(_dense(2, 200_000), shape=(200_000,)), "loihi-1")
    assert all(chip.source for chip in CHIPS.values())
    silent = _network(
        replace(_dense(5, 7), synapses=(LoihiSynapse(-1, "dense", np.zeros((5, 7), np.int32)),)), shape=(7,)
    )
    assert resources(silent, "loihi-1").synapses == 0


def test_a_decision_falls_at_the_first_step_whose_lead_is_enough():
    readout = np.array([[[0, 1, 0], [5, 9, 1], [0, 9, 20]], [[9, 0, 0], [9, 0, 0], [9, 0, 0]]], np.int32)
    labels = np.array([2, 0])
    assert margins(readout).tolist() == [[1, 4, 11], [9, 9, 9]]
    assert vars(decide(readout, labels, 4)) == {"margin": 4, "accuracy": 0.5, "steps": 1.5}
    assert vars(decide(readout, labels, 9)) == {"margin": 9, "accuracy": 1.0, "steps": 2.0}
    assert decide(readout, labels, np.inf).steps == 3.0
    assert affordable(readout, labels) == pytest.approx(9.0, abs=0.2)
    points = curve(readout, readout, labels)
    assert [point.steps for point in points] == sorted(point.steps for point in points)


def test_a_wide_convolution_is_charged_the_kernels_of_its_cores_channels():
    """Its whole kernel is larger than a core; one channel's is not."""
    weight = np.full((256, 128, 3, 3), 4, np.int32)
    synapse = LoihiSynapse(-1, "conv", weight, padding=(1, 1))
    layer = LoihiLayer("wide", (synapse,), Lif(9, np.zeros((256, 4, 4), np.int32)), (256, 4, 4))
    found = resources(_network(layer, shape=(128, 4, 4)), "loihi-2").layers[0]
    each = 128 * 9 * 9  # bits of one channel's kernel
    channels = (192 << 13) // each
    assert found.neurons_per_core[0] == 16 * channels
    assert sum(found.neurons_per_core) == 4096
