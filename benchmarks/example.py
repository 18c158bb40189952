"""The built-in example as users run it: accuracy with and without privacy, the forms, seconds, memory.

    python benchmarks/example.py             a table, over three seeds
    python benchmarks/example.py --json      for machines
    python benchmarks/example.py --seeds 1   quicker

Each row is a whole `edgekit run` in a process of its own; memory is the largest resident size of any of its processes.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EDGEKIT = str(Path(sys.executable).parent / "edgekit")


def run(*overrides: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        command = [EDGEKIT, "run", "--json", "--out", f"{place}/run", *overrides]
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds = time.perf_counter() - start
    result = json.loads(done.stdout)
    float32, int8 = (result["tflite"][preset]["accuracy"] for preset in ("float32", "int8"))
    return {
        "accuracy": result["accuracy"],
        "epsilon": result["privacy"] and result["privacy"]["epsilon"],
        "int8_loss_points": 100 * (float32 - int8),
        "spiking_loss_points": 100 * (result["accuracy"] - result["spiking"]["accuracy_loihi"]),
        "seconds": seconds,
    }


def help_seconds() -> float:
    taken = []
    for _ in range(7):
        start = time.perf_counter()
        subprocess.run([EDGEKIT, "--help"], stdout=subprocess.DEVNULL, check=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key in rows[0]:
        values = [row[key] for row in rows if row[key] is not None]
        if values:
            result[key] = {
                "mean": round(statistics.mean(values), 4),
                "min": round(min(values), 4),
                "max": round(max(values), 4),
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "private": summary([run(f"seed={seed}") for seed in range(options.seeds)]),
        "not_private": summary([run(f"seed={seed}", "privacy.unit=none") for seed in range(options.seeds)]),
        "memory_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        "help_seconds": round(help_seconds(), 3),
        "cores": len(os.sched_getaffinity(0)),
        "seeds": options.seeds,
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{'':>32}{'mean':>10}{'min':>10}{'max':>10}   ({options.seeds} seeds)")
    for kind in ("private", "not_private"):
        for key, values in result[kind].items():
            print(f"{kind + ' ' + key:>32}" + "".join(f"{values[name]:>10.4f}" for name in ("mean", "min", "max")))
    print(f"memory {result['memory_mib']} MiB; edgekit --help {result['help_seconds']} s")


if __name__ == "__main__":
    main()
