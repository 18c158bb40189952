"""How long an empty round takes over TLS, how soon the first one ends, and what a resident node weighs.

    python benchmarks/deployment.py [--json] [--nodes 10] [--rounds 12]

The round is as empty as a real one can be: 16 examples a node, one pass, a network of 6,570 parameters. Flower's own
SuperNodes run the same app in the same federation, afterwards, on the same machine.
"""

import argparse
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from fleet import PROGRAM, QUICK, Federation, free_port, write_digits


def resident_rounds(place: Path, nodes: int, rounds: int) -> tuple[list[float], float]:
    """Return the seconds of each round with resident LiteRT nodes, and the largest node's memory in MB."""
    parts = write_digits(place, nodes)
    settings = (f"federation.rounds={rounds}", f"serve.nodes={nodes}")
    with Federation(place / "resident", (*QUICK, *settings)) as one:
        one.serve(codes=nodes)
        for number, part in enumerate(parts):
            one.join(f"n{number}", "--data", f"npz:{part}", "--trainer", "litert")
        one.wait_for_end(400)
        memory = max(_resident_mb(node.pid) for node in one.nodes.values())
        return [line["seconds"] for line in one.rounds()], memory


def stock_rounds(place: Path, nodes: int, rounds: int) -> list[float]:
    """Return the seconds of each round with Flower's own SuperNodes."""
    parts = write_digits(place, nodes)
    settings = (f"federation.rounds={rounds}", f"serve.nodes={nodes}", "serve.deadline_seconds=900")
    binaries = Path(sys.executable).parent
    started = []
    with Federation(place / "stock", (*QUICK, *settings)) as one:
        one.serve(codes=nodes)
        try:
            for number, part in enumerate(parts):
                folder = one.node_folder(f"n{number}")
                options = ["--name", f"n{number}", "--data", f"npz:{part}", "--trainer", "litert", "--supernode"]
                command = [*PROGRAM, "join", one.code(), *options, "--folder", str(folder)]
                told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
                program, *arguments = shlex.split(told)
                environment = {
                    **os.environ,
                    "PATH": f"{binaries}:{os.environ['PATH']}",
                    "FLWR_HOME": str(folder / "flwr"),
                }
                with open(place / f"stock-{number}.log", "wb") as log:
                    run = [str(binaries / program), *arguments, "--port", str(free_port())]
                    started.append(
                        subprocess.Popen(run, stdout=log, stderr=log, env=environment, start_new_session=True)
                    )
            one.wait_for_end(1500)
        finally:
            for process in started:
                os.killpg(process.pid, signal.SIGKILL)
        return [line["seconds"] for line in one.rounds()]


def first_round(place: Path) -> float:
    """Return the seconds from `edgekit serve` to the end of the first round with two nodes."""
    started = time.monotonic()
    with Federation(place / "first", (*QUICK, "federation.rounds=1", "serve.nodes=2")) as one:
        one.serve(codes=2)
        for number in range(2):
            one.join(f"n{number}", "--client", str(number), "--trainer", "torch")
        one.wait_for_round(1)
        return time.monotonic() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        first = first_round(place)
        seconds, memory = resident_rounds(place, given.nodes, given.rounds)
        stock = stock_rounds(place, given.nodes, 3)
    found = {
        "nodes": given.nodes,
        "empty_round_seconds": round(statistics.median(seconds[1:]), 3),
        "empty_round_seconds_worst": round(max(seconds[1:]), 3),
        "stock_supernode_round_seconds": round(statistics.median(stock[1:]), 3),
        "resident_node_mb": round(memory, 1),
        "serve_to_first_round_seconds": round(first, 1),
    }
    if given.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{'':52}{'aim':>8}{'found':>10}")
    for label, aim, name in (
        (f"empty round, {given.nodes} resident nodes, TLS, seconds", "<= 1", "empty_round_seconds"),
        ("the same with Flower's SuperNodes, seconds", "", "stock_supernode_round_seconds"),
        ("resident LiteRT node, MB", "<= 150", "resident_node_mb"),
        ("serve to the end of the first round, 2 nodes, seconds", "<= 20", "serve_to_first_round_seconds"),
    ):
        print(f"{label:52}{aim:>8}{found[name]:>10}")


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
