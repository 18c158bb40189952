"""A federation of real processes on this machine, for the benchmarks and the tests of faults."""

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.environments import conversions

# -P: in a checkout, its folder `edgekit` would be taken for the installed package.
PROGRAM = [sys.executable, "-P", "-m", "edgekit.cli"]
QUICK = (
    "model.name=mlp",
    "model.arguments={}",
    "spiking.enabled=false",
    "export.presets=[]",
    "privacy.unit=none",
    "training.epochs=1",
    "federation.average_last=0.0",
)
"""Overrides that make the built-in example a matter of seconds."""


SLOW = 3.0
"""How much slower than a quiet machine this one may be, before what is waited for counts as lost."""

_reserved: list[Any] = []
"""Locks of the ports that this process took; they end with it."""


def free_port() -> int:
    """Return a port that is free, and that no other process that asks here gets while this one lives.

    It lies below those that the system gives to outgoing connections, or one of these might take it before it is used.
    """
    folder = Path(tempfile.gettempdir()) / f"edgekit-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for port in random.SystemRandom().sample(range(20_000, 32_000), 12_000):
        file = open(folder / str(port), "w")  # noqa: SIM115 - open means locked
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            file.close()
            continue
        _reserved.append(file)
        return port
    raise OSError("no port between 20,000 and 32,000 is free")


def write_digits(folder: Path, parts: int, examples: int = 16) -> list[Path]:
    """Write parts of scikit-learn's digits as .npz files, for nodes that have no scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = (digits.images / 16).astype(np.float32)[:, None], digits.target.astype(str)
    paths = []
    for part in range(parts):
        chosen = slice(part * examples, (part + 1) * examples)
        paths.append(folder / f"digits-{part}.npz")
        np.savez(paths[-1], x=x[chosen], y=y[chosen])
    return paths


class Federation:
    """One coordinator, and nodes that join it, each a process with a home of its own.

    Args:
        folder: for everything.
        overrides: of the built-in experiment.
        host: to listen on.
        port: of the coordinator; None takes a free one.
    """

    def __init__(
        self, folder: Path, overrides: tuple[str, ...] = QUICK, host: str = "127.0.0.1", port: int | None = None
    ) -> None:
        self.folder, self.overrides, self.host = folder, list(overrides), host
        self.port = port or free_port()
        self.run = folder / "run"
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.coordinator: subprocess.Popen[bytes] | None = None
        self._started = 0
        self.phones_port = free_port()
        self._codes_taken: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "Federation":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # The coordinator.

    def serve(self, *more: str, codes: int = 1) -> None:
        """Start the coordinator, or start it again."""
        self._started += 1
        command = [*PROGRAM, "serve", *self.overrides, "--out", str(self.run), "--host", self.host]
        command += ["--port", str(self.port), "--json", "--codes", str(codes), *more]
        self.coordinator = self._spawn(command, "coordinator")

    def serve_phones(self, *more: str, codes: int = 0) -> None:
        """Start the coordinator with a gateway for phones."""
        self.serve("--phones", "--phones-port", str(self.phones_port), *more, codes=codes)

    def events(self) -> list[dict[str, Any]]:
        """Return what the coordinator printed so far."""
        found = []
        for line in self.output("coordinator").splitlines():
            if line.startswith("{"):
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue  # a line under way
        return found

    def notices(self) -> list[str]:
        """Return the coordinator's lines for people."""
        return [event["notice"] for event in self.events() if "notice" in event]

    def code(self) -> str:
        """Return a join address with a code that was not given before."""
        found: list[str] = []

        def fresh() -> bool:
            found[:] = [e["join"] for e in self.events() if "join" in e and e["join"] not in self._codes_taken]
            return bool(found)

        self.wait(fresh, 60, "a join code")
        self._codes_taken.add(found[0])
        return found[0]

    def phone_link(self) -> str:
        """Return a link for a phone that was not given before."""
        found: list[str] = []

        def fresh() -> bool:
            found[:] = [e["phone"] for e in self.events() if "phone" in e and e["phone"] not in self._codes_taken]
            return bool(found)

        self.wait(fresh, 60, "a link for a phone")
        self._codes_taken.add(found[-1])
        return found[-1]

    def rounds(self) -> list[dict[str, Any]]:
        """Return the finished rounds, as metrics.jsonl has them."""
        try:
            lines = (self.run / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def wait_for_round(self, number: int, seconds: float = 120) -> None:
        """Wait until a round has finished."""
        self.wait(lambda: len(self.rounds()) >= number, seconds, f"round {number}")

    def wait_for_end(self, seconds: float = 180) -> None:
        """Wait until the run is done."""
        self.wait(lambda: any("finished" in event for event in self.events()), seconds, "the end of the run")

    def superlink(self) -> int:
        """Return the SuperLink's process id."""
        return self._pid_of("edgekit.server.deployment.superlink")

    def gateway(self) -> int:
        """Return the process id of the gateway for phones."""
        return self._pid_of("edgekit.cli phone")

    def server_app(self) -> int:
        """Return the server app's process id."""
        return self._pid_of("flwr-serverapp")

    # Nodes.

    def join(self, name: str, *options: str, url: str | None = None, program: list[str] | None = None) -> None:
        """Let a node join; it runs until it is stopped."""
        self.start_node(name, url or self.code(), "--name", name, *options, program=program)

    def start_node(self, name: str, *arguments: str, program: list[str] | None = None) -> None:
        """Start a node; one that joined before needs no arguments."""
        command = [*(program or PROGRAM), "join", *arguments, "--folder", str(self.node_folder(name))]
        self.nodes[name] = self._spawn(command, name)

    def node_folder(self, name: str) -> Path:
        """Return where a node is kept."""
        return self.folder / "nodes" / name

    def kill_node(self, name: str) -> None:
        """Kill a node as the power going would."""
        self.nodes[name].kill()
        self.nodes[name].wait()

    # Both.

    def output(self, name: str) -> str:
        """Return what a process printed."""
        try:
            return (self.folder / f"{name}.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def wait(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for something.

        Raises:
            TimeoutError: it did not happen; the logs are in the message.
        """
        end = time.monotonic() + SLOW * seconds
        while not done():
            gone = self.coordinator is not None and self.coordinator.poll() not in (None, 0)
            if time.monotonic() > end or (gone and any("failed" in event for event in self.events())):
                logs = "\n".join(f"== {n}\n{self.output(n)[-1500:]}" for n in ("coordinator", *self.nodes))
                raise TimeoutError(f"{what} did not come within {SLOW * seconds:g} s, or never will\n{logs}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop everything, kindly at first."""
        processes = [*self.nodes.values(), *([self.coordinator] if self.coordinator else [])]
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.nodes.clear()
        self.coordinator = None

    def _spawn(self, command: list[str], name: str) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "EDGEKIT_HOME": str(self.folder / "home"), "PYTHONUNBUFFERED": "1"}
        environment |= {"EDGEKIT_CACHE": str(conversions())}  # what was converted once serves all federations
        environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=self.folder
            )

    def _pid_of(self, text: str) -> int:
        """Return the newest process of this federation whose command line has a text."""
        marks = (str(self.run), str(self.folder / "home"))
        for pid in sorted((int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()), reverse=True):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                surroundings = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if text in line and any(mark in line or mark in surroundings for mark in marks):
                return pid
        raise ProcessLookupError(f"no process of this federation has {text!r} in its command line")


def remove(folder: Path) -> None:
    """Remove a federation's folder."""
    shutil.rmtree(folder, ignore_errors=True)
