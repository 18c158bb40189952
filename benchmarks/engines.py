"""Whole rounds by where clients train: in this process, in two, and as two of Ray's actors.

    python benchmarks/engines.py            a table: 200 of 1000 clients a round
    python benchmarks/engines.py --json     for machines
    python benchmarks/engines.py --only one-by-one

CPU and wall seconds a round (medians after the first), of all processes; `start` is how
much longer the first round took. A line says whether the weights are the same to the last bit.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peers import cpu_seconds

from edgekit import experiment as experiments
from edgekit.clients.cohort.memory import keep_freed_memory
from edgekit.pipeline.subjects import build_network, load_dataset
from edgekit.runfolder import RunFolder
from edgekit.server.loop.metrics import RoundMetrics
from edgekit.server.loop.sync import Coordinator

ENGINES = {
    "here": [],
    "two processes": ["training.workers=2"],
    "two Ray actors": ["federation.engine=ray", "training.workers=2"],
}
TRAINERS = {"client-major": ["model.name=cnn"], "cohort": ["model.name=mixer"], "one-by-one": ["model.name=mixer"]}


def measured(keys: list[str], rounds: int) -> tuple[dict[str, float], bytes]:
    """Return the seconds a round, and the weights."""
    experiment = experiments.load(
        None,
        [
            "data.clients=1000", "data.source=digits", "federation.cohort=200", f"federation.rounds={rounds}",
            "federation.evaluate_every=1000", "training.epochs=4", "training.batch_size=5", *keys,
        ],
    )  # fmt: skip
    dataset = load_dataset(experiment)
    stamps = [(cpu_seconds(of_all=True), time.perf_counter())]

    def ended(metrics: RoundMetrics) -> None:
        stamps.append((cpu_seconds(of_all=True), time.perf_counter()))

    with tempfile.TemporaryDirectory() as place:
        model = build_network(experiment, dataset, dataset.calibration.x)
        made = Coordinator(experiment, dataset, model, RunFolder.create(Path(place) / "run"), ended).run()
    cpu, wall = ([after[i] - before[i] for before, after in itertools.pairwise(stamps)] for i in (0, 1))
    row = {"cpu_s": statistics.median(cpu[1:]), "wall_s": statistics.median(wall[1:])}
    row |= {"start_wall_s": wall[0] - row["wall_s"]}
    bits = b"".join(made.weights[name].tobytes() for name in sorted(made.weights))
    return {name: round(value, 3) for name, value in row.items()}, bits


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--only", default="", help="trainers whose names have this in them")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    result: dict[str, Any] = {}
    for trainer, network in TRAINERS.items():
        if options.only not in trainer:
            continue
        bits = set()
        for engine, keys in ENGINES.items():
            result[f"{trainer}, {engine}"], made = measured(
                [*network, *keys, f"training.trainer={trainer}"], options.rounds
            )
            bits.add(made)
        result[f"{trainer}, the same bits"] = len(bits) == 1
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'':>30}{'CPU s':>9}{'wall s':>9}{'start s':>10}")
    for name, row in result.items():
        shown = [str(row)] if isinstance(row, bool) else [f"{value:.3f}" for value in row.values()]
        print(f"{name:>30}" + "".join(f"{one:>10}" for one in shown))


if __name__ == "__main__":
    main()
