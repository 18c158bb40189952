"""The trainers beside each other, in CPU seconds, and what the rule chooses.

    python benchmarks/trainers.py                a table: plain steps
    python benchmarks/trainers.py --private      clipped sums
    python benchmarks/trainers.py --only dscnn --json

Common steps of a cohort, client after client in compiled steps, and each client by itself. `server/engines/choice.py`
was fitted to these ratios. Each is of one process on one core, the best of three measurements.
"""

import argparse
import contextlib
import json
import os
import platform
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit.asks import Train
from edgekit.clients.client_major.choice import too_large
from edgekit.clients.client_major.trainer import ClientMajorTrainer
from edgekit.clients.cohort.choice import slower
from edgekit.clients.cohort.memory import keep_freed_memory
from edgekit.clients.cohort.trainer import VectorisedTrainer
from edgekit.clients.torch_trainer import TorchTrainer, trained_weights
from edgekit.clients.trainer import LocalTask
from edgekit.data import Examples
from edgekit.errors import ModelError
from edgekit.local_settings import LocalSettings
from edgekit.models import build
from edgekit.models.settings import Model

DIGITS, MNIST, CIFAR = (1, 8, 8), (1, 28, 28), (3, 32, 32)
STEPS = 4
SETTINGS = [(1, 8), (2, 8), (3, 8), (10, 8), (10, 32), (50, 8)]
"""Clients, and examples a step."""
NORMS = ("none", "group", "weight-standardised")


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
        **{f"dscnn {norm}, MNIST": (zoo("dscnn", MNIST, norm=norm), MNIST) for norm in NORMS},
        "dscnn none, digits": (zoo("dscnn", DIGITS), DIGITS),
        "dscnn none, CIFAR": (zoo("dscnn", CIFAR), CIFAR),
        "mobilenetv2 group, digits": (zoo("mobilenetv2", DIGITS, width=0.25, norm="group"), DIGITS),
        "mobilenetv2 group, CIFAR": (zoo("mobilenetv2", CIFAR, width=0.35, norm="group"), CIFAR),
        "cnn, CIFAR": (zoo("cnn", CIFAR), CIFAR),
    }


def zoo(name: str, shape: tuple[int, ...], **more: Any) -> nn.Module:
    """Return a network of the zoo."""
    return build(Model(name=name, **more), shape, 10, 0)


def measured(
    model: nn.Module, shape: tuple[int, ...], clients: int, batch: int, private: bool
) -> tuple[dict[str, float], str]:
    """Return the CPU milliseconds of a client's step by trainer, and the one that the rule chooses."""
    rng = np.random.default_rng(0)
    size = batch * STEPS
    blocks = [Examples(rng.random((size, *shape), np.float32), rng.integers(0, 10, size)) for _ in range(clients)]
    settings = LocalSettings(batch_size=batch)
    if private:
        settings = LocalSettings(work="clipped-sum", sample_rate=1 / STEPS)
    asked, alone = Train(trained_weights(model), settings), TorchTrainer(model)
    trainers: dict[str, Any] = {"cohort": VectorisedTrainer(model)}
    with contextlib.suppress(ModelError):
        trainers["client-major"] = ClientMajorTrainer(model, shape, 10)
        trainers["client-major"].train_cohort([asked], [LocalTask(blocks[0], rng, rng)])  # compiled

    def tasks() -> list[LocalTask]:
        return [LocalTask(block, np.random.default_rng(1), np.random.default_rng(2)) for block in blocks]

    best = dict.fromkeys([*trainers, "one-by-one"], np.inf)
    few, steps = tasks()[:10], 1 if private else STEPS
    for _ in range(3):
        for name, trainer in trainers.items():
            begun = time.process_time()
            trainer.train_cohort([asked] * clients, tasks())
            best[name] = min(best[name], (time.process_time() - begun) / clients)
        begun = time.process_time()
        for task in few:
            alone.train(asked, task)
        best["one-by-one"] = min(best["one-by-one"], (time.process_time() - begun) / len(few))
    rest = "one-by-one" if not private and slower(model, clients) else "cohort"
    ours = trainers.get("client-major")
    chosen = "client-major" if ours and not too_large(model, ours.products, private=private) else rest
    return {name: round(1e3 * seconds / steps, 3) for name, seconds in best.items()}, chosen


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--private", action="store_true", help="clipped sums instead of plain steps")
    parser.add_argument("--only", default="", help="networks whose names have this in them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    for name, (model, shape) in networks().items():
        for clients, batch in SETTINGS if arguments.only in name else ():
            found, chosen = measured(model, shape, clients, batch, arguments.private)
            lost = found[chosen] / min(found.values())
            parameters = sum(p.numel() for p in model.parameters())
            rows.append({
                "network": name, "parameters": parameters, "clients": clients, "batch": batch, "ms": found,
                "chosen": chosen, "lost": round(lost, 3),
            })  # fmt: skip
            if not arguments.json:
                each = ", ".join(f"{trainer} {ms:7.3f}" for trainer, ms in found.items())
                print(
                    f"{name:26}{parameters:>10,} parameters {clients:3} clients of {batch:2}: {each} ms, "
                    f"chosen {chosen} ({lost:.2f} x the best)",
                    flush=True,
                )
    if arguments.json:
        print(json.dumps({"machine": platform.processor() or platform.machine(), "steps": rows}))


if __name__ == "__main__":
    main()
