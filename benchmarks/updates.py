"""What small updates cost: accuracy and bytes up beside whole updates, on a tenth of MNIST. Needs EDGEKIT_DATA.

    python benchmarks/updates.py             a table, means of five seeds
    python benchmarks/updates.py --json      for machines
    python benchmarks/updates.py --seeds 2 --rounds 20

An MLP of 64, labels by Dirichlet 0.5, a step size of 0.05. `all`: 10 clients, all of them in each round; `tenth`: 100
clients, ten a round. `points` is the mean difference of the last accuracy to whole updates with the same seed, and
`bytes` the share of their bytes.
"""

import argparse
import json
import statistics
import sys
import tempfile
from typing import Any

import mnist
import torch

from edgekit.clients.cohort.memory import keep_freed_memory

SHARED = [
    "name=updates", "model.name=mlp", "model.arguments={hidden=[64]}", "data.alpha=0.5", "training.batch_size=16",
    "training.epochs=1", "training.learning_rate=0.05", "training.momentum=0.9", "training.trainer=client-major",
]  # fmt: skip
WHO = {
    "all": ["data.clients=10"],
    "tenth": ["data.clients=100", "federation.cohort=10"],
}
WHOLE = "whole"


def sent(name: str, **arguments: Any) -> list[str]:
    """Return the overrides of a transform."""
    return [f"federation.transforms={json.dumps([{'name': name, 'arguments': arguments}])}".replace('": ', '" = ')]


ROWS = {
    WHOLE: [],
    "top-k 0.66 %": sent("top-k", share=0.0066),
    "top-k 1 %": sent("top-k", share=0.01),
    "top-k 2 %": sent("top-k", share=0.02),
    "top-k 0.66 %, no feedback": sent("top-k", share=0.0066, feedback=False),
    "random-k 10 %": sent("random-k", share=0.1),
    "8 bits": sent("quantise", bits=8),
    "4 bits": sent("quantise", bits=4),
    "sign": sent("sign"),
}


def measured(keys: list[str]) -> tuple[float, int]:
    """Return the last accuracy, and the bytes that clients sent."""
    lines = mnist.run(keys)
    return lines[-1]["accuracy"], sum(line["bytes_up"] for line in lines)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--rows", default=",".join(ROWS), help="beside whole updates")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        data = mnist.tenth(place)
        for who, clients in WHO.items():
            found: dict[str, list[tuple[float, int]]] = {}
            chosen = {WHOLE, *options.rows.split(",")}
            for name, keys in ((name, keys) for name, keys in ROWS.items() if name in chosen):
                more = [f"data.source=npz:{data}", f"federation.rounds={options.rounds}"]
                more.append(f"federation.evaluate_every={options.rounds}")
                found[name] = [measured([*SHARED, *clients, *keys, *more, f"seed={s}"]) for s in range(options.seeds)]
                pairs = list(zip(found[name], found[WHOLE], strict=True))
                result[f"{who}, {name}"] = {
                    "accuracy": round(statistics.mean(own for own, _ in found[name]), 4),
                    "points": round(100 * statistics.mean(own[0] - other[0] for own, other in pairs), 2),
                    "bytes": round(statistics.mean(own[1] / other[1] for own, other in pairs), 4),
                }
                print(f"{who}, {name}: {result[f'{who}, {name}']}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'':>34}{'accuracy':>10}{'points':>9}{'bytes':>9}")
    for name, row in result.items():
        print(f"{name:>34}{row['accuracy']:>10.4f}{row['points']:>9.2f}{row['bytes']:>9.4f}")


if __name__ == "__main__":
    main()
