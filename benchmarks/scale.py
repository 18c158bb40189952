"""What large federations cost: memory and time of rounds, by clients in all and clients a round.

    python benchmarks/scale.py             a table
    python benchmarks/scale.py --rounds 20 --json

Rows, each a process of its own, the 13.7k network of `simulation.py`, 15 digits a client, drawn when it is asked:
    fedavg      1,000 and 1,000,000 clients, 1,000 a round; 1,000,000 clients, 10,000 a round
    scaffold    the same, each client's control variates on the disk
The process's largest memory, imports (`before`) included, and the median seconds of a round, the first left out.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CASES = [
    (algorithm, clients, cohort)
    for algorithm in ("fedavg", "scaffold")
    for clients, cohort in ((1000, 1000), (1_000_000, 1000), (1_000_000, 10_000))
]


def megabytes() -> int:
    """Return the largest memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def one(algorithm: str, clients: int, cohort: int, rounds: int) -> dict[str, Any]:
    """Run a federation in this process, and return what it cost."""
    import nets
    import numpy as np
    import torch
    from sklearn.datasets import load_digits

    from edgekit import experiment as experiments
    from edgekit.data import Examples, FederatedDataset
    from edgekit.runfolder import RunFolder
    from edgekit.server.loop.sync import Coordinator

    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    x, y = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8), labels.astype(np.int64)

    def client(number: int) -> Examples:
        chosen = np.random.default_rng(number).integers(0, 1400, 15)
        return Examples(x[chosen], y[chosen])

    names = [str(digit) for digit in range(10)]
    test, own = Examples(x[1400:], y[1400:]), Examples(x[:100], y[:100])
    dataset = FederatedDataset(clients, client, test, own, names, "digits", total_examples=15 * clients)
    model = nets.build("small")
    settings: dict[str, Any] = {
        "federation": {"rounds": rounds, "cohort": cohort, "algorithm": algorithm},
        "training": {"trainer": "client-major"},
    }
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        made = Coordinator(experiments.of(settings), dataset, model, run, lambda line: seconds.append(line.seconds))
        before = megabytes()
        made.run()
        files = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {
        "algorithm": algorithm, "clients": clients, "cohort": cohort, "before_mb": before, "most_mb": megabytes(),
        "round_s": round(statistics.median(seconds[1:] or seconds), 3), "folder_mb": round(files / 1e6, 1),
    }  # fmt: skip


def main() -> None:
    """Measure each case in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        print(json.dumps(one(*CASES[arguments.case], arguments.rounds)))
        return
    rows = []
    for case in range(len(CASES)):
        command = [sys.executable, __file__, "--case", str(case), "--rounds", str(arguments.rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        if not arguments.json:
            print(
                "{algorithm:10}{clients:>10,} clients, {cohort:>6,} a round: {round_s:7.2f} s a round, {most_mb:5} MB "
                "({before_mb} before), folder {folder_mb} MB".format(**rows[-1]),
                flush=True,
            )
    if arguments.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
