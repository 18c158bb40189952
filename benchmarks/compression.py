"""What makes a network smaller, and what each costs: on MNIST, 100 clients, Dirichlet 0.5. Needs EDGEKIT_DATA.

    python benchmarks/compression.py                            a table
    python benchmarks/compression.py --rows base,channels --rounds 20 --json

10 clients a round make two epochs of batches of 16, FedAvgM 0.7, rate 0.1; the base is a `dscnn` of 63,000 weights.
Rows:
    base            as it is, in all rounds
    channels        a third of the multiply-adds, cut in three steps from 20 to 40 % of the rounds
    weights         90 % zeros, in eight steps from 20 to 70 % of the rounds
    ticket          a lottery ticket of 90 % zeros, back to round 2; it has twice the rounds, for both trainings
    random          likewise, its zeros in other places, as many by layer
    reinitialised   likewise, its zeros in their places, from other first weights
    alone           a tenth of the weights from the start
    student         likewise, taught by the base for 70 % of its loss at temperature 3
    int8, int4      the base, which rounds as these files do from 70 % of the rounds on; in place of `int8` is its file
    NAME, NAME-int8, NAME-int4     the same of mobilenetv2, mobilenetv3 (widths 0.35) and cnn-vit
and of each
    accuracy        of the global model after the last round
    parameters, nonzero, macs
    float32, int8   of its files: bytes, gzip, median microseconds on one thread of this machine, accuracy
    megabytes       that clients sent, all rounds together
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from silent import Silent

from edgekit import experiment as experiments
from edgekit.pipeline import job
from edgekit.runfolder import read_lines

SHARED = [
    "name=compression", "data.clients=100", "data.alpha=0.5", "federation.cohort=10", "training.batch_size=16",
    "training.epochs=2", "training.learning_rate=0.1", "training.schedule=cosine", "federation.strategy=FedAvgM",
    "federation.arguments={server_momentum=0.7}", "federation.evaluate_every=1000", "privacy.unit=none",
    "spiking.enabled=false", "model.name=dscnn", "export.tolerance=1.0",
]  # fmt: skip
LARGE = ["model.arguments={channels=[32, 64, 128, 160, 160]}"]
SMALL = ["model.arguments={channels=[12, 24, 40, 40, 40]}"]
PRUNE = ['compression.stages=["prune"]']
TICKET = ['compression.stages=["ticket"]', "compression.ticket.sparsity=0.9"]
QUANTISE = ['compression.stages=["quantise"]']
FOUR = ["compression.quantise.format=int4", 'export.presets=["float32","int4"]']
OTHERS = {
    "mobilenetv2": ["model.name=mobilenetv2", "model.width=0.35", "training.learning_rate=0.05"],
    "mobilenetv3": ["model.name=mobilenetv3", "model.width=0.35", "training.learning_rate=0.05"],
    "cnn-vit": ["model.name=cnn-vit", "model.norm=group", "training.learning_rate=0.05"],
}
ROWS: dict[str, list[str]] = {
    "base": LARGE,
    "channels": [
        *LARGE, *PRUNE, "compression.prune.kind=channels", "compression.prune.macs=0.333", "compression.prune.steps=3",
        "compression.prune.begin=0.2", "compression.prune.end=0.4",
    ],
    "weights": [
        *LARGE, *PRUNE, "compression.prune.sparsity=0.9", "compression.prune.steps=8", "compression.prune.begin=0.2",
        "compression.prune.end=0.7",
    ],
    "ticket": [*LARGE, *TICKET],
    "random": [*LARGE, *TICKET, "compression.ticket.mask=random"],
    "reinitialised": [*LARGE, *TICKET, "compression.ticket.start=reinitialised"],
    "alone": SMALL,
    "student": [*SMALL, 'compression.stages=["distil"]'],
    "int8": [*LARGE, *QUANTISE],
    "int4": [*LARGE, *QUANTISE, *FOUR],
    **OTHERS,
    **{f"{name}-int8": [*own, *QUANTISE] for name, own in OTHERS.items()},
    **{f"{name}-int4": [*own, *QUANTISE, *FOUR] for name, own in OTHERS.items()},
}  # fmt: skip


def measured(name: str, place: Path, data: Path, rounds: int, seed: int) -> dict[str, Any]:
    """Train one row; return its figures."""
    own = [f"data.source=npz:{data / 'mnist.npz'}", f"seed={seed}"]
    own += [f"federation.rounds={2 * rounds if name in ('ticket', 'random', 'reinitialised') else rounds}"]
    if name == "student":
        own.append(f"compression.distil.teacher={place / 'base'}")
    result = job.run(experiments.load(None, [*SHARED, *own, *ROWS[name]]), place / name, Silent())
    last = result.get("compression", [{}])[-1]
    files = last.get("files") or {
        preset: {"bytes": made["bytes"], "accuracy": made["accuracy"], "latency_us": _median(made)}
        for preset, made in result["tflite"].items()
    }
    return {
        "accuracy": result["accuracy"],
        "parameters": result["parameters"],
        "nonzero": last.get("nonzero", result["parameters"]),
        "macs": result["macs"],
        **files,
        "megabytes": round(sum(line["bytes_up"] for line in read_lines(place / name / "metrics.jsonl")) / 1e6, 1),
    }


def _median(made: dict[str, Any]) -> float:
    return float(next(iter(made["latency_us"].values()))["median"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    quick = [name for name in ROWS if not name.startswith(tuple(OTHERS))]
    parser.add_argument("--rows", default=",".join(quick), help=f"by name, with commas: {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if "EDGEKIT_DATA" not in os.environ:
        sys.exit("EDGEKIT_DATA is not set: the folder with mnist.npz")
    wanted = arguments.rows.split(",")
    if "student" in wanted and "base" not in wanted:
        wanted.insert(0, "base")
    found = {}
    headings = (("accuracy", 9), ("weights", 9), ("not zero", 9), ("macs", 11), ("float32", 10), ("us", 7), ("int8", 9))
    if not arguments.json:
        print(
            " " * 14
            + "".join(
                f"{text:>{wide}}" for text, wide in (*headings, ("us", 7), ("MB sent", 9), ("its file", 9), ("<= 1", 7))
            )
        )
    with tempfile.TemporaryDirectory() as place:
        for name in wanted:
            row = found[name] = measured(
                name, Path(place), Path(os.environ["EDGEKIT_DATA"]), arguments.rounds, arguments.seed
            )
            if not arguments.json:
                row["int8"] = row.get("int8", row.get("int4", {}))
                files = "".join(
                    f"{row[preset]['bytes']:>{wide},}{row[preset]['latency_us']:>7.1f}"
                    if row.get(preset)
                    else " " * (wide + 7)
                    for preset, wide in (("float32", 10), ("int8", 9))
                )
                print(
                    f"{name:<14}{row['accuracy']:>9.4f}{row['parameters']:>9,}{row['nonzero']:>9,}{row['macs']:>11,}{files}"
                    f"{row['megabytes']:>9.1f}   {row['int8'].get('accuracy', 0):.4f}"
                    + (f" {row['int8']['within_one_quantum']:.4f}" if "within_one_quantum" in row["int8"] else ""),
                    flush=True,
                )
    if arguments.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
