"""Real processes: coordinator, SuperLink, server app and nodes, over TLS; and what happens when they are killed."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edgekit import arrays, wire
from edgekit.clients.node.folder import NodeFolder
from edgekit.errors import LinkDownError, RefusedError, StaleError
from edgekit.flower.fleet import FleetLink, trusting
from edgekit.privacy import Ledger

PRIVATE = (
    "model.name=mlp",
    "model.arguments={}",
    "spiking.enabled=false",
    "export.presets=['int8']",
    "export.tolerance=0.5",
    "privacy.noise=client",
    "training.epochs=1",
    "federation.average_last=0.0",
    "serve.deadline_seconds=20",
)


def left_processes(one):
    marks = (str(one.run), str(one.folder / "home"))
    found = []
    for pid in (p for p in os.listdir("/proc") if p.isdigit()):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            about = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if any(mark in line or mark in about for mark in marks):
            found.append(line.replace("\0", " "))
    return found


def test_three_kinds_of_node_train_together_and_get_the_signed_model(federation, fleet, tmp_path):
    """A torch node, a LiteRT node that protects its own data, and Flower's stock SuperNode in one federation."""
    one = federation(
        *("federation.rounds=2", "serve.nodes=3", "serve.deliver_every=1", "serve.statistics_every=1"),
        "serve.deadline_seconds=90",  # the stock node starts a process for each message
        base=PRIVATE,
    )
    one.serve("--once", codes=3)
    one.join("torch", "--client", "0", "--trainer", "torch", "--share", "statistics", "--share", "load")
    one.join("litert", "--client", "1", "--trainer", "litert")
    options = ["--name", "stock", "--client", "2", "--supernode", "--folder", str(one.node_folder("stock"))]
    stock = subprocess.run(
        [*fleet.PROGRAM, "join", one.code(), *options],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    command = shlex.split(stock.stdout.splitlines()[-1])
    assert command[0] == "flower-supernode"
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "FLWR_HOME": str(tmp_path / "flwr")}
    with open(one.folder / "stock.log", "wb") as log:
        node = subprocess.Popen(
            [str(binaries / command[0]), *command[1:], "--port", str(fleet.free_port())],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    one.nodes["stock"] = node
    try:
        one.wait_for_end(300)
        one.wait(lambda: one.coordinator.poll() is not None, 100, "the coordinator's end")
    finally:
        os.killpg(node.pid, signal.SIGKILL)
    assert one.coordinator.returncode == 0, one.output("coordinator")[-3000:]
    rounds = one.rounds()
    assert [r["replies"] for r in rounds] == [3, 3], one.notices()
    result = json.loads((one.run / "result.json").read_text())
    assert "Simulated" not in result["privacy_statement"]
    nodes = {n["name"]: n for n in json.loads((one.run / "nodes.json").read_text())}
    assert {n: nodes[n]["kind"] for n in nodes} == {"torch": "torch", "litert": "litert", "stock": "torch"}
    assert "load" in nodes["torch"]["facts"]
    assert nodes["litert"]["facts"] == {}
    for name in ("torch", "litert", "stock"):
        folder = NodeFolder(one.node_folder(name))
        current = json.loads((folder.models / "current.json").read_text())
        assert current["version"] == 2, name
        delivered = (folder.models / current["file"]).read_bytes()
        assert delivered == (one.run / "export" / "int8.tflite").read_bytes()
        # Each keeps its own ledger; the one that shares statistics is charged for them too.
        assert Ledger(folder.ledger).rounds == (4 if name == "torch" else 2)
    assert '"drifted": ["' not in ((one.run / "drift.jsonl").read_text() if (one.run / "drift.jsonl").exists() else "")
    # Nothing secret is in any log.
    logs = "".join(
        path.read_text(errors="replace") for path in (*one.folder.glob("*.log"), *(one.run / "logs").glob("*"))
    )
    for secret in (one.folder / "home/coordinator/secret", one.run / "secret", one.node_folder("torch") / "secret"):
        assert secret.read_text() not in logs
    assert "PRIVATE KEY" not in logs
    one.stop()
    assert left_processes(one) == []


@pytest.mark.long
def test_everything_may_be_killed_and_no_round_or_privacy_is_lost(federation):
    one = federation("federation.rounds=12", "serve.nodes=2", "export.presets=[]", base=PRIVATE)
    one.serve(codes=2)
    one.join("a", "--client", "0")
    one.join("b", "--client", "1")
    one.wait_for_round(2)
    one.kill_node("a")
    time.sleep(1.5)
    one.start_node("a")
    one.wait_for_round(4)
    os.kill(one.superlink(), signal.SIGKILL)
    one.wait_for_round(6)
    os.kill(one.server_app(), signal.SIGKILL)
    one.wait_for_round(8)
    one.coordinator.kill()  # with its children: they watch their parent
    one.coordinator.wait()
    one.wait(
        lambda: not [p for p in left_processes(one) if "superlink" in p or "serverapp" in p], 30, "the children's end"
    )
    one.serve(codes=0)
    one.wait_for_end(200)
    numbers = [r["round"] for r in one.rounds()]
    assert numbers == list(range(1, 13))
    for name in ("a", "b"):
        ledger = Ledger(one.node_folder(name) / "privacy.jsonl")
        # Every accepted round is charged once; a round that was run again with other weights may cost once more, but
        # the plan's limit holds.
        assert ledger.rounds <= 12
    notices = " ".join(one.notices())
    assert "the SuperLink ended (signal 9): it is started again" in notices
    assert "the server app ended: it is started again" in notices
    epsilons = [r["epsilon"] for r in one.rounds()]
    assert epsilons == sorted(epsilons)
    assert epsilons[-1] <= 8.0
    one.stop()
    assert left_processes(one) == []


@pytest.mark.long
def test_bad_updates_cost_their_node_and_nothing_else(federation, impostor):
    """A node of an attacker's, with a real identity: replayed, truncated, wrong-shape, NaN and oversized updates."""
    one = federation("federation.rounds=7", "serve.nodes=2", "serve.deadline_seconds=20")
    one.serve(codes=2)
    one.join("honest", "--client", "0")
    evil = impostor(one, 1)
    folder, link = evil.folder, evil.link

    def nan(letter):
        return wire.Message(
            letter.facts, arrays.to_bytes({k: np.full_like(v, np.nan) for k, v in letter.weights().items()})
        )

    def shape(letter):
        return wire.Message(letter.facts, arrays.to_bytes({k: v[:1] for k, v in letter.weights().items()}))

    def cut(letter):
        return wire.Message(letter.facts, letter.content[: len(letter.content) // 2])

    def heavy(letter):
        return wire.Message({**letter.facts, "num-examples": 10**12}, letter.content)

    tricks = [nan, shape, cut, heavy]
    sent = []
    for message, letter in evil.asked(seconds=120):
        facts = {"num-examples": 5, "train_loss": 0.1}
        honest = wire.Message(facts, letter.content)
        made = tricks[len(sent)](honest) if len(sent) < len(tricks) else honest
        reply = wire.answer(made.facts, message, made.content)
        link.push(reply)
        sent.append(made)
        if link.waits:
            with pytest.raises((StaleError, RefusedError)):  # the same again: it was answered
                link.push(wire.answer(facts, message, letter.content))
        if len(sent) == len(tricks) + 1:
            link._whole = False  # from here on by Flower's Fleet API alone, as large messages go
        if len(sent) == len(tricks) + 2:
            break
    assert not link.waits
    known = next(node for node in json.loads((one.run / "nodes.json").read_text()) if node["name"] == "evil")
    assert known["failures"] >= len(tricks)
    one.wait_for_round(5)
    notices = " ".join(one.notices())
    for complaint in ("values that are not finite", "has shape", "not arrays of edgekit's", "how many examples"):
        assert "evil left out: " in notices
        assert complaint in notices, notices
    # Oversized, unsigned, and another node's: the gate takes none of them.
    other = NodeFolder(one.node_folder("honest"))
    stolen = FleetLink(f"127.0.0.1:{one.port}", folder.authority(), folder.key())
    stolen.node_id = other.membership().node_id
    with pytest.raises(RefusedError, match="refuses this node's signature"):
        stolen.pull()
    with pytest.raises(RefusedError, match="refuses this node's signature"):
        stolen.heartbeat()
    stranger = FleetLink(f"127.0.0.1:{one.port}", folder.authority(), ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(RefusedError):
        stranger.activate()
    with httpx.Client(verify=trusting(folder.authority()), timeout=10) as client:
        url = f"https://127.0.0.1:{one.port}"
        assert client.post(f"{url}/v1/control/start-run", content=b"").status_code == 404
        assert client.post(f"{url}/v1/runtime/get-nodes", content=b"").status_code == 404
        assert client.post(f"{url}/v1/fleet/register-node", content=b"").status_code == 401
        assert client.post(f"{url}/edgekit/codes", content=b"").status_code == 404
        assert client.post(f"{url}/join/hello", content=b"x" * 20_000).status_code == 413
        assert client.post(f"{url}/join/hello", content=b"[" * 10_000).status_code == 400
    with pytest.raises((RefusedError, LinkDownError, StaleError)):
        link._post("/edgekit/reply", b"0" * (9 << 20), 10)
    one.wait_for_round(7, 60)


def test_codes_addresses_and_folders_that_are_wrong_are_told_on_both_sides(federation, fleet, edgekit):
    one = federation("federation.rounds=1000", "serve.nodes=1")
    one.serve(codes=2)
    url = one.code()

    def join(address, *options, folder="x"):
        done = edgekit("join", address, "--folder", one.folder / folder, *options, cwd=one.folder)
        assert done.stderr.count("\n") <= 1, done.stderr
        return done

    good = ("--client", "0", "--name", "n")
    for address, options, complaint in (
        (url, (), "say what this device's data is"),
        (url[:-1] + ("0" if url[-1] != "0" else "1"), good, "cannot prove that it showed this code"),
        (url.split("#")[0] + "#ABCD-EFGH", good, "not a join code"),
        (url.replace(str(one.port), str(fleet.free_port())), good, "does not answer"),
        (url.split("#")[0], good, "has not joined yet"),
        (url, (*good, "--share", "secrets"), "--share"),
        (url, (*good, "--trainer", "abacus"), "--trainer"),
    ):
        done = join(address, *options)
        assert done.returncode in (1, 2)
        assert complaint in done.stderr, done.stderr
    assert join(url, *good, "--enrol-only").returncode == 0
    again = join(url, *good, "--enrol-only", folder="y")
    assert "was used already" in again.stderr
    logs = (one.run / "logs" / "superlink.log").read_text()
    assert "was used already" in logs
    assert "n (torch) joined with code" in logs

    # A second coordinator with the same state, or on the same port, is refused.
    def serve(home, *options):
        command = ["serve", "--out", one.folder / "other", "--port", one.port, *options]
        return edgekit(*command, cwd=one.folder, env={"EDGEKIT_HOME": one.folder / home})

    assert "another edgekit serve uses" in serve("home", "--host", "127.0.0.1").stderr
    assert "is another coordinator running?" in serve("home2", "--host", "127.0.0.1").stderr
    assert "--insecure is for this machine alone" in serve("home2", "--insecure").stderr
    assert join(one.code(), *good[:2], "--name", "m", "--enrol-only", folder="m").returncode == 0
    for expected in ("left https://127.0.0.1", "cannot be read"):
        left = edgekit("devices", "leave", "--folder", one.folder / "m", cwd=one.folder)
        assert expected in left.stdout + left.stderr
    removed = edgekit("devices", "remove", "n", cwd=one.folder, env={"EDGEKIT_HOME": one.folder / "home"})
    assert "n (node" in removed.stdout
    # Begun with other settings, it does not go on.
    one.stop()
    one.overrides.append("training.learning_rate=0.5")
    one.serve()
    one.wait(lambda: one.coordinator.poll() is not None, 30, "the refusal")
    assert "was begun with another training.learning_rate" in one.output("coordinator")
    assert one.coordinator.returncode == 2
