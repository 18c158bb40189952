"""A method of edgekit in a stock Flower app, on Flower's own simulation: FedDyn, ten clients of handwritten digits.

pip install 'edgekit[train,ray]'
python examples/flower_app.py
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from sklearn.datasets import load_digits
from torch import nn

from edgekit.algorithms.as_strategy import strategy_of
from edgekit.clients import LocalSettings
from edgekit.clients.flower_app import client_app_of
from edgekit.data import Examples

CLIENTS, ROUNDS = 10, 10


def digits() -> Examples:
    """Return all digits, in an order that mixes them."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return Examples((images[order] / 16).astype(np.float32), labels[order].astype(np.int64))


def own_digits(context: Context) -> Examples:
    """Return a client's own."""
    held, place = digits(), int(context.node_config["partition-id"])
    return Examples(held.x[place:1500:CLIENTS], held.y[place:1500:CLIENTS])


def network() -> nn.Module:
    """Return the network."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


client_app = client_app_of("feddyn", network, own_digits)
server_app = ServerApp()


def accuracy(number: int, arrays: ArrayRecord) -> MetricRecord:
    """Measure a round's model on digits that no client has."""
    held, model = digits(), network()
    model.load_state_dict(arrays.to_torch_state_dict())
    right = model(torch.from_numpy(held.x[1500:])).argmax(1).numpy() == held.y[1500:]
    print(f"round {number}: accuracy {right.mean():.3f}")
    return MetricRecord({"accuracy": float(right.mean())})


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds."""
    strategy = strategy_of("feddyn", LocalSettings(epochs=2, batch_size=16, learning_rate=0.1), least=CLIENTS)
    strategy.start(grid, ArrayRecord(network().state_dict()), num_rounds=ROUNDS, evaluate_fn=accuracy)


if __name__ == "__main__":
    run_simulation(server_app, client_app, CLIENTS)
