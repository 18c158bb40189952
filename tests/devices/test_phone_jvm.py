"""The phones' protocol in plain Java, compiled and run: the golden vectors, and rounds with a real gateway."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(shutil.which("javac") is None, reason="there is no JDK: make test-devices"),
]


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    place = tmp_path_factory.mktemp("classes")
    sources = sorted((ROOT / "clients" / "phone_jvm" / "src" / "edgekit" / "phone").glob("*.java"))
    command = ["javac", "--release", "11", "-Xlint:all", "-Werror", "-d", str(place), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return place


def _java(classes, *arguments, timeout=120):
    command = ["java", "-cp", str(classes), "edgekit.phone.Try", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_java_reads_and_writes_the_golden_frames(classes):
    done = _java(classes, "golden", ROOT / "tests" / "clients" / "phone_frames.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-1] == "0"


def test_a_phone_in_java_takes_part_in_rounds_and_leaves(classes, federation):
    one = federation("federation.rounds=1000", "serve.nodes=1")
    one.serve_phones()
    trust = ("--trust", one.folder / "home" / "coordinator" / "keys" / "authority.crt")
    link = one.phone_link()
    done = _java(classes, "join", link, *trust, "--rounds", 3)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].startswith("task digits ")
    assert [line.split()[2:] for line in said[1:4]] == [["6570", "weights"]] * 3
    assert said[-1] == "left"
    one.wait_for_round(3, 60)
    assert all(line["replies"] == 1 for line in one.rounds()[:3])
    again = _java(classes, "join", link, *trust)
    assert "used already" in again.stdout
