"""What ways to train cost a device: against what training really moves, and computed by hand."""

import json

import numpy as np
import pytest
import torch

from edgekit.algorithms.interactive import trained_alike
from edgekit.algorithms.split.device import half
from edgekit.algorithms.split.plan import WHOLE, best, compare, verdict, with_figures
from edgekit.algorithms.split.server import split_cohort
from edgekit.algorithms.split.settings import Split
from edgekit.clients import LocalSettings, LocalTask
from edgekit.clients.settings import Training
from edgekit.clients.torch_trainer import state
from edgekit.data import Examples
from edgekit.devices import profile as profiles
from edgekit.models import build
from edgekit.models.cost import kept, macs
from edgekit.models.cut import CutModel
from edgekit.models.settings import Model

FIGURES = {"gflops": 8.0, "mbit_up": 10.0, "mbit_down": 40.0, "latency_ms": 20.0, "busy_watts": 5.0}
TRAINING = Training(epochs=2, batch_size=8).plain()


@pytest.fixture(scope="module")
def model():
    return build(Model(name="dscnn", norm="group"), (1, 8, 8), 10, 0)


@pytest.fixture(scope="module")
def pi():
    return with_figures(profiles.load("raspberry-pi-4"), FIGURES)


def _by_name(ways):
    return {way.name: way for way in ways}


@pytest.mark.parametrize("labels", ["device", "server"])
@pytest.mark.parametrize("codec", ["float32", "float16", "int8", "top-k"])
def test_a_cut_moves_what_training_moves(model, pi, digits, labels, codec):
    cut, examples = "layers.5", 64
    trainer = split_cohort(Split(cut=cut, labels=labels, codec=codec), model, digits)
    block = Examples(digits.test.x[:examples], digits.test.y[:examples])
    task = LocalTask(block, np.random.default_rng(0), np.random.default_rng(0))
    trained_alike(half, trainer, state(model), LocalSettings(epochs=2, batch_size=8), [task])
    up, down = trainer.take_traffic()
    way = _by_name(compare(model, (1, 8, 8), examples, TRAINING, Split(labels=labels, codec=codec), pi))[cut]
    assert way.bytes_up == pytest.approx(up + trainer.device_bytes, rel=1e-6)
    assert way.bytes_down == pytest.approx(down + trainer.device_bytes, rel=1e-6)


def test_seconds_and_joules_are_those_of_the_profile(model, pi):
    ways = compare(model, (1, 8, 8), 64, TRAINING, Split(), pi)
    whole, way = ways[0], _by_name(ways)["layers.5"]
    size = sum(array.nbytes for array in state(model).values())
    work = 3 * 2 * 64 * macs(model, (1, 8, 8))
    assert (whole.name, whole.bytes_up, whole.bytes_down, whole.macs) == (WHOLE, size, size, work)
    assert whole.seconds == pytest.approx(2 * work / 8e9 + 8 * size / 10e6 + 8 * size / 40e6 + 2 * 0.02)
    assert whole.joules == pytest.approx(5 * whole.seconds)
    cuts = CutModel(model, (1, 8, 8))
    bottom, _, tail = cuts.parts(["layers.5", cuts.cuts[-1].name])
    assert way.macs == 3 * 2 * 64 * (macs(bottom, (1, 8, 8)) + macs(tail, cuts.cuts[-1].shape))
    turns = 2 * 8 * 2  # two a step, eight steps an epoch
    link = 8 * way.bytes_up / 10e6 + 8 * way.bytes_down / 40e6 + turns * 0.02
    assert way.seconds == pytest.approx(2 * way.macs / 8e9 + link)
    pipelined = _by_name(compare(model, (1, 8, 8), 64, TRAINING, Split(window=4), pi))["layers.5"]
    assert way.seconds - pipelined.seconds == pytest.approx(0.02 * turns * 3 / 4)


def test_what_is_not_known_stays_open_and_small_devices_are_told(model, pi):
    unknown = compare(model, (1, 8, 8), 64, TRAINING, Split(), profiles.load("raspberry-pi-4"))
    assert all(way.seconds is None and way.joules is None for way in unknown)
    assert best(unknown).name == WHOLE
    assert "split learning is the wrong choice here" in verdict(unknown)
    ways = compare(model, (1, 8, 8), 64, TRAINING, Split(), pi)
    assert [way.parameters for way in ways[1:]] == sorted(way.parameters for way in ways[1:])
    room = 0.9 * ways[0].memory_mb
    small = compare(model, (1, 8, 8), 64, TRAINING, Split(), with_figures(pi, {"memory_mb": room}))
    assert small[0].fits is False
    assert best(small).memory_mb <= room
    assert f"does not fit this device: cut behind {best(small).name}" in verdict(small)
    none = compare(model, (1, 8, 8), 64, TRAINING, Split(), with_figures(pi, {"memory_mb": 1e-3}))
    assert "use a smaller network" in verdict(none)


def test_costs_are_those_of_the_layers():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 5)
    )
    assert macs(network, (1, 8, 8)) == 36 * 4 * 9 + 144 * 5
    assert kept(network, (1, 8, 8)) == 144 + 144 + 144 + 5


def test_the_command_prints_a_table_and_json(edgekit, fails, tmp_path):
    def run(*arguments):
        return edgekit("split", "plan", *arguments, cwd=tmp_path)

    figures = ("--gflops", "8", "--mbit-up", "10", "--mbit-down", "40", "--busy-watts", "5")
    table = run(*figures)
    assert table.returncode == 0
    assert "federated averaging" in table.stdout
    assert "split learning is the wrong choice here" in table.stdout
    found = json.loads(run("model.name=mlp", "model.arguments={}", "--json").stdout)
    assert found["best"] == "federated averaging"
    assert found["ways"][1]["seconds"] is None
    for arguments, code, problem in (
        (("--device", "toaster"), 2, "no device profile 'toaster'"),
        (("nowhere.toml",), 2, r"nowhere\.toml does not exist"),
        (("split.codec=zip",), 2, r"split\.codec"),
        (("model.name=spiking-cnn", "model.arguments={}"), 1, "cannot be cut"),
    ):
        fails(run(*arguments), code, problem)


def test_a_network_without_a_useful_cut_is_told(pi):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    ways = compare(model, (1, 8, 8), 32, Training().plain(), Split(), pi)
    assert [way.name for way in ways] == ["federated averaging"]
    assert "cannot be split" in verdict(ways)
