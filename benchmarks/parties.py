"""What parties with features of the same people gain by learning together, and what aligning them costs.

    python benchmarks/parties.py [--json] [--ids 20000]

`examples/two-halves.toml`: one party has the left half of each digit, the other the right. Beside it, each half alone
and both in one place: networks of the same kind, trained by torch on the same people, with as many batches. Then the
time of a private set intersection with one party, both sides in this process, on a thread.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgekit import experiment as experiments
from edgekit.algorithms.interactive import run
from edgekit.algorithms.parties.simulated import PartiesTogether, align
from edgekit.algorithms.split.device import half
from edgekit.asks import Ask, Client
from edgekit.clients import LocalSettings
from edgekit.clients.torch_trainer import state
from edgekit.data import batches
from edgekit.models import build
from edgekit.pipeline.subjects import build_network, load_dataset
from edgekit.privacy.intersection import Side
from edgekit.server.loop.evaluation import evaluate

EXAMPLE = Path(__file__).parent.parent / "examples" / "two-halves.toml"


def accuracies() -> dict[str, float]:
    """Return the accuracy of learning together, of each half alone, and of both halves in one place."""
    experiment = experiments.load(EXAMPLE)
    dataset = load_dataset(experiment)
    model = build_network(experiment, dataset, dataset.calibration.x)
    parties = PartiesTogether(experiment.split, model, dataset, experiment.seed, lambda line: None)
    training, rounds = experiment.training, experiment.federation.rounds
    settings = LocalSettings(
        epochs=training.epochs, batch_size=training.batch_size, learning_rate=training.learning_rate
    )
    weights = {name: array.copy() for name, array in state(model).items()}
    for number in range(1, rounds + 1):
        asks = dict.fromkeys(range(len(parties.features)), Ask({"weights": weights}, settings=settings, round=number))
        tasks = {party: parties.task(party, number) for party in asks}
        made = run(half, parties, asks, {party: Client(1, frozenset()) for party in asks}, tasks)[0]
        weights = made.bundles["weights"]
    found = {"together": evaluate(model, weights, dataset.test)[1]}

    y, rows = parties.labels, parties.features
    ends = np.cumsum(dataset.widths)
    places: dict[str, Any] = {
        "left half alone": slice(0, ends[0]), "right half alone": slice(ends[0], ends[1]),
        "both halves in one place": slice(0, ends[1]),
    }  # fmt: skip
    x = np.concatenate(rows, -1)
    for name, place in places.items():
        network = build(
            experiment.model, (*dataset.shape[:-1], x[..., place].shape[-1]), len(dataset.classes), experiment.seed,
            dataset.calibration.x[..., place],
        )  # fmt: skip
        train(network, np.ascontiguousarray(x[..., place]), y, settings, rounds)
        with torch.no_grad():
            scores = network.eval()(torch.from_numpy(np.ascontiguousarray(dataset.test.x[..., place])))
        found[name] = float((scores.argmax(1).numpy() == dataset.test.y).mean())
    return found


def train(network: nn.Module, x: Any, y: Any, settings: LocalSettings, rounds: int) -> None:
    """Train a network in one place."""
    optimiser = torch.optim.SGD(network.train().parameters(), settings.learning_rate)
    for number in range(rounds):
        for chosen in batches.draw(len(y), settings, np.random.default_rng(number)):
            optimiser.zero_grad()
            F.cross_entropy(network(torch.from_numpy(x[chosen])), torch.from_numpy(y[chosen])).backward()
            optimiser.step()


def alignment(ids: int) -> float:
    """Return the milliseconds an id that an intersection takes."""
    names = [f"person {number}" for number in range(ids)]
    started = time.perf_counter()
    rows, _ = align(names, [Side(names[ids // 10 :])])
    assert len(rows) == ids - ids // 10
    return 1000 * (time.perf_counter() - started) / ids


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--ids", type=int, default=20_000, help="of the intersection that is timed")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = accuracies()
    milliseconds = alignment(given.ids)
    if given.json:
        named = {f"{name.replace(' ', '_')}_accuracy": round(value, 4) for name, value in found.items()}
        print(json.dumps({**named, "intersection_ms_an_id": round(milliseconds, 4)}, indent=2))
        return
    for name, value in found.items():
        print(f"{name:28}{100 * value:8.2f} %")
    print(f"{'an intersection, an id':28}{milliseconds:8.3f} ms")


if __name__ == "__main__":
    main()
