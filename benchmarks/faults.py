"""Kill processes and cut links of a running federation at random moments, by the hundred; count what is lost.

    python benchmarks/faults.py [--json] [--trials 100] [--seed 0]

A trial breaks one thing in a federation of two nodes that protect their own data, and waits for two more rounds. Lost
are rounds that are missing from metrics.jsonl or there twice; double are charges of a node's ledger for the same work;
hangs are trials in which no round followed in time; unauthorised are strangers whom the coordinator answered. Links
that are cut and slow, full disks and hundreds of idle nodes are tests of their own (tests/devices/test_links.py).
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent))
from cryptography.hazmat.primitives.asymmetric import ec
from fleet import QUICK, Federation

from edgekit.clients.node.folder import NodeFolder
from edgekit.errors import LinkDownError, RefusedError, StaleError
from edgekit.flower.fleet import FleetLink, trusting

DEADLINE_SECONDS = 10
HANG_SECONDS = 120
PRIVATE = (
    "privacy.unit=example",
    "privacy.noise=client",
    "privacy.epsilon=100",
    f"serve.deadline_seconds={DEADLINE_SECONDS}",
)


def kill_node(one: Federation, rng: random.Random) -> None:
    """Kill a node, and start it again."""
    name = rng.choice(sorted(one.nodes))
    one.kill_node(name)
    time.sleep(rng.uniform(0, 2))
    one.start_node(name)


def stop_node(one: Federation, rng: random.Random) -> None:
    """Stop a node's process for a while, as a device that sleeps."""
    process = one.nodes[rng.choice(sorted(one.nodes))]
    process.send_signal(signal.SIGSTOP)
    time.sleep(rng.uniform(0.5, 6))
    process.send_signal(signal.SIGCONT)


def kill_superlink(one: Federation, rng: random.Random) -> None:
    """Kill the SuperLink."""
    os.kill(_there(one.superlink), signal.SIGKILL)


def kill_server_app(one: Federation, rng: random.Random) -> None:
    """Kill the server app, in which the rounds are."""
    os.kill(_there(one.server_app), signal.SIGKILL)


def kill_coordinator(one: Federation, rng: random.Random) -> None:
    """Kill edgekit serve with everything it started, and start it again."""
    assert one.coordinator is not None
    one.coordinator.kill()
    one.coordinator.wait()
    end = time.monotonic() + 30
    while time.monotonic() < end:  # the port is free once the SuperLink has followed
        try:
            one.superlink()
        except ProcessLookupError:
            break
        time.sleep(0.1)
    one.serve(codes=0)


def _there(process: Callable[[], int]) -> int:
    """Return a process's id, once it is there: it may be starting after the trial before."""
    end = time.monotonic() + HANG_SECONDS
    while True:
        try:
            return process()
        except ProcessLookupError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


FAULTS = (kill_node, stop_node, kill_superlink, kill_server_app, kill_coordinator)


def strangers(one: Federation) -> int:
    """Knock in every way that must not be answered; return how often it was."""
    folder = NodeFolder(one.node_folder("a"))
    let_in = 0
    stranger = FleetLink(f"127.0.0.1:{one.port}", folder.authority(), ec.generate_private_key(ec.SECP256R1()))
    impostor = FleetLink(f"127.0.0.1:{one.port}", folder.authority(), NodeFolder(one.node_folder("b")).key())
    impostor.node_id = folder.membership().node_id
    for knock in (stranger.activate, stranger.pull, impostor.pull, impostor.heartbeat):
        try:
            knock()
            let_in += 1
        except (RefusedError, StaleError):
            continue
        except LinkDownError:
            continue  # it is being started again, and lets nobody in
    stranger.close()
    with httpx.Client(verify=trusting(folder.authority() or b""), timeout=5) as client:
        for path in ("/v1/control/start-run", "/v1/runtime/get-nodes", "/v1/fleet/register-node", "/edgekit/codes"):
            try:
                let_in += client.post(f"https://127.0.0.1:{one.port}{path}", content=b"").status_code < 400
            except httpx.HTTPError:
                continue
    return let_in


def lost_rounds(one: Federation) -> int:
    """Return how many rounds are missing, or there twice."""
    numbers = [line["round"] for line in one.rounds()]
    return len(set(range(1, len(numbers) + 1)) ^ set(numbers)) + len(numbers) - len(set(numbers))


def double_charges(one: Federation) -> int:
    """Return how many charges of the nodes' ledgers are for work that was charged before."""
    doubles = 0
    for name in ("a", "b"):
        lines = (one.node_folder(name) / "privacy.jsonl").read_text().splitlines()
        counts = Counter(json.loads(line)["draw"] for line in lines if line.endswith("}"))
        doubles += sum(count - 1 for count in counts.values())
    return doubles


def main() -> None:
    """Break things and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    hangs = unauthorised = 0
    done: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        settings = (f"federation.rounds={max(1000, 20 * given.trials)}", "serve.nodes=2", *PRIVATE)
        with Federation(Path(folder) / "f", (*QUICK, *settings)) as one:
            one.serve(codes=2)
            for number, name in enumerate("ab"):
                one.join(name, "--client", str(number), "--epsilon", "1000")
            one.wait_for_round(2)
            for _ in range(given.trials):
                fault = rng.choice(FAULTS)
                before = len(one.rounds())
                time.sleep(rng.uniform(0, 1.5))
                fault(one, rng)
                done[fault.__name__] += 1
                try:
                    one.wait_for_round(before + 2, HANG_SECONDS)
                except TimeoutError as error:
                    hangs += 1
                    print(error, file=sys.stderr)
                unauthorised += strangers(one)
            rounds, lost, doubles = len(one.rounds()), lost_rounds(one), double_charges(one)
    found = {
        "trials": given.trials,
        "hangs": hangs,
        "lost_rounds": lost,
        "double_charges": doubles,
        "unauthorised": unauthorised,
        "rounds": rounds,
        "faults": dict(sorted(done.items())),
    }
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:16}{value}")


if __name__ == "__main__":
    main()
