"""Kill processes and cut links of a running federation at random moments, by the hundred; count what is lost.

    python benchmarks/faults.py [--json] [--trials 100] [--seed 0] [--into FILE]

A trial breaks one thing in a federation of two nodes that protect their own data, and waits for two more rounds. Lost
are rounds that are missing from metrics.jsonl or there twice; double are charges of a node's ledger for the same work;
hangs are trials in which no round followed in time; unauthorised are strangers whom the coordinator answered.
Memory is that of the processes that last, at the beginning and at the end. With --into a file, each trial is added
there as it ends, to those that are in it: hundreds can be had in several goes.

Links that are cut and slow, full disks and hundreds of idle nodes are tests of their own (tests/devices/test_links.py).
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
from typing import Any

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


def stop_node_for_long(one: Federation, rng: random.Random) -> None:
    """Stop a node's process until its round has ended without it."""
    process = one.nodes[rng.choice(sorted(one.nodes))]
    process.send_signal(signal.SIGSTOP)
    time.sleep(DEADLINE_SECONDS + rng.uniform(1, 4))
    process.send_signal(signal.SIGCONT)


def end_node(one: Federation, rng: random.Random) -> None:
    """Ask a node to end, in the middle of whatever it does, and start it again."""
    name = rng.choice(sorted(one.nodes))
    one.nodes[name].terminate()
    if one.nodes[name].wait(30):
        raise RuntimeError(f"a node that was asked to end gave {one.nodes[name].returncode}")
    one.start_node(name)


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
    _gone(one)
    one.serve(codes=0)


def stop_coordinator(one: Federation, rng: random.Random) -> None:
    """Stop edgekit serve as people do, once or twice, and start it again."""
    assert one.coordinator is not None
    one.coordinator.send_signal(signal.SIGINT)
    if rng.random() < 0.5:
        time.sleep(rng.uniform(0, 1))
        one.coordinator.send_signal(signal.SIGINT)
    one.coordinator.wait()
    one.serve(codes=0)


def damage_database(one: Federation, rng: random.Random) -> None:
    """Kill edgekit serve, and write over a part of the SuperLink's database."""
    assert one.coordinator is not None
    one.coordinator.kill()
    one.coordinator.wait()
    _gone(one)
    database = one.folder / "home" / "coordinator" / "superlink.db"
    content = bytearray(database.read_bytes())
    place = rng.choice((0, rng.randrange(len(content) // 2)))
    content[place : place + 20_000] = rng.randbytes(20_000)
    database.write_bytes(content)
    one.serve(codes=0)


def _gone(one: Federation) -> None:
    """Wait until the SuperLink has followed its coordinator: then its port is free."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            one.superlink()
        except ProcessLookupError:
            return
        time.sleep(0.1)


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


FAULTS = (
    kill_node,
    stop_node,
    stop_node_for_long,
    end_node,
    kill_superlink,
    kill_server_app,
    kill_coordinator,
    stop_coordinator,
    damage_database,
)
RECOVERED = ("kill_superlink", "kill_server_app", "kill_coordinator")
"""Faults whose seconds until the next finished round are told."""


def memory(one: Federation) -> float:
    """Return the resident memory of the SuperLink and of both nodes, in MB."""
    return sum(resident(pid) for pid in (_there(one.superlink), *(node.pid for node in one.nodes.values())))


def resident(pid: int) -> float:
    """Return a process's resident memory, in MB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


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


def trial(one: Federation, rng: random.Random) -> dict[str, Any]:
    """Break one thing, and wait for two rounds; return what came of it."""
    fault = rng.choice(FAULTS)
    rounds = len(one.rounds())
    time.sleep(rng.uniform(0, 1.5))
    fault(one, rng)
    since, hangs = time.monotonic(), 0
    try:
        one.wait_for_round(len(one.rounds()) + 1, HANG_SECONDS)
        seconds = time.monotonic() - since
        one.wait_for_round(rounds + 2, HANG_SECONDS)
    except TimeoutError as error:
        hangs, seconds = 1, HANG_SECONDS
        print(error, file=sys.stderr)
    return {
        "hangs": hangs,
        "unauthorised": strangers(one),
        "lost_rounds": lost_rounds(one),
        "double_charges": double_charges(one),
        "rounds": len(one.rounds()),
        "fault": fault.__name__,
        "seconds": round(seconds, 1),
    }


def added(before: dict[str, Any], last: dict[str, Any], number: int) -> dict[str, Any]:
    """Return all trials so far with the last one; what is of this federation alone replaces what it was before."""
    for key in ("hangs", "unauthorised"):
        before[key] = before.get(key, 0) + last[key]
    for key in ("lost_rounds", "double_charges", "rounds"):
        earlier = before.setdefault("earlier", {})
        if number == 0:
            earlier[key] = before.get(key, 0)
        before[key] = earlier[key] + last[key]
    before["trials"] += 1
    faults = before.setdefault("faults", {})
    faults[last["fault"]] = faults.get(last["fault"], 0) + 1
    if last["fault"] in RECOVERED:
        before.setdefault("recovery_seconds", {}).setdefault(last["fault"], []).append(last["seconds"])
    return before


def main() -> None:
    """Break things and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--into", type=Path, metavar="FILE", help="add up the trials in this file")
    given = parser.parse_args()
    before = json.loads(given.into.read_text()) if given.into and given.into.exists() else {"trials": 0}
    rng = random.Random(given.seed + before["trials"])
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        settings = (f"federation.rounds={max(1000, 20 * given.trials)}", "serve.nodes=2", *PRIVATE)
        with Federation(Path(folder) / "f", (*QUICK, *settings)) as one:
            one.serve(codes=2)
            for number, name in enumerate("ab"):
                one.join(name, "--client", str(number), "--epsilon", "1000")
            one.wait_for_round(2)
            first = memory(one)
            for number in range(given.trials):
                found = added(before, trial(one, rng), number)
                found["memory_mb"] = [round(first), round(memory(one))]
                if given.into:
                    given.into.write_text(json.dumps(found, indent=2))
    found.pop("earlier", None)
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:16}{value}")


if __name__ == "__main__":
    main()
