"""Hundreds of rounds of real nodes: whether memory and logs stay flat.

    python benchmarks/endurance.py                 500 rounds of two nodes, a table
    python benchmarks/endurance.py --rounds 100 --json

Processes on this machine: coordinator, SuperLink, server app and two nodes with torch, over TLS. A row is a tenth of
the rounds:
    memory_mb      resident, of SuperLink, server app and both nodes
    files_kb       run folder and logs, without checkpoints and metrics (which have a line a round)
    seconds        that a round took, mean over the tenth
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from faults import memory, resident
from fleet import QUICK, Federation


def files(one: Federation) -> float:
    """Return the kilobytes of a federation's files that have no line a round of their own."""
    kept = [path for path in one.folder.rglob("*") if path.is_file() and "checkpoint" not in path.parts]
    return sum(path.stat().st_size for path in kept if path.name != "metrics.jsonl") / 1024


def measured(rounds: int, place: Path) -> list[dict[str, Any]]:
    """Return a row for each tenth of the rounds."""
    overrides = (f"federation.rounds={rounds}", "serve.nodes=2", "data.clients=2", "federation.evaluate_every=50")
    rows = []
    with Federation(place / "endurance", (*QUICK, *overrides)) as one:
        one.serve(codes=2)
        for client in (0, 1):
            one.join(f"node-{client}", "--client", str(client))
        one.wait_for_round(1, 180)
        last = time.perf_counter()
        for tenth in range(1, 11):
            number = max(2, rounds * tenth // 10 - (tenth == 10))  # after the last one the processes end
            one.wait_for_round(number, 60 + 5 * rounds)
            now = time.perf_counter()
            row = {
                "round": number,
                "memory_mb": round(memory(one) + resident(one.server_app()), 1),
                "files_kb": round(files(one), 1),
            }
            rows.append({**row, "seconds": round((now - last) / max(1, rounds // 10), 3)})
            last = now
        one.wait_for_end(300)
        lost = rounds - len(one.rounds())
        rows[-1]["lost_rounds"] = lost
    return rows


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = measured(arguments.rounds, Path(place))
    if arguments.json:
        print(json.dumps({"benchmark": "endurance", "rounds": arguments.rounds, "rows": rows}, indent=2))
        return
    print(f"{'round':>6} {'memory MB':>10} {'files kB':>9} {'s a round':>10}")
    for row in rows:
        print(f"{row['round']:6} {row['memory_mb']:10.1f} {row['files_kb']:9.1f} {row['seconds']:10.3f}")


if __name__ == "__main__":
    main()
