"""Links that are cut and slow, disks that are full, hundreds of idle nodes: with namespaces and small file systems."""

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from edgekit.clients.node.folder import NodeFolder
from edgekit.errors import EdgekitError
from edgekit.flower.fleet import FleetLink
from edgekit.privacy import Ledger

pytestmark = [pytest.mark.device, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and mounts need root")]
PRIVATE = ("privacy.unit=example", "privacy.noise=client", "serve.deadline_seconds=8")


def sh(command):
    subprocess.run(command.split(), check=True, timeout=20)


@pytest.fixture
def namespace():
    """A network namespace with a cable to this one: the node's end is 10.213.0.2, the coordinator's 10.213.0.1."""
    name, ours, theirs = "edgekit-test", "ekt0", "ekt1"
    subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    sh(f"ip netns add {name}")
    try:
        sh(f"ip link add {ours} type veth peer name {theirs} netns {name}")
        for command in (f"ip addr add 10.213.0.1/24 dev {ours}", f"ip link set {ours} up"):
            sh(command)
        for command in (f"addr add 10.213.0.2/24 dev {theirs}", f"link set {theirs} up", "link set lo up"):
            sh(f"ip -n {name} {command}")
        yield name, ours
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)


def test_a_cut_link_costs_time_and_nothing_else(fleet, namespace, tmp_path):
    name, cable = namespace
    one = fleet.Federation(tmp_path / "f", (*fleet.QUICK, *PRIVATE, "federation.rounds=400"), host="0.0.0.0")
    with one:
        one.serve("--name", "10.213.0.1", codes=2)
        inside = ["ip", "netns", "exec", name, *fleet.PROGRAM]
        one.join("far", "--client", "0", program=inside)
        one.join("near", "--client", "1")
        one.wait_for_round(2)
        sh(f"ip link set {cable} down")
        time.sleep(12)  # longer than a round's deadline
        cut = len(one.rounds())
        sh(f"ip link set {cable} up")
        one.wait_for_round(cut + 3, 90)
        assert [r["round"] for r in one.rounds()] == list(range(1, len(one.rounds()) + 1))
        assert one.rounds()[-1]["replies"] == 2, one.notices()[-5:]
        ledger = Ledger(one.node_folder("far") / "privacy.jsonl")
        assert ledger.rounds <= len(one.rounds()) + 2
        # A slow link, 100 kbit/s: rounds take longer, and go on.
        shaped = subprocess.run(
            [
                "tc",
                "qdisc",
                "add",
                "dev",
                cable,
                "root",
                "tbf",
                "rate",
                "400kbit",
                "burst",
                "8kbit",
                "latency",
                "400ms",
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        if shaped.returncode == 0:
            before = len(one.rounds())
            one.wait_for_round(before + 2, 90)


@pytest.mark.long
def test_a_folder_that_cannot_be_written_ends_serve_with_a_line_and_loses_nothing(fleet, tmp_path):
    with fleet.Federation(tmp_path / "f", (*fleet.QUICK, *PRIVATE, "federation.rounds=400", "serve.nodes=1")) as one:
        one.serve()
        one.join("node", "--client", "0")
        one.wait_for_round(2)
        sh(f"mount --bind {one.run} {one.run}")
        try:
            sh(f"mount -o remount,ro,bind {one.run} {one.run}")
            one.wait(lambda: one.coordinator.poll() is not None, 60, "the end of the coordinator")
            assert f"{one.run} cannot be written: Read-only file system" in one.output("coordinator")
            assert "Traceback" not in one.output("coordinator")
            again = subprocess.run([*fleet.PROGRAM, "serve", "--out", str(one.run)], capture_output=True, text=True)
            assert again.returncode == 1
            assert "Read-only file system" in again.stderr
            before = len(one.rounds())
        finally:
            sh(f"umount -l {one.run}")
        one.serve(codes=0)
        one.wait_for_round(before + 2, 90)
        assert [line["round"] for line in one.rounds()] == list(range(1, len(one.rounds()) + 1))


def test_a_full_disk_is_told_and_nothing_is_half_written(fleet, tmp_path):
    full = tmp_path / "small"
    full.mkdir()
    sh(f"mount -t tmpfs -o size=600k none {full}")
    try:
        with fleet.Federation(
            tmp_path / "f", (*fleet.QUICK, *PRIVATE, "federation.rounds=400", "serve.nodes=2")
        ) as one:
            one.serve(codes=2)
            one.join("small", "--client", "0", "--enrol-only")
            one.wait(lambda: one.nodes["small"].poll() is not None, 60, "enrolment")
            shutil.move(tmp_path / "f/nodes/small", full / "node")
            (tmp_path / "f/nodes/small").symlink_to(full / "node")
            one.start_node("small")
            one.join("well", "--client", "1")
            one.wait_for_round(2)
            with open(full / "ballast", "wb", buffering=0) as ballast:
                while True:
                    try:
                        ballast.write(b"x" * 4096)
                    except OSError:
                        break
            before = len(one.rounds())
            one.wait_for_round(before + 2, 60)  # the other one goes on
            one.wait(lambda: any("No space left" in line for line in one.notices()), 60, "the complaint")
            assert "No space left" in one.output("small")
            (full / "ballast").unlink()
            ready = len(one.rounds())
            one.wait(lambda: any(r["replies"] == 2 for r in one.rounds()[ready:]), 90, "the small one's return")
            for line in (full / "node/privacy.jsonl").read_text().splitlines():
                json.loads(line)
    finally:
        subprocess.run(["umount", "-l", str(full)], check=False)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed: make test-devices")
def test_a_clock_that_jumps_is_told_and_costs_the_time_it_is_wrong(fleet, tmp_path):
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    faked = ["env", f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={offset}", "FAKETIME_NO_CACHE=1"]
    faked += ["FAKETIME_DONT_FAKE_MONOTONIC=1", *fleet.PROGRAM]
    with fleet.Federation(tmp_path / "f", (*fleet.QUICK, "federation.rounds=1000", "serve.nodes=1")) as one:
        one.serve()
        one.join("pi", "--client", "0", program=faked)
        one.wait_for_round(2)
        offset.write_text("+3600")
        one.wait(lambda: "clock is 36" in one.output("pi"), 120, "the complaint")
        assert "ahead of the coordinator's" in one.output("pi")
        rounds = len(one.rounds())
        offset.write_text("+0")
        one.wait_for_round(rounds + 2, 120)
        assert one.nodes["pi"].poll() is None


@pytest.mark.long
def test_two_hundred_idle_nodes_cost_little(fleet, tmp_path):
    """Two hundred links of this process wait while two nodes train; the SuperLink's memory stays flat."""
    many = 200
    with fleet.Federation(
        tmp_path / "f",
        (*fleet.QUICK, "federation.rounds=1000", "serve.nodes=2", "federation.cohort=2", "data.clients=2"),
    ) as one:
        one.serve(codes=2)
        one.join("a", "--client", "0")
        one.join("b", "--client", "1")
        one.wait_for_round(2)
        links = _joined(one, many)
        stop = threading.Event()
        failures = []

        def idle(link):
            while not stop.is_set():
                try:
                    link.pull()
                except EdgekitError as error:
                    failures.append(str(error))
                    stop.wait(1)

        threads = [threading.Thread(target=idle, args=(link,), daemon=True) for link in links]
        for thread in threads:
            thread.start()
        time.sleep(15)
        first = _memory_mb(one.superlink())
        before, start = len(one.rounds()), time.monotonic()
        time.sleep(25)
        done = len(one.rounds()) - before
        assert _memory_mb(one.superlink()) < first + 30
        assert done >= 3, (done, time.monotonic() - start, one.notices()[-3:])
        stop.set()
        assert len(failures) < many / 10, failures[:3]


def _joined(one, many):
    """Enrol many nodes in the coordinator's own state, as its enrolment would, and connect them."""
    import httpx

    port, secret = (
        (one.folder / "home/coordinator/port").read_text(),
        (one.folder / "home/coordinator/secret").read_text(),
    )
    folder = NodeFolder(one.node_folder("a"))
    links = []
    with httpx.Client(timeout=30) as client:
        for number in range(many):
            code = client.post(f"http://127.0.0.1:{port}/edgekit/codes", headers={"edgekit-secret": secret}).json()[
                "code"
            ]
            links.append(_enrolled(one, folder, code, number))
    return links


def _enrolled(one, folder, code, number):
    from edgekit.clients.node import enrol
    from edgekit.enrolment import JoinCode, parse_url

    made = NodeFolder(one.folder / "idle" / str(number))
    address, _ = parse_url(f"https://127.0.0.1:{one.port}")
    while True:
        try:
            enrol.join(made, address, JoinCode.parse(code), f"idle-{number}", "litert")
            break
        except EdgekitError as error:  # so many from one address have to wait
            if "too many requests" not in str(error):
                raise
            time.sleep(2)
    link = FleetLink(address.netloc, folder.authority(), made.key())
    link.activate()
    return link


def _memory_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(pid)
