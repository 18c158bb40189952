"""Dockerfiles and the compose file, linted: no Docker engine can run here, so they were never built."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLACE = Path(__file__).parent.parent.parent / "devices" / "containers"


def tool(name):
    return shutil.which(name, path=str(Path(sys.executable).parent)) or name


@pytest.mark.parametrize("name", ["coordinator.Dockerfile", "node.Dockerfile"])
def test_a_dockerfile_is_clean(name):
    done = subprocess.run(
        [tool("hadolint"), str(PLACE / name)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_fits_the_specification():
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(PLACE / "compose.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_service_of_a_board_is_hardened():
    unit = (PLACE.parent / "board" / "edgekit-node.service").read_text()
    for line in (
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "CapabilityBoundingSet=",
        "Restart=always",
    ):
        assert line in unit.splitlines()
    subprocess.run(["sh", "-n", str(PLACE.parent / "board" / "install.sh")], check=True)
