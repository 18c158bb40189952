"""Federated methods beside federated averaging, on handwritten digits shared unequally.

    python benchmarks/methods.py             a table, over three seeds
    python benchmarks/methods.py --json      for machines
    python benchmarks/methods.py --seeds 1   quicker

Rows, a linear classifier on 10 clients after 20 rounds of 3 epochs, batches of 8, step size 0.5:
    scaffold    test accuracy at Dirichlet 0.1
    fedprox     likewise, with mu 0.1
    fednova     test accuracy at Dirichlet 0.1, step size 0.1, where half of the clients make 1 epoch a round and the
                others 10, beside fedavg with the same
    personal    accuracy on each client's own held-back digits, mean and worst tenth, with two digits a client (40 of
                them, an MLP whose last layer stays)
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgekit import experiment as experiments
from edgekit.algorithms.base import Algorithm, Client, Half, State
from edgekit.algorithms.fedavg import FedAvg
from edgekit.algorithms.fednova import FedNova
from edgekit.asks import Ask
from edgekit.data import load
from edgekit.models import build
from edgekit.runfolder import RunFolder, read_lines
from edgekit.server.loop.sync import Coordinator

LINEAR = ["model.name=mlp", "model.arguments={hidden=[]}", "data.clients=10", "federation.rounds=20"]
LINEAR += ["training.epochs=3", "training.batch_size=8", "training.learning_rate=0.5"]
SHARDS = ["model.name=mlp", "data.partition=shards", "data.clients=40", "data.client_test_fraction=0.2"]
SHARDS += ["federation.rounds=30", "training.learning_rate=0.1"]


class _Uneven(Algorithm):
    """Clients that make unequal numbers of epochs, each its own: half of them 1, the others 10."""

    def ask(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        asks = super().ask(state, clients, number)
        return {client: replace(ask, config={"epochs": 10 if client % 2 else 1}) for client, ask in asks.items()}

    def local(self, ask: Ask, client: Client) -> Half:
        settings = replace(ask.settings, epochs=ask.config["epochs"])
        return (yield from super().local(replace(ask, settings=settings), client))


class UnevenFedAvg(_Uneven, FedAvg):
    """Federated averaging of them."""


class UnevenFedNova(_Uneven, FedNova):
    """FedNova of them."""


def run(seed: int, *overrides: str) -> dict[str, Any]:
    """Train; return the last line of metrics."""
    experiment = experiments.load(None, [f"seed={seed}", *overrides])
    dataset = load(experiment.data, seed)
    model = build(experiment.model, dataset.shape, 10, seed, dataset.calibration.x)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder.create(Path(place) / "run")
        Coordinator(experiment, dataset, model, folder).run()
        return list(read_lines(folder.metrics))[-1]


def rows(seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return the figures, means over seeds."""

    def mean(read: Any, *overrides: str) -> float:
        return round(statistics.mean(read(run(seed, *overrides)) for seed in seeds), 4)

    def accuracy(line: dict[str, Any]) -> float:
        return float(line["accuracy"])

    skewed, own = [*LINEAR, "data.alpha=0.1"], "federation.arguments.layers=['layers.5']"
    uneven = [*LINEAR, "data.alpha=0.1", "training.learning_rate=0.1"]
    averaged = mean(accuracy, *skewed)
    here = "federation.algorithm=__main__:"
    found = {
        "scaffold": {"fedavg": averaged, "method": mean(accuracy, *skewed, "federation.algorithm=scaffold")},
        "fedprox": {"fedavg": averaged, "method": mean(accuracy, *skewed, "federation.algorithm=fedprox")},
        "fednova": {
            "fedavg": mean(accuracy, *uneven, f"{here}UnevenFedAvg"),
            "method": mean(accuracy, *uneven, f"{here}UnevenFedNova"),
        },
    }
    for key in ("mean", "worst_tenth"):
        found[f"personal, {key}"] = {
            "fedavg": mean(lambda line, key=key: line["clients"][key], *SHARDS),
            "method": mean(lambda line, key=key: line["clients"][key], *SHARDS, "federation.algorithm=personal", own),
        }
    return found


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = rows(range(arguments.seeds))
    if arguments.json:
        print(json.dumps({"benchmark": "methods", "seeds": arguments.seeds, "rows": found}, indent=2))
        return
    print(f"{'':24} {'fedavg':>8} {'method':>8}")
    for name, row in found.items():
        print(f"{name:24} {row['fedavg']:8.4f} {row['method']:8.4f}")


if __name__ == "__main__":
    main()
