"""What tests of methods share: digits, trained by a linear classifier."""

import pytest
from torch import nn

from edgekit.clients.torch_trainer import state
from edgekit.data import load
from edgekit.runfolder import RunFolder, read_lines
from edgekit.server.loop.sync import Coordinator

from .reference import QUICK


@pytest.fixture
def run(tmp_path, make_experiment):
    """Train digits with a linear classifier; return the coordinator, first and last weights, and the folder."""

    def train(*overrides, name="run"):
        experiment = make_experiment(*QUICK, "data.alpha=0.3", *overrides)
        dataset = load(experiment.data, 0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        folder = RunFolder.create(tmp_path / name)
        made = Coordinator(experiment, dataset, model, folder)
        first = state(model)
        return made, first, made.run().weights, folder

    return train


@pytest.fixture
def measured(run):
    """Train with clients that hold a quarter back; return the coordinator, its last weights, and metrics' lines."""

    def train(*overrides):
        made, _, found, folder = run("data.client_test_fraction=0.25", *overrides)
        return made, found, list(read_lines(folder.metrics))

    return train
