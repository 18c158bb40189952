"""A Raspberry Pi as far as it can be had here: an arm64 Debian userland under emulation takes part in a federation."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edgekit.devices import bundle, profile
from edgekit.privacy import Ledger

pytestmark = pytest.mark.device
HERE = Path(__file__).parent
A64 = HERE / "a64.py"


def emulated(root, *command):
    return [sys.executable, str(A64), str(root), *command]


def run(root, *command, **environment):
    surroundings = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(
        emulated(root, *command), capture_output=True, text=True, timeout=280, env=surroundings, check=False
    )


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """An arm64 tree with what Raspberry Pi OS brings, and the bundle unpacked in root's home."""
    root = tmp_path_factory.mktemp("board") / "root"
    subprocess.run([str(HERE / "rootfs.sh"), str(root)], check=True, timeout=250)
    packed = bundle.build(profile.load("raspberry-pi-4"), root.parent / "pi.tar")
    assert packed.stat().st_size < 120e6
    names = subprocess.run(["tar", "tf", str(packed)], capture_output=True, text=True, check=True).stdout
    assert "wheels/edgekit-" in names
    assert "torch" not in names
    subprocess.run(["tar", "xf", str(packed), "-C", str(root / "root")], check=True)
    return root


@pytest.fixture(scope="module")
def installed(board):
    """What the installer said, on the board."""
    done = run(board, "sh", "/root/edgekit-bundle/install.sh", EDGEKIT_NO_COMPILE="1")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_board_installs_from_the_bundle_joins_trains_two_rounds_and_leaves(board, installed, fleet, tmp_path):
    assert "installing edgekit" in installed
    program = "/opt/edgekit/venv/bin/edgekit"
    doctor = run(board, program, "devices", "doctor", "--folder", "/var/lib/edgekit/node")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "3.11.2 on aarch64" in doctor.stdout
    found = tomllib.loads((board / "var/lib/edgekit/node/device.toml").read_text())
    assert (found["evidence"], found["cpu"]["architecture"]) == ("emulated", "aarch64")

    (part,) = fleet.write_digits(board / "root", 1)
    overrides = ("federation.rounds=2", "serve.nodes=1", "privacy.unit=example", "privacy.noise=client")
    delivered = ("export.presets=['int8']", "export.tolerance=0.5")
    with fleet.Federation(tmp_path / "federation", (*fleet.QUICK, *overrides, *delivered)) as one:
        one.serve()
        url = one.code()
        join = emulated(board, program, "join", url, "--data", f"npz:/root/{part.name}", "--name", "board")
        command = [*join, "--folder", "/var/lib/edgekit/node"]
        with open(one.folder / "board.log", "wb") as log:
            one.nodes["board"] = subprocess.Popen(command, stdout=log, stderr=log)
        one.wait_for_end(400)
        one.wait(lambda: any("1 of 1 nodes took it into use" in line for line in one.notices()), 200, "the delivery")
        assert [r["replies"] for r in one.rounds()] == [1, 1]
        folder = board / "var/lib/edgekit/node"
        assert Ledger(folder / "privacy.jsonl").rounds == 2
        current = json.loads((folder / "models/current.json").read_text())
        assert current["version"] == 2
        assert (folder / "models" / current["file"]).read_bytes() == (one.run / "export/int8.tflite").read_bytes()
        (node,) = json.loads((one.run / "nodes.json").read_text())
        assert (node["kind"], node["name"]) == ("litert", "board")
        one.nodes["board"].terminate()
        one.nodes.pop("board").wait(60)
        left = run(board, program, "devices", "leave", "--folder", "/var/lib/edgekit/node")
        assert "left https://127.0.0.1" in left.stdout, left.stderr
        assert json.loads((one.folder / "home/coordinator/members.json").read_text()) == {}


@pytest.mark.long
def test_a_bundle_upgrades_a_board_in_place(board, fleet, tmp_path):
    """Its identity, its ledger and its model stay; the program is another."""
    install = ("sh", "/root/edgekit-bundle/install.sh")
    assert run(board, *install, EDGEKIT_NO_COMPILE="1").returncode == 0
    node, program = board / "var/lib/edgekit/node", "/opt/edgekit/venv/bin/edgekit"
    with fleet.Federation(tmp_path / "federation", fleet.QUICK) as one:
        one.serve()
        (part,) = fleet.write_digits(board / "root", 1)
        data = ("--data", f"npz:/root/{part.name}", "--folder", "/var/lib/edgekit/node")
        joined = run(board, program, "join", one.code(), *data, "--enrol-only")
        assert joined.returncode == 0, joined.stderr
        (node / "privacy.jsonl").write_text("")
        (node / "models").mkdir(exist_ok=True)
        (node / "models/current.json").write_text('{"version": 3}')
        kept = {path: path.read_bytes() for path in sorted(node.rglob("*")) if path.is_file()}
        assert any(path.name == "membership.json" for path in kept)
        (board / "opt/edgekit/venv/old-program").write_text("of the version before")
        again = run(board, *install, EDGEKIT_NO_COMPILE="1")
        assert again.returncode == 0, again.stderr
        assert not (board / "opt/edgekit/venv/old-program").exists()
        assert {path: path.read_bytes() for path in kept} == kept
        assert run(board, program, "--version").returncode == 0
        left = run(board, program, "devices", "leave", "--folder", "/var/lib/edgekit/node")
        assert "left https://127.0.0.1" in left.stdout, left.stderr


@pytest.mark.long
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed: make test-devices")
def test_a_laptop_a_board_an_emulated_pi_and_two_pages_in_one_federation(board, installed, fleet, federation, phone):
    """Every kind adds its own noise and keeps its own ledger."""
    private = ("privacy.unit=example", "privacy.noise=client", "export.presets=['int8']", "export.tolerance=0.9")
    one = federation("federation.rounds=3", "federation.cohort=5", "serve.nodes=5", *private)
    one.serve_phones("--once", codes=3)
    own, pis = fleet.write_digits(board / "root", 2, 40)
    one.join("laptop", "--client", "0", "--trainer", "torch")
    one.join("board", "--data", f"npz:{own}", "--trainer", "litert")
    folder = "/var/lib/edgekit/mixed"
    join = ["join", one.code(), "--data", f"npz:/root/{pis.name}", "--name", "pi", "--folder", folder]
    with open(one.folder / "pi.log", "wb") as log:
        command = emulated(board, "/opt/edgekit/venv/bin/edgekit", *join)
        one.nodes["pi"] = subprocess.Popen(command, stdout=log, stderr=log)
    for _ in range(2):
        page = phone()
        page.come_in(one.phone_link())
        page.begin()
    one.wait_for_end(500)
    one.coordinator.wait(120)
    assert one.rounds()[-1]["replies"] == 5
    assert all(line["replies"] for line in one.rounds())
    result = json.loads((one.run / "result.json").read_text())
    kinds = result["nodes"]
    assert {kind: figures["nodes"] for kind, figures in kinds.items()} == {"litert": 2, "phone": 2, "torch": 1}
    assert all(figures["updates"] and figures["seconds_an_update"] > 0 for figures in kinds.values())
    report = (one.run / "report.html").read_text()
    for kind in kinds:
        assert f'<th scope="row">{kind}</th>' in report
    assert "Partition:" not in report  # of nobody's data here


def test_the_installer_says_what_is_wrong(board, tmp_path):
    script = board / "root/edgekit-bundle/install.sh"
    wrong = subprocess.run(["sh", str(script)], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "this bundle is for aarch64 (raspberry-pi-4), this machine is x86_64" in wrong.stderr
    facts = board / "root/edgekit-bundle/bundle.env"
    before = facts.read_text()
    facts.write_text(before.replace("python=3.11", "python=3.13"))
    wrong = run(board, "sh", "/root/edgekit-bundle/install.sh")
    facts.write_text(before)
    assert wrong.returncode == 1
    assert "make one with --python 3.11" in wrong.stderr
