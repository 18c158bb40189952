"""`edgekit serve`'s processes: Flower's SuperLink and SuperExec are started, watched, and started again."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx

from edgekit.clients.node.folder import NodeFolder
from edgekit.errors import JoinError, ServeError
from edgekit.flower.superlink import RUNNING, Control
from edgekit.listening import Listening, check_port
from edgekit.logs import rotate
from edgekit.processes import children
from edgekit.runfolder import unwritable, write_whole
from edgekit.server.deployment.asking import asked
from edgekit.server.deployment.authority import Authority

START_SECONDS = 60.0
START_ATTEMPTS = 3
STOP_SECONDS = 20.0
"""How long a process has to end in order: the server app writes the result of the rounds done."""
SETTLED_SECONDS = 60.0
"""A process that ran so long before it ended is started again at once; others a little later each time."""
LONGEST_PAUSE = 30.0
TITLES = {"superlink": "SuperLink", "superexec": "SuperExec", "phones": "gateway for phones"}
PHONES = "phones"
"""Folder of the gateway, in the coordinator's state."""
JOIN_VARIABLE = "EDGEKIT_JOIN"
JOIN_SECONDS = 120.0
GONE_SECONDS = 2.0
"""After a server app has ended, until it counts as lost; one that is done says so in less."""
MOST_FAILED_RUNS = 3
"""Runs that fail so often in a row, without a round between, are not started again."""


class Supervisor:
    """Keeps the processes of a coordinator going.

    Args:
        state: folder of the coordinator's keys, members and SuperLink database.
        run: the run folder that the server app works in.
        listening: where.
        bundle: for boards to fetch, or None.
        phones: port of a gateway for phones, or None.
        split: port of the split server, or None.
        on_notice: called with a line for people.
    """

    def __init__(
        self,
        state: Path,
        run: Path,
        listening: Listening,
        bundle: Path | None,
        phones: int | None,
        split: int | None,
        on_notice: Callable[[str], None],
    ) -> None:
        self.state, self.listening, self._run, self._bundle = state, listening, run, bundle
        self._phones, self._split, self._on_notice = phones, split, on_notice
        self._logs = run / "logs"
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._secret = ""
        self._port = 0
        self._client = httpx.Client(timeout=10.0)
        self._run_id: int | None = None
        self._wants_run, self._run_started = True, 0.0
        self._failed = 0
        self._app_there, self._app_gone = False, 0.0
        self._round = -1

    def start(self) -> None:
        """Start the SuperLink and the SuperExec, and a run.

        Raises:
            ServeError: the port is taken, another coordinator has the state, or a process does not come up.
        """
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._logs.mkdir(parents=True, exist_ok=True)
        check_port(self.listening.host, self.listening.port, "coordinator")
        if self._split is not None:
            check_port(self.listening.host, self._split, "split server", "--split-port")
        self._secret = secrets.token_hex(32)
        write_whole(self.state / "secret", self._secret, mode=0o600)
        self._port = _free_port()
        write_whole(self.state / "port", str(self._port))
        self._spawn("superlink", self._superlink_command())
        self._wait_until_up()
        with self._control() as control:
            control.stop_runs()  # of an earlier coordinator that was killed
        self._spawn("superexec", self._superexec_command())
        if self._phones is not None:
            self._start_phones()
        self._start_run()

    def watch(self, rounds: int) -> None:
        """See that everything still runs, and start again what does not; to be called every second or so.

        Args:
            rounds: finished so far; a run that gets nowhere is given up.

        Raises:
            ServeError: the run failed again and again.
        """
        if rounds > self._round:
            self._round, self._failed = rounds, 0
        starting: dict[str, Callable[[], None]] = {
            "superlink": lambda: self._spawn("superlink", self._superlink_command()),
            "superexec": lambda: self._spawn("superexec", self._superexec_command()),
            "phones": self._start_phones,
        }
        for name, child in list(self._children.items()):
            rotate(self._logs / f"{name}.log")
            if child.poll() is None:
                continue
            lived = time.monotonic() - self._started[name]
            pause = 1.0 if lived > SETTLED_SECONDS else min(2 * self._pauses.get(name, 0.5), LONGEST_PAUSE)
            if lived >= self._pauses.get(name, 0.0):
                self._pauses[name] = pause
                self._on_notice(f"the {TITLES[name]} ended ({_how(child.returncode)}): it is started again")
                try:
                    starting[name]()
                except ServeError:
                    self._started[name] = time.monotonic()  # the gateway asks the SuperLink, which may be away too
        self._see_to_run()

    def issue_code(self, seconds: float, *, gateway: bool = False) -> str:
        """Make a join code; one for a gateway lets in phones too."""
        found = self._ask("POST", f"/edgekit/codes?seconds={seconds}&gateway={int(gateway)}")
        return str(found["code"])

    def nodes(self) -> tuple[dict[str, Any], set[str]]:
        """Return the nodes that joined, by id, and the names of the join codes that are open."""
        found = self._ask("GET", "/edgekit/state")
        return found["nodes"], set(found["open"])

    def phone_link(self) -> tuple[str, float]:
        """Return the newest link for a phone, and until when it holds (seconds since 1970); "" if there is none."""
        try:
            found = json.loads((self.state / PHONES / "link.json").read_text())
            return str(found["link"]), float(found["until"])
        except (OSError, ValueError, KeyError, TypeError):
            return "", 0.0

    def stop(self, insists: Callable[[], bool] = lambda: False) -> None:
        """Stop everything, the run first, so that the server app can write what it has.

        Args:
            insists: whether who asked for it would not wait any longer.
        """
        for name in ("phones", "superexec", "superlink"):
            child = self._children.get(name)
            if child is not None and child.poll() is None:
                _end(child, insists)
        self._children.clear()
        self._client.close()

    # How.

    def _see_to_run(self) -> None:
        """Start a new run, which goes on at the checkpoint, when the last one has ended without being told to."""
        if not self._wants_run:
            return
        try:
            if self._run_id is None:  # the SuperLink was away when it should have been started
                self._start_run()
                return
            with self._control() as control:
                status, how = control.run_state(self._run_id)
                if status in RUNNING and self._app_is_gone():
                    control.stop_runs()  # Flower waits for its heartbeats for three quarters of a minute
                    status, how = "", ""
        except ServeError:
            return  # the SuperLink is being started again
        if status in RUNNING:
            return
        self._run_id = None
        if how == "completed":
            self._wants_run = False
            return
        self._failed = 1 if time.monotonic() - self._run_started > SETTLED_SECONDS else self._failed + 1
        if self._failed >= MOST_FAILED_RUNS:
            why = unwritable(self._run) or f"see {self._logs / 'superexec.log'}"
            raise ServeError(f"the run failed {self._failed} times in a row: {why}")
        self._on_notice("the server app ended: it is started again and goes on at its last round")

    def _app_is_gone(self) -> bool:
        """Whether the run's server app, which the SuperExec starts, was there and is no more."""
        executor = self._children.get("superexec")
        if executor is not None and executor.poll() is None and children(executor.pid, alive=True):
            self._app_there, self._app_gone = True, 0.0
            return False
        self._app_gone = self._app_gone or time.monotonic()
        return self._app_there and time.monotonic() - self._app_gone > GONE_SECONDS

    def _start_run(self) -> None:
        settings = {"folder": str(self._run.resolve()), "keys": str((self.state / "keys").resolve())}
        if self._split is not None:
            host = self.listening.host
            settings["split-address"] = f"[{host}]:{self._split}" if ":" in host else f"{host}:{self._split}"
            settings["split-tls"] = "no" if self.listening.insecure else "yes"
        with self._control() as control:
            self._run_id = control.start_run(settings)
        self._app_there, self._app_gone = False, 0.0
        self._run_started = time.monotonic()

    def _superlink_command(self) -> list[str]:
        listening = self.listening
        # -P: what lies in the folder that the user stands in is not imported.
        command = [sys.executable, "-P", "-m", "edgekit.server.deployment.superlink", "--state", str(self.state)]
        command += ["--host", listening.host, "--port", str(listening.port), "--internal-port", str(self._port)]
        command += [part for name in listening.reached_as for part in ("--reached-as", name)]
        command += ["--insecure"] if listening.insecure else []
        command += ["--bundle", str(self._bundle)] if self._bundle else []
        return [*command, "--parent", str(os.getpid())]

    def _superexec_command(self) -> list[str]:
        tool = shutil.which("flower-superexec", path=str(Path(sys.executable).parent)) or "flower-superexec"
        command = [tool, "--insecure", "--runtime-api-address", f"127.0.0.1:{self._port}"]
        return [*command, "--superexec-auth-secret-file", str(self.state / "secret"), "--parent-pid", str(os.getpid())]

    def _start_phones(self) -> None:
        """Start the gateway for phones; it joins as a node, the first time by a code of its own."""
        listening, folder = self.listening, self.state / PHONES
        (folder / "link.json").unlink(missing_ok=True)
        command = [
            sys.executable,
            "-P",
            "-m",
            "edgekit.cli",
            "phone",
            "--folder",
            str(folder),
            "--json",
            "--parent",
            str(os.getpid()),
        ]
        command += ["--parent", str(os.getpid()), "--host", listening.host, "--port", str(self._phones)]
        command += [part for name in listening.reached_as for part in ("--name", name)]
        if listening.insecure:
            command.append("--insecure")
        else:
            certificate, key = Authority(self.state / "keys").server_files
            command += ["--certificate", str(certificate), "--key", str(key)]
        node = NodeFolder(folder / "node")
        try:
            known = node.joined and str(node.membership().node_id) in self.nodes()[0]
        except JoinError:
            known = False
        code = "" if known else f"#{self.issue_code(JOIN_SECONDS, gateway=True)}"
        # Not on the command line, which others on this machine can see.
        self._spawn("phones", command, {JOIN_VARIABLE: f"{listening.url}{code}"})

    def _spawn(self, name: str, command: list[str], more: Mapping[str, str] = MappingProxyType({})) -> None:
        environment = {
            **os.environ,
            **more,
            # The SuperExec starts Flower's programs by name.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(self.state / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
            "PYTHONUNBUFFERED": "1",
        }
        with open(self._logs / f"{name}.log", "ab") as log:
            self._children[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self._started[name] = time.monotonic()

    def _wait_until_up(self) -> None:
        end = time.monotonic() + START_SECONDS
        attempts = 1
        while time.monotonic() < end:
            if (status := self._children["superlink"].poll()) is not None:
                if attempts == START_ATTEMPTS:
                    last = (self._logs / "superlink.log").read_text(errors="replace").strip().splitlines()[-1:]
                    raise ServeError(f"the SuperLink did not start ({_how(status)}): {(last or ['no message'])[0]}")
                attempts += 1
                time.sleep(1.0)  # one that was killed with its coordinator may still be letting go of the port
                self._spawn("superlink", self._superlink_command())
            try:
                self._ask("GET", "/edgekit/state")
                return
            except ServeError:
                time.sleep(0.1)
        raise ServeError(f"the SuperLink did not start within {START_SECONDS:g} s: see {self._logs / 'superlink.log'}")

    def _control(self) -> Control:
        return Control(self._port, self._secret)

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        return asked(self._client, self._port, self._secret, method, path)


def _end(child: "subprocess.Popen[bytes]", insists: Callable[[], bool]) -> None:
    """Ask a process and its children to end; insist if they do not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + STOP_SECONDS
        try:
            os.killpg(child.pid, number)
            # Until the whole group is gone: the server app may be deep in a conversion.
            while time.monotonic() < end and not (number == signal.SIGTERM and insists()):
                child.poll()
                with contextlib.suppress(ChildProcessError):  # those that were adopted lie there until this looks
                    os.waitpid(-child.pid, os.WNOHANG)
                os.killpg(child.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            return


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
