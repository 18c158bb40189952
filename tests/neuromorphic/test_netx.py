"""netx files: lava-dl reads what we write, and Lava then spikes as our emulator does."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.environments import Environment
from edgekit.errors import ConversionError, EdgekitError
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.neuromorphic import convert, quantise
from edgekit.neuromorphic.emulator import Emulator
from edgekit.neuromorphic.netx import write_netx
from edgekit.neuromorphic.settings import Spiking

NETX = Environment("netx-0.6.0", "3.10", ("lava-nc==0.10.0", "h5py"), bare=("lava-dl==0.6.0",))
SCRIPT = Path(__file__).parent / "netx_in_lava.py"


def _integers(model, settings, digits):
    network = build(model, digits.shape, 10, 0, digits.calibration.x)
    network.layers[-1].weight.data.normal_()
    converted = convert(network, digits.calibration, digits.classes, settings).network
    return quantise(converted, 8, digits.calibration.x[:32])


@pytest.mark.long  # installs an environment with lava-dl
@pytest.mark.xdist_group("lava")
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (Model(name="mlp"), Spiking(reset="hard")),
        (
            Model(arguments={"channels": [8, 12], "depthwise_activation": True}),
            Spiking(reset="hard", current_decay=0.5, voltage_decay=0.1),
        ),
    ],
)
def test_lava_dl_reads_the_file_and_lava_spikes_alike(model, settings, digits, tmp_path):
    try:
        NETX.install()
    except EdgekitError as error:
        pytest.skip(f"lava-dl cannot be had here: {error}")
    integers = _integers(model, settings, digits)
    written = write_netx(integers, tmp_path / "network.net")
    codes = np.repeat(integers.encode(digits.test.x[:1]), integers.steps, 0)
    np.save(tmp_path / "codes.npy", codes)
    done = subprocess.run(
        [str(NETX.executable), str(SCRIPT), "network.net", "codes.npy", "out.npz", str(integers.input_bits)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ours = Emulator(written, pipelined=True).run(codes[None], record=True).records
    with np.load(tmp_path / "out.npz") as theirs:
        for number, record in enumerate(ours):
            assert np.array_equal(record.spikes[0].reshape(integers.steps, -1), theirs[str(number)])
        assert np.array_equal(ours[-1].voltages[0].reshape(integers.steps, -1), theirs[str(len(ours))])
    assert sum(int(record.spikes.sum()) for record in ours) > 50


def test_what_netx_cannot_carry_is_refused(digits, tmp_path):
    soft = _integers(Model(name="mlp"), Spiking(), digits)
    with pytest.raises(ConversionError, match="no soft reset.*reset=hard"):
        write_netx(soft, tmp_path / "a.net")
    hard = _integers(Model(name="mlp"), Spiking(reset="hard"), digits)
    first = hard.layers[0]
    changes = {
        "no refractory period": replace(first, neurons=replace(first.neurons, refractory=2)),
        "with delays": replace(first, synapses=(replace(first.synapses[0], delay=1),)),
        "without a positive weight": replace(
            first, synapses=(replace(first.synapses[0], weight=-np.abs(first.synapses[0].weight)),)
        ),
        "no residuals": replace(first, synapses=first.synapses * 2),
    }
    for message, layer in changes.items():
        with pytest.raises(ConversionError, match=message):
            write_netx(replace(hard, layers=(layer, *hard.layers[1:])), tmp_path / "a.net")
    assert not list(tmp_path.iterdir())
