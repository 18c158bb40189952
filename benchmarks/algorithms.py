"""Federated methods beside each other on MNIST. Needs EDGEKIT_DATA; each run goes on where it was stopped.

    python benchmarks/algorithms.py personal        100 clients with two shards of labels: their own held-back images
    python benchmarks/algorithms.py rounds          10 clients, Dirichlet 0.1: rounds until FedAvg's accuracy
    python benchmarks/algorithms.py niid            10 clients, Dirichlet 0.5, 50 rounds of 10 epochs, as in NIID-Bench
    python benchmarks/algorithms.py table           20 clients at Dirichlet 0.1, 0.5 and 10000: methods side by side
    python benchmarks/algorithms.py niid --methods fedavg,scaffold --kept FOLDER --json

`personal`: mean and worst tenth of the clients' accuracies on what they hold back, of their own models where the method
has some; 6,000 images, 40 rounds. `rounds`: the accuracy of FedAvg's best of 60 rounds on 6,000 images, and the first
round in which each method has it. `niid`: the best accuracy over the rounds of a network of convolutions 6 and 16 of
5 x 5 and dense layers 120 and 84, batches of 64, step size 0.01, momentum 0.9; about an hour each on one core.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import mnist
import torch
from torch import nn

from edgekit import experiment as experiments
from edgekit.clients.cohort.memory import keep_freed_memory
from edgekit.data import FederatedDataset
from edgekit.experiment import Experiment
from edgekit.pipeline.subjects import build_network, load_dataset
from edgekit.runfolder import RunFolder, read_lines
from edgekit.server.loop.metrics import RoundMetrics
from edgekit.server.loop.sync import Coordinator

MLP = ["model.name=mlp", "model.arguments={hidden=[64]}", "training.batch_size=16"]
PERSONAL = [
    *MLP, "data.clients=100", "data.partition=shards", "data.client_test_fraction=0.25", "federation.rounds=40",
    "training.epochs=2", "training.learning_rate=0.05", "federation.evaluate_every=40",
]  # fmt: skip
ROUNDS = [
    *MLP, "data.clients=10", "data.alpha=0.1", "federation.rounds=60", "training.epochs=5",
    "training.learning_rate=0.05",
]  # fmt: skip
TABLE = [
    *MLP, "data.clients=20", "data.client_test_fraction=0.25", "federation.rounds=40", "training.epochs=2",
    "training.learning_rate=0.05", "federation.evaluate_every=40", "data.calibration_examples=200",
]  # fmt: skip
ALPHAS = (0.1, 0.5, 10000.0)
NIID = [
    "data.clients=10", "data.alpha=0.5", "federation.rounds=50", "training.epochs=10", "training.batch_size=64",
    "training.learning_rate=0.01", "training.momentum=0.9", "training.trainer=client-major",
]  # fmt: skip
METHODS: dict[str, dict[str, list[str]]] = {
    "personal": {
        "fedavg": [],
        "personal": ["federation.algorithm=personal", 'federation.arguments.layers=["layers.3"]'],
        "ditto": ["federation.algorithm=ditto", "federation.arguments.pull=0.1"],
        "ifca": ["federation.algorithm=ifca", "federation.arguments.clusters=5"],
        "qfedavg": ["federation.algorithm=qfedavg", "federation.arguments.q=1"],
        "perfedavg": ["federation.algorithm=perfedavg"],
        "fedmd": ["federation.algorithm=fedmd", "data.calibration_examples=500"],
    },
    "rounds": {
        "fedavg": [],
        "fedprox": ["federation.algorithm=fedprox", "federation.arguments.proximal_mu=0.01"],
        "scaffold": ["federation.algorithm=scaffold"],
        "feddyn": ["federation.algorithm=feddyn", "federation.arguments.alpha=0.05"],
        "feddf": ["federation.algorithm=feddf", "data.calibration_examples=500"],
        "fedavg-500": ["data.calibration_examples=500"],
        "fednova": ["federation.algorithm=fednova"],
    },
    "niid": {
        "fedavg": [],
        "scaffold": ["federation.algorithm=scaffold"],
        "fedprox": ["federation.algorithm=fedprox", "federation.arguments.proximal_mu=0.01"],
        "fednova": ["federation.algorithm=fednova"],
        "feddyn": ["federation.algorithm=feddyn", "federation.arguments.alpha=0.01"],
    },
}
METHODS["table"] = {
    **{name: [f"federation.algorithm={name}"] for name in ("scaffold", "fednova", "qfedavg", "feddf", "fedmd", "rfa")},
    **{name: keys for name, keys in METHODS["personal"].items() if name in ("personal", "ditto", "perfedavg", "ifca")},
    **{name: METHODS["rounds"][name] for name in ("fedprox", "feddyn")},
}
METHODS["table"] = {"fedavg": [], **METHODS["table"]}
KEYS = {"personal": PERSONAL, "rounds": ROUNDS, "niid": NIID, "table": TABLE}


def lenet() -> nn.Module:
    """Return NIID-Bench's network for MNIST."""
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
    last = [nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*first, nn.Flatten(), *last)


def trained(part: str, experiment: Experiment, dataset: FederatedDataset, place: Path) -> list[dict[str, Any]]:
    """Train, or go on; return the metrics of all rounds."""
    folder = RunFolder.open(place) if (place / "experiment.toml").exists() else RunFolder.create(place)
    experiments.save(experiment, folder.experiment)
    model = lenet() if part == "niid" else build_network(experiment, dataset, dataset.calibration.x)

    def told(metrics: RoundMetrics) -> None:
        if part == "niid":
            print(f"{place.name}: round {metrics.round}, {metrics.accuracy}", file=sys.stderr, flush=True)

    done = list(read_lines(folder.metrics)) if folder.metrics.exists() else []
    if len(done) < experiment.federation.rounds:
        Coordinator(experiment, dataset, model, folder, told).run()
    return list(read_lines(folder.metrics))


def row(part: str, lines: list[dict[str, Any]], best: float) -> dict[str, float]:
    """Return a method's figures.

    Args:
        part: of the benchmark.
        lines: of its rounds.
        best: accuracy of FedAvg's best round.
    """
    if part == "table":
        ways = ("bytes_up", "bytes_down")
        sizes = {way: sum(line[way] for line in lines) / sum(line["cohort"] for line in lines) / 1e3 for way in ways}
        return {"global": lines[-1]["accuracy"], "own": lines[-1]["clients"]["mean"], **sizes}
    if part == "personal":
        told = lines[-1]["clients"]
        return {"mean": told["mean"], "worst_tenth": told["worst_tenth"], "global": lines[-1]["accuracy"]}
    reached = [line["round"] for line in lines if line["accuracy"] >= best]
    return {"best": max(line["accuracy"] for line in lines), "reached": reached[0] if reached else float("nan")}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(METHODS))
    parser.add_argument("--methods", help="with commas; all by default, fedavg first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, help="a folder for the runs, to go on there")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    part, rows, best = options.part, {}, 0.0
    with tempfile.TemporaryDirectory() as place:
        data = mnist.whole() if part == "niid" else mnist.tenth(place)
        for method in (options.methods or ",".join(METHODS[part])).split(","):
            for alpha in ALPHAS if part == "table" else [None]:
                keys = [*KEYS[part], *METHODS[part][method], f"data.source=npz:{data}", f"seed={options.seed}"]
                keys += [] if alpha is None else [f"data.alpha={alpha}"]
                name = method if alpha is None else f"{method} {alpha:g}"
                experiment = experiments.load(None, [f"name={part}", *keys])
                folder = (options.kept or Path(place)) / f"{part}-{name}-{options.seed}".replace(" ", "-")
                lines = trained(part, experiment, load_dataset(experiment), folder)
                if name == "fedavg":
                    best = max(line["accuracy"] or 0.0 for line in lines)
                rows[name] = row(part, lines, best)
                print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'':>16}" + "".join(f"{name:>14}" for name in next(iter(rows.values()))))
    for method, figures in rows.items():
        print(f"{method:>16}" + "".join(f"{value:>14.4f}" for value in figures.values()))


if __name__ == "__main__":
    main()
