"""Coordinators in other places: one that moves and is found again by its name, one with an IPv6 address."""

import os
import socket
import subprocess
import sys

import pytest


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process an /etc/hosts of its own")
def test_nodes_find_a_coordinator_again_that_has_another_address(federation, fleet, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 coordinator.test localhost\n")
    mounted = ["unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"]
    if subprocess.run([*mounted, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system lets nobody mount files: unshare --mount")
    one = federation("federation.rounds=1000", "serve.nodes=1")
    (data,) = fleet.write_digits(tmp_path, 1)
    one.serve("--name", "coordinator.test")
    one.join("pi", "--data", f"npz:{data}", program=[*mounted, sys.executable, "-P", "-m", "edgekit.cli"])
    one.wait_for_round(2)
    one.coordinator.terminate()
    one.coordinator.wait(60)
    # The laptop is in another network now; its certificates are for its name.
    one.host = "127.0.0.2"
    rounds = len(one.rounds())
    one.serve("--name", "coordinator.test", codes=0)
    hosts.write_text("127.0.0.2 coordinator.test localhost\n")
    one.wait_for_round(rounds + 2, 90)
    assert one.nodes["pi"].poll() is None  # nobody touched it


@pytest.mark.long
def test_nodes_and_phones_come_in_by_ipv6(federation, fleet, scripted_phone, tmp_path):
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this system has no IPv6")
    one = federation("federation.rounds=1000", "serve.nodes=2")
    one.host = "::1"
    (data,) = fleet.write_digits(tmp_path, 1)
    one.serve_phones(codes=1)
    code = one.code()
    assert code.startswith(f"https://[::1]:{one.port}#")
    one.join("pi", "--data", f"npz:{data}", url=code)
    phone = scripted_phone.ScriptedPhone(one.phone_link())
    phone.take_part()
    one.wait(lambda: any(line["replies"] == 2 for line in one.rounds()), 90, "a round of both")
