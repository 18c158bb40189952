"""The cohort's common steps against one client after the other, in CPU seconds, beside what the rule chooses.

    python benchmarks/trainers.py            a table
    python benchmarks/trainers.py --json     for machines

`clients/cohort/choice.py` was fitted to these ratios. Each is of one process, the better of three measurements.
"""

import argparse
import json
import platform
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit.asks import Train
from edgekit.clients.cohort.choice import slower
from edgekit.clients.cohort.memory import keep_freed_memory
from edgekit.clients.cohort.trainer import VectorisedTrainer
from edgekit.clients.torch_trainer import TorchTrainer, state
from edgekit.clients.trainer import LocalTask
from edgekit.data import Examples
from edgekit.local_settings import LocalSettings
from edgekit.models import build
from edgekit.models.settings import Model

DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
STEPS = 4
SETTINGS = [(1, 8), (2, 8), (3, 8), (10, 8), (10, 32), (50, 8)]
"""Clients, and examples a step."""


def perceptron(hidden: int, shape: tuple[int, ...]) -> nn.Module:
    """Return a network of two dense layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), hidden), nn.ReLU(), nn.Linear(hidden, 10))


def convolutions(channels: int, hidden: int, shape: tuple[int, ...]) -> nn.Module:
    """Return a network such as first tutorials have."""
    first = [nn.Conv2d(shape[0], channels, 5), nn.ReLU(), nn.MaxPool2d(2)]
    body = nn.Sequential(*first, nn.Conv2d(channels, 2 * channels, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    width = body(torch.zeros(1, *shape)).shape[1]
    return nn.Sequential(*body, nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def networks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return the networks, and the shape of what they take."""
    wide = {f"dense {hidden}": (perceptron(hidden, MNIST), MNIST) for hidden in (64, 256, 1024, 2048)}
    return {
        "dense 32, digits": (perceptron(32, DIGITS), DIGITS),
        **wide,
        "convolutions 6, CIFAR": (convolutions(6, 120, CIFAR), CIFAR),
        "convolutions 16, CIFAR": (convolutions(16, 128, CIFAR), CIFAR),
        "convolutions 32, MNIST": (convolutions(32, 128, MNIST), MNIST),
        "dscnn": (build(Model(name="dscnn"), DIGITS, 10, 0), DIGITS),
        "mobilenetv2": (build(Model(name="mobilenetv2", width=0.25), DIGITS, 10, 0), DIGITS),
    }


def measured(model: nn.Module, shape: tuple[int, ...], clients: int, batch: int) -> tuple[float, float]:
    """Return the CPU milliseconds of a client's step: in a cohort, and alone."""
    rng = np.random.default_rng(0)
    size = batch * STEPS
    blocks = [Examples(rng.random((size, *shape), np.float32), rng.integers(0, 10, size)) for _ in range(clients)]
    asked = Train(state(model), LocalSettings(batch_size=batch))
    together, alone = VectorisedTrainer(model), TorchTrainer(model)

    def tasks() -> list[LocalTask]:
        return [LocalTask(block, np.random.default_rng(1), np.random.default_rng(2)) for block in blocks]

    best = [np.inf, np.inf]
    few = tasks()[:10]
    for _ in range(3):
        begun = time.process_time()
        together.train_cohort([asked] * clients, tasks())
        between = time.process_time()
        for task in few:
            alone.train(asked, task)
        best[0] = min(best[0], (between - begun) / clients)
        best[1] = min(best[1], (time.process_time() - between) / len(few))
    return 1e3 * best[0] / STEPS, 1e3 * best[1] / STEPS


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    for name, (model, shape) in networks().items():
        for clients, batch in SETTINGS:
            cohort, alone = measured(model, shape, clients, batch)
            chosen = "alone" if slower(model, clients) else "cohort"
            row = {
                "network": name, "parameters": sum(p.numel() for p in model.parameters()), "clients": clients,
                "batch": batch, "cohort_ms": round(cohort, 3), "alone_ms": round(alone, 3), "chosen": chosen,
            }  # fmt: skip
            rows.append(row)
            if not arguments.json:
                lost = (cohort if chosen == "cohort" else alone) / min(cohort, alone)
                print(
                    f"{name:24}{row['parameters']:>10,} parameters {clients:3} clients of {batch:2}: "
                    f"cohort {cohort:7.3f} ms, alone {alone:7.3f} ms, chosen {chosen:6} ({lost:.2f} x the better)",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps({"machine": platform.processor() or platform.machine(), "steps": rows}))


if __name__ == "__main__":
    main()
