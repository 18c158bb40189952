"""Thousands of connections that say nothing, before a coordinator of real processes: devices come in, rounds go on."""

import resource
import socket
from pathlib import Path

import pytest

IDLE, ADDRESSES, OF_EACH = 5000, 20, 200


def _memory(pid):
    """Return a process's resident memory in MB."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@pytest.mark.long
def test_a_node_joins_and_rounds_end_while_thousands_say_nothing(federation, fleet, tmp_path):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < IDLE + ADDRESSES * OF_EACH + 500:
        pytest.skip(f"this system lets a process open {most} files: ulimit -n 10000")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    one = federation("federation.rounds=1000", "serve.nodes=1")
    one.serve_phones(codes=2)
    data = fleet.write_digits(tmp_path, 2)
    one.join("first", "--data", f"npz:{data[0]}")
    one.wait_for_round(5)
    held = []
    try:
        pids = (one.superlink(), one.gateway())
        usual = [_memory(pid) for pid in pids]
        for port in (one.port, one.phones_port):
            for number in range((IDLE + ADDRESSES * OF_EACH) // 2):
                from_one = number < IDLE // 2
                source = "127.0.0.1" if from_one else f"127.0.1.{1 + number % ADDRESSES}"
                held.append(socket.create_connection(("127.0.0.1", port), 30, (source, 0)))
        one.join("second", "--data", f"npz:{data[1]}")
        rounds = len(one.rounds())
        one.wait(lambda: any(line["replies"] == 2 for line in one.rounds()[rounds:]), 60, "a round of both")
        one.wait_for_round(len(one.rounds()) + 3, 60)
        grown = [_memory(pid) - was for pid, was in zip(pids, usual, strict=True)]
        assert max(grown) < 100, grown
    finally:
        for connection in held:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
