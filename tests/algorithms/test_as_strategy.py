"""Our methods in a stock Flower app, on Flower's own simulation."""

import os
import subprocess
import sys

import numpy as np
import pytest
from torch import nn

from edgekit.algorithms.as_strategy import strategy_of
from edgekit.clients.torch_trainer import load_weights
from edgekit.data import load
from edgekit.errors import ExperimentError
from edgekit.local_settings import LocalSettings
from edgekit.runfolder import RunFolder
from edgekit.server.loop.sync import Coordinator

from .reference import QUICK

APP = """
import sys
import numpy as np
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from torch import nn
from edgekit.algorithms.as_strategy import strategy_of
from edgekit.clients import LocalSettings
from edgekit.clients.flower_app import client_app_of
from edgekit.data import Examples
from edgekit.flower import to_record

method = sys.argv[1]

def examples(context):
    held = np.load("data.npz")
    place = context.node_config["partition-id"]
    return Examples(held[f"x{place}"], held[f"y{place}"])

def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

server = ServerApp()

@server.main()
def main(grid, context):
    first = np.load("first.npz")
    settings = LocalSettings(epochs=2, batch_size=16, learning_rate=0.2)
    strategy = strategy_of(method, settings, least=6)
    made = strategy.start(grid, to_record({name: first[name] for name in first.files}), num_rounds=3)
    np.savez("last.npz", **{name: array.numpy() for name, array in made.arrays.items()})

run_simulation(server, client_app_of(method, network, examples), 6)
"""


@pytest.mark.long
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("method", ["feddyn", "ifca"])
def test_a_stock_flower_app_ends_where_our_own_loop_does(method, make_experiment, tmp_path):
    """Controls of clients lie in their contexts; single updates are read by one of the two."""
    experiment = make_experiment(*QUICK, "data.alpha=0.3", f"federation.algorithm={method}")
    dataset = load(experiment.data, 0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    first = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    made = Coordinator(experiment, dataset, model, RunFolder.create(tmp_path / "run")).run()
    held = {}
    for client in range(6):
        own = dataset.client(client)
        held |= {f"x{client}": own.x, f"y{client}": own.y}
    np.savez(tmp_path / "data.npz", **held)
    np.savez(tmp_path / "first.npz", **first)
    told = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", APP, method], cwd=tmp_path, env=told, capture_output=True, text=True, timeout=300
    )
    assert (tmp_path / "last.npz").exists(), done.stderr[-2000:]
    last = np.load(tmp_path / "last.npz")
    for name, array in made.weights.items():
        np.testing.assert_allclose(last[name], array, atol=1e-5)
    load_weights(model, dict(last))


@pytest.mark.parametrize(
    ("method", "more", "problem"),
    [
        ("heterofl", {}, "what only edgekit's own loop can ask"),
        ("fedbn", {}, "looks at the network first"),
        ("feddinn", {}, "did you mean 'feddyn'"),
        ("fedavg", {"settings": LocalSettings(update_clip=1.0, update_noise=1.0)}, "counts no privacy"),
        ("fedavg", {"fraction": 0.0}, "fraction is 0"),
        ("feddyn", {"arguments": {"alpha": -1}}, "do not fit feddyn: alpha"),
    ],
)
def test_what_a_flower_app_cannot_do_is_one_line(method, more, problem):
    with pytest.raises(ExperimentError, match=problem):
        strategy_of(method, **more)
