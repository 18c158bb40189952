"""Simulated devices on MNIST: who is chosen, who waits for whom, and what it costs to simulate. Needs EDGEKIT_DATA.

    python benchmarks/fleets.py selection     1,000 devices over their day: hours and joules until an accuracy
    python benchmarks/fleets.py stragglers    rounds that wait for all of their clients, and steps that do not (FedBuff)
    python benchmarks/fleets.py day           CPU seconds that a day of 1,000 devices costs
    python benchmarks/fleets.py profile       the clock's seconds of this machine beside its real ones
    python benchmarks/fleets.py selection --selectors uniform,oort --seeds 3 --json

`selection` and `stragglers`: 1,000 clients of 60 images each, cohorts of 50, a small MLP, 400 phones of two kinds, 300
boards of the slowest kind, 300 others; devices of one kind differ by a factor of e (`spread = 1`); ratios are to the
first row. `profile`: rounds of other batch sizes, epochs and examples than those that were measured; the least of
twenty times.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mnist
import numpy as np

from edgekit import experiment as experiments
from edgekit.asks import Train
from edgekit.clients.torch_trainer import TorchTrainer, trained_weights
from edgekit.data import Examples
from edgekit.data.batches import LocalTask
from edgekit.devices import profile as profiles
from edgekit.devices.population.kinds import PASSES, Work, population_of
from edgekit.models.cost import macs
from edgekit.pipeline.profiling import measured
from edgekit.pipeline.subjects import build_network, load_dataset
from edgekit.randomness import generator

POPULATION = '{"raspberry-pi-zero-2" = 300, "raspberry-pi-4" = 300, "pixel-7" = 250, "galaxy-a14" = 150}'
COMMON = [
    "data.clients=1000", "data.partition=dirichlet", "data.alpha=1.0", "model.name=mlp",
    "training.epochs=5", "training.batch_size=10", "training.learning_rate=0.05", "federation.cohort=50",
    f"devices.population={POPULATION}", "devices.spread=1.0",
]  # fmt: skip
TARGET = 0.9
SELECTORS = ("uniform", "battery-aware", "oort", "power-of-choice", "fair", "round-robin")


def reached(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return hours, rounds and joules until the target; None of a run that did not get there."""
    joules = 0.0
    for line in lines:
        joules += line["devices"]["joules"]
        if line["accuracy"] is not None and line["accuracy"] >= TARGET:
            hours = (line["devices"]["clock"] - line["devices"]["began"]) / 3600
            return {"hours": round(hours, 4), "rounds": line["round"], "joules": round(joules, 1)}
    return {"hours": None, "rounds": None, "joules": None}


def compared(ways: dict[str, list[str]], seeds: int) -> list[dict[str, Any]]:
    """Train by each way; return a row a way with medians over the seeds, and ratios to the first."""
    rows: list[dict[str, Any]] = []
    for name, keys in ways.items():
        found = []
        started = time.process_time()
        for seed in range(seeds):
            lines = mnist.run([*COMMON, *keys, f"data.source=npz:{mnist.whole()}", f"seed={seed}"])
            found.append(reached(lines))
            print(f"{name}, seed {seed}: {found[-1]}", file=sys.stderr)
        row: dict[str, Any] = {"way": name}
        for key in ("hours", "rounds", "joules"):
            values = [one[key] for one in found]
            row[key] = None if None in values else float(np.median(values))
        row["cpu_seconds"] = round((time.process_time() - started) / seeds, 1)
        for key in ("hours", "joules"):
            first = (rows[0] if rows else row)[key]
            row[f"{key}_ratio"] = None if row[key] is None or not first else round(row[key] / first, 3)
        rows.append(row)
    return rows


def selection(names: Sequence[str], seeds: int, rounds: int) -> list[dict[str, Any]]:
    """Compare selectors."""
    return compared({name: [f"federation.selector={name}", f"federation.rounds={rounds}"] for name in names}, seeds)


def stragglers(seeds: int, rounds: int) -> list[dict[str, Any]]:
    """Compare rounds with steps, as many updates each."""
    buffered = ["federation.algorithm=fedbuff", "federation.arguments={buffer = 10}", f"federation.rounds={5 * rounds}"]
    always = "devices.availability=always"
    ways = {
        "fedavg, waits for all": [always, f"federation.rounds={rounds}"],
        "fedavg, 1.3 times asked": [always, f"federation.rounds={rounds}", "devices.over_selection=1.3"],
        "fedbuff, buffers of 10": [always, *buffered],
    }
    return compared(ways, seeds)


def day() -> list[dict[str, Any]]:
    """Simulate a day of rounds that begin five minutes apart."""
    started = time.process_time()
    keys = ["federation.rounds=288", "devices.every_seconds=300", "federation.evaluate_every=24", "training.epochs=1"]
    lines = mnist.run([*COMMON, *keys, f"data.source=npz:{mnist.whole()}"])
    last = lines[-1]
    return [
        {
            "rounds": last["round"],
            "hours": round((last["devices"]["clock"] - last["devices"]["began"]) / 3600, 2),
            "updates": sum(line["replies"] for line in lines),
            "accuracy": last["accuracy"],
            "cpu_seconds": round(time.process_time() - started, 1),
        }
    ]


def profile() -> list[dict[str, Any]]:
    """Hold the clock's seconds of this machine against its real ones."""
    rows = []
    for model in ("mlp", "cnn", "dscnn"):
        keys = [f"model.name={model}", f"data.source=npz:{mnist.whole()}"]
        experiment = experiments.load(None, keys)
        dataset = load_dataset(experiment)
        network = build_network(experiment, dataset, dataset.calibration.x)
        found = measured(network, dataset.calibration, experiment.training, 1, lambda line: None)
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "this.toml"
            profiles.save(found, path)
            people = population_of({str(path): 1}, 1, 0, 0.0)
        trainer, weights = TorchTrainer(network), trained_weights(network)
        operations = float(PASSES * macs(network, dataset.shape))
        for examples, batch, epochs in ((60, 10, 5), (100, 20, 1), (48, 48, 3), (500, 25, 1)):
            places = np.arange(examples) % len(dataset.calibration)
            own = Examples(dataset.calibration.x[places], dataset.calibration.y[places])
            settings = experiments.load(None, [f"training.batch_size={batch}", f"training.epochs={epochs}"]).training
            real = []
            for again in range(20):
                task = LocalTask(own, generator(0, "batches", again), generator(0, "noise"))
                started = time.perf_counter()
                trainer.train(Train(weights, settings.plain()), task)
                real.append(time.perf_counter() - started)
            steps = -(-examples // batch) * epochs
            figures = (0.0, examples * epochs, steps, 0.0, operations)
            work = Work(*(np.array([float(one)]) for one in figures))
            virtual = float(people.seconds(np.array([0]), work)[1][0])
            rows.append(
                {
                    "network": model,
                    "round": f"{examples} examples, batches of {batch}, {epochs} epochs",
                    "real_ms": round(1e3 * min(real), 2),
                    "virtual_ms": round(1e3 * virtual, 2),
                    "ratio": round(virtual / min(real), 3),
                }
            )
    return rows


def main() -> None:
    """Run one part; print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["selection", "stragglers", "day", "profile"])
    parser.add_argument("--selectors", default=",".join(SELECTORS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.part == "selection":
        rows = selection(given.selectors.split(","), given.seeds, given.rounds)
    elif given.part == "stragglers":
        rows = stragglers(given.seeds, given.rounds)
    else:
        rows = day() if given.part == "day" else profile()
    if given.json:
        print(json.dumps({"target": TARGET, "rows": rows}, indent=1))
        return
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join("-" if value is None else str(value) for value in row.values()))


if __name__ == "__main__":
    main()
