"""`edgekit serve`: a run with real devices, looked after for as long as it takes."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from edgekit.enrolment import NAME_LETTERS
from edgekit.errors import EdgekitError, RunFolderError, ServeError, TrainingError
from edgekit.listening import Listening
from edgekit.runfolder import RunFolder, locked, read_lines
from edgekit.server.deployment.supervisor import Supervisor
from edgekit.server.engines.fleet.nodes import read_nodes

TICK_SECONDS = 0.25
WATCH_SECONDS = 1.0
STOPPING = "stopping: the result of the rounds done is written; once more ends it at once"
DELIVERY_SECONDS = 60.0
"""How long `once` waits for nodes to take the finished model into use."""


class Audience(Protocol):
    """Who looks on."""

    def event(self, event: dict[str, Any]) -> None:
        """Something happened: `stage`, `round` and `rounds`, `notice`, `finished` or `failed`."""

    def code(self, code: str, minutes: float) -> None:
        """There is a new join code."""

    def phone(self, link: str, minutes: float) -> None:
        """There is a new link for a phone."""

    def nodes(self, rows: list[dict[str, Any]]) -> None:
        """What is known of the nodes, a few times a minute."""


def coordinate(
    folder: RunFolder,
    state: Path,
    listening: Listening,
    audience: Audience,
    *,
    bundle: Path | None = None,
    phones: int | None = None,
    split: int | None = None,
    gateways: bool = False,
    code_seconds: float = 600.0,
    codes: int = 1,
    once: bool = False,
) -> None:
    """Serve an experiment until it is stopped by a signal; begun again, it goes on at the last round.

    Args:
        folder: the run's, with its experiment.
        state: folder of the coordinator's keys, members and SuperLink database.
        listening: where devices reach it.
        audience: told what happens.
        bundle: for boards to fetch, or None.
        phones: port of a gateway for phones, or None.
        split: port of the split server, where there is one.
        gateways: whether the join codes let in gateways, which bring phones of their own.
        code_seconds: how long a join code holds.
        codes: join codes to have open at a time.
        once: end when the run is done and the nodes that are there have its model.

    Raises:
        EdgekitError: it cannot be served, or the run failed.
    """
    stop, insist = threading.Event(), threading.Event()
    with _only_one(state), _only_one(folder.path), _signals(stop, insist):
        supervisor = Supervisor(
            state, folder.path, listening, bundle, phones, split, lambda line: audience.event({"notice": line})
        )
        events = _Tail(folder.path / "events.jsonl")
        try:
            supervisor.start()
            _follow(supervisor, folder, events, audience, code_seconds, codes, gateways, once, stop)
        finally:
            if stop.is_set():
                audience.event({"notice": STOPPING})
            supervisor.stop(insist.is_set)
        if stop.is_set():
            audience.event({"notice": _how_to_go_on(folder)})


def _follow(
    supervisor: Supervisor,
    folder: RunFolder,
    events: "_Tail",
    audience: Audience,
    code_seconds: float,
    codes: int,
    gateways: bool,
    once: bool,
    stop: threading.Event,
) -> None:
    open_codes: list[str] = []
    phone_link = ""
    rounds, watched, finished = -1, 0.0, 0.0
    while not stop.wait(TICK_SECONDS):
        for event in events.new():
            audience.event(event)
            if "round" in event:
                rounds = event["round"]["round"]
            if "failed" in event:
                raise TrainingError(event["failed"])
            if "finished" in event:
                finished = time.monotonic()
        if time.monotonic() - watched < WATCH_SECONDS:
            continue
        watched = time.monotonic()
        supervisor.watch(rounds)
        link, until = supervisor.phone_link()
        if link and link != phone_link:
            phone_link = link
            audience.phone(link, (until - time.time()) / 60)
        try:
            joined, still_open = supervisor.nodes()
            rows = _rows(joined, folder)
            open_codes = [code for code in open_codes if code[:NAME_LETTERS] in still_open]
            audience.nodes(rows)
            while len(open_codes) < codes:
                open_codes.append(supervisor.issue_code(code_seconds, gateway=gateways))
                audience.code(open_codes[-1], code_seconds / 60)
        except ServeError:
            continue  # the SuperLink is being started again
        if once and finished and _delivered(rows, folder, time.monotonic() - finished):
            return


def _delivered(rows: list[dict[str, Any]], folder: RunFolder, waited: float) -> bool:
    """Whether every node that is there uses the finished model, or has had time enough to."""
    result = folder.read_result()
    if waited > DELIVERY_SECONDS or "int8" not in result["tflite"]:
        return True
    there = [row for row in rows if row["online"] and row["rounds"]]
    return bool(there) and all(row["model"] == result["rounds"] for row in there)


def _rows(joined: dict[str, Any], folder: RunFolder) -> list[dict[str, Any]]:
    """Bring together what the gate and the server app know of each node."""
    try:
        told = {str(line["node"]): line for line in read_nodes(folder)}
    except RunFolderError:
        told = {}  # its server app says so, and writes it anew
    rows = []
    for node, member in joined.items():
        known = told.get(node, {})
        rows.append(
            {
                "node": node,
                "name": member["name"],
                "kind": known.get("kind") if known.get("kind") not in (None, "?") else member["kind"],
                "last_seen": member["last_seen"],
                "online": time.time() - member["last_seen"] < 30,
                "facts": known.get("facts", {}),
                "rounds": known.get("rounds", 0),
                "failures": known.get("failures", 0),
                "bytes": member["bytes_up"] + member["bytes_down"],
                "model": known.get("model", {}).get("version"),
                "problem": known.get("problem", ""),
            }
        )
    return sorted(rows, key=lambda row: (not row["online"], row["name"]))


def rows_of(folder: RunFolder) -> list[dict[str, Any]]:
    """Return what a run knows of its nodes, as rows for people, without asking a coordinator."""
    return _rows({str(line["node"]): line for line in read_nodes(folder)}, folder)


def _only_one(folder: Path) -> AbstractContextManager[None]:
    """Hold a folder (the coordinator's state, or the run): two of them would confuse each other."""
    return locked(
        folder, ServeError(f"another edgekit serve uses {folder}: stop it first, or give another --state and --out")
    )


@contextmanager
def _signals(stop: threading.Event, insist: threading.Event) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end things in order, and a second one at once."""

    def asked(*_: object) -> None:
        (insist if stop.is_set() else stop).set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _how_to_go_on(folder: RunFolder) -> str:
    """Return what was done, and how to go on."""
    rounds = sum(1 for _ in read_lines(folder.metrics))
    try:
        result = folder.read_result()
    except EdgekitError:
        result = {"rounds": 0, "interrupted": True}
    if not result["interrupted"]:
        return f"stopped; the run is done: edgekit serve --out {folder.path} goes on delivering its model"
    written = f"; their model is {folder.model}" if result["rounds"] else ""
    return f"stopped after round {rounds}{written}; go on with: edgekit serve --out {folder.path}"


class _Tail:
    """Reads what is appended to a file of JSON lines from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = path.stat().st_size if path.exists() else 0

    def new(self) -> list[dict[str, Any]]:
        """Return the whole lines that came since the last call."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._place)
                content = file.read()
        except FileNotFoundError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._place += len(whole)
        found = [_event(line) for line in whole.splitlines() if line]
        return [event for event in found if event is not None]


def _event(line: bytes) -> dict[str, Any] | None:
    """Return a line's event; None of one that a process that was killed left behind, in part or joined to the next."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
