"""What methods stand: a fifth of 20 clients attacks, on a tenth of MNIST. Needs EDGEKIT_DATA.

    python benchmarks/robustness.py                          a table: accuracy by method and attack, labels iid
    python benchmarks/robustness.py --alpha 0.1              labels by Dirichlet 0.1
    python benchmarks/robustness.py --methods fltrust,rfa --attacks clean,sign --json
    python benchmarks/robustness.py --kept FOLDER            goes on where it was stopped

A cell is the accuracy on 2,000 test images after the last round; of `backdoor` and `replacement` (a boosted backdoor)
also the share of images that the trigger leads to the attackers' class. FLTrust's server has 100 examples. Runs differ
by the seed of clients, batches and attackers.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import mnist
import torch

from edgekit.clients.cohort.memory import keep_freed_memory

METHODS = {
    "fedavg": [],
    "norm-bounding": ["federation.algorithm=norm-bounding"],
    "FedMedian": ["federation.strategy=FedMedian"],
    "FedTrimmedAvg": ["federation.strategy=FedTrimmedAvg", "federation.arguments.beta=0.2"],
    "MultiKrum": [
        "federation.strategy=MultiKrum", "federation.arguments={num_malicious_nodes=4, num_nodes_to_select=16}",
    ],
    "rfa": ["federation.algorithm=rfa"],
    "centred-clipping": ["federation.algorithm=centred-clipping"],
    "fltrust": ["federation.algorithm=fltrust"],
}  # fmt: skip
ATTACKS = ["clean", "label-flip", "sign", "scale", "noise", "little", "min-max", "backdoor", "replacement"]
SHARED = [
    "name=robustness", "data.clients=20", "training.batch_size=16", "training.epochs=1", "training.learning_rate=0.05",
    "training.momentum=0.9", "model.name=mlp", "model.arguments={hidden=[64]}", "data.calibration_examples=100",
    "attack.share=0.2", "training.trainer=client-major",
]  # fmt: skip


def measured(method: str, attack: str, data: Path, alpha: float, rounds: int, seed: int) -> dict[str, float]:
    """Return the accuracy, and how often a backdoor opens."""
    keys = [
        *SHARED, *METHODS[method], f"data.source=npz:{data}", f"federation.rounds={rounds}", f"seed={seed}",
        f"federation.evaluate_every={rounds}", f"attack.kind={'' if attack == 'clean' else attack}",
        *([f"data.alpha={alpha}"] if alpha else ["data.partition=iid"]),
    ]  # fmt: skip
    last = mnist.run(keys)[-1]
    told = last["metrics"].get("attack_success")
    return {"accuracy": last["accuracy"], **({} if told is None else {"success": told})}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="with commas")
    parser.add_argument("--alpha", type=float, default=0.0, help="of Dirichlet's distribution; 0 is iid")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, help="a folder of what was measured, to go on there")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        data = mnist.tenth(place)
        for method in options.methods.split(","):
            rows[method] = {}
            for attack in options.attacks.split(","):
                what = [method, METHODS[method], attack, options.alpha, options.rounds, options.seed, SHARED]
                name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
                kept = options.kept and options.kept / f"{name}.json"
                if kept and kept.exists():
                    rows[method][attack] = json.loads(kept.read_text())
                    continue
                found = measured(method, attack, data, options.alpha, options.rounds, options.seed)
                rows[method][attack] = found
                print(f"{method}, {attack}: {found}", file=sys.stderr)
                if kept:
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    kept.write_text(json.dumps(found))
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'':>18}" + "".join(f"{attack:>14}" for attack in options.attacks.split(",")))
    for method, row in rows.items():
        shown = [
            f"{one['accuracy']:.3f}" + (f" ({one['success']:.2f})" if "success" in one else "") for one in row.values()
        ]
        print(f"{method:>18}" + "".join(f"{one:>14}" for one in shown))


if __name__ == "__main__":
    main()
