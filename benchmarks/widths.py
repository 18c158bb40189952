"""Clients of unequal widths, together and each width alone: on MNIST, 100 clients, IID. Needs EDGEKIT_DATA.

    python benchmarks/widths.py                                 a table
    python benchmarks/widths.py --rows change,fixed --rounds 20 --json

As Flower's rerun of HeteroFL: 10 clients a round, 5 epochs of batches of 10, SGD with rate 0.01, momentum 0.9; the
network is the paper's at its levels c, d and e (widths 1/4, 1/8 and 1/16 of 64-128-256-512 channels), with group norms.
Rows:
    change          HeteroFL, each client draws its width anew in each round
    fixed           HeteroFL, each client has one width for ever
    no-scaler       as `change`, without the scaler
    fjord           FjORD with fixed widths, on a network without norms
    c, d, e         one width alone, all clients train it
and of each the accuracy by level, after the last round, in %, and the megabytes that clients sent.
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

LEVELS = {"c": 0.25, "d": 0.125, "e": 0.0625}
SHARED = [
    "name=widths", "data.clients=100", "data.partition=iid", "federation.cohort=10", "training.batch_size=10",
    "training.epochs=5", "training.learning_rate=0.01", "training.momentum=0.9", "federation.evaluate_every=1000",
    "privacy.unit=none", "spiking.enabled=false", "model.name=cnn", "model.norm=group", "export.presets=[]",
    "model.arguments={channels=[64, 128, 256, 512]}",
]  # fmt: skip
SLICED = ["federation.algorithm=heterofl", "federation.arguments.widths=[1.0, 0.5, 0.25]", "model.width=0.25"]
ROWS: dict[str, list[str]] = {
    "change": [*SLICED, "federation.arguments.change=true"],
    "fixed": SLICED,
    "no-scaler": [*SLICED, "federation.arguments.change=true", "federation.arguments.scaler=false"],
    "fjord": [*SLICED, "federation.algorithm=fjord", "model.norm=none"],
    **{name: [f"model.width={width}"] for name, width in LEVELS.items()},
}


def measured(name: str, place: Path, data: Path, rounds: int, seed: int, more: list[str]) -> dict[str, Any]:
    """Train one row; return its figures."""
    own = [f"data.source=npz:{data / 'mnist.npz'}", f"seed={seed}", f"federation.rounds={rounds}"]
    result = job.run(experiments.load(None, [*SHARED, *own, *ROWS[name], *more]), place / name, Silent())
    if "widths" in result:
        levels = dict(zip(LEVELS, (row["accuracy"] for row in result["widths"].values()), strict=True))
    else:
        levels = {name: result["accuracy"]}
    megabytes = round(sum(line["bytes_up"] for line in read_lines(place / name / "metrics.jsonl")) / 1e6, 1)
    return {**levels, "megabytes": megabytes}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="change,fixed,c,d,e", help=f"by name, with commas: {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("more", nargs="*", metavar="section.key=value", help="changes to the experiment")
    arguments = parser.parse_args()
    if "EDGEKIT_DATA" not in os.environ:
        sys.exit("EDGEKIT_DATA is not set: the folder with mnist.npz")
    found = {}
    if not arguments.json:
        print(" " * 10 + "".join(f"{text:>9}" for text in (*LEVELS, "MB sent")))
    with tempfile.TemporaryDirectory() as place:
        for name in arguments.rows.split(","):
            data = Path(os.environ["EDGEKIT_DATA"])
            row = found[name] = measured(name, Path(place), data, arguments.rounds, arguments.seed, arguments.more)
            if not arguments.json:
                levels = "".join(f"{100 * row[level]:9.2f}" if level in row else " " * 9 for level in LEVELS)
                print(f"{name:10}{levels}{row['megabytes']:9.1f}", flush=True)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
