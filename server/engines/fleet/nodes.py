"""What a run knows of its nodes: `nodes.json`, which the server app writes."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgekit import wire
from edgekit.errors import RunFolderError
from edgekit.runfolder import RunFolder, write_whole
from edgekit.section import first_problem


@dataclass
class NodeState:
    """What the coordinator knows of a node.

    Attributes:
        node: Flower's id.
        name: what its owner calls it.
        kind: `torch`, `litert`, `phone`, or `gateway`, which stands for phones and trains nothing.
        version: of its edgekit.
        rounds: updates accepted.
        failures: rounds it was asked in vain.
        examples: that it has; -1 where it does not say.
        statistics: whether it shares noised statistics.
        facts: battery, load, temperature and memory in MB, as far as its owner lets them be told.
        model: run and version of the model in use there.
        party: that it has trained as, of several with features of the same people.
        network: that it trains, of a method whose nodes train unequal ones; "" is the run's own, None not known yet.
        problem: why it cannot take part now, "" if it can.
        last_seen: seconds since 1970, of its last answer.
        bytes_up: of its updates.
        bytes_down: of what it was sent.
        seconds: from sending it rounds to its updates, in all.
    """

    node: int
    name: str = "?"
    kind: str = "?"
    version: str = "?"
    rounds: int = 0
    failures: int = 0
    examples: int = -1
    statistics: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    party: str = ""
    network: str | None = None
    problem: str = ""
    last_seen: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0


_NODES = TypeAdapter(list[NodeState])


def save_nodes(path: Path, nodes: Iterable[NodeState]) -> None:
    """Write down what is known of nodes."""
    write_whole(path, json.dumps([asdict(state) for state in nodes], indent=1) + "\n")


def load_nodes(path: Path, say: Callable[[str], None] = lambda line: None) -> dict[int, NodeState]:
    """Return what an earlier server app knew of nodes, by id.

    Where it cannot be read that is said, and it begins anew: it is figures for people, and who is which party, which is
    found anew too.
    """
    try:
        return {state.node: state for state in _read(path)}
    except RunFolderError as error:
        say(f"{error}; what is known of nodes begins anew")
        return {}


def read_nodes(folder: RunFolder) -> list[dict[str, Any]]:
    """Return what a run's server app knows of its nodes, [] if it has written nothing yet.

    Raises:
        RunFolderError: it cannot be read.
    """
    return [asdict(state) for state in _read(folder.path / "nodes.json")]


def _read(path: Path) -> list[NodeState]:
    try:
        return _NODES.validate_json(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        raise RunFolderError(f"{path} is damaged: {first_problem(error)}") from None


def by_kind(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Return what each kind of node did in a run: nodes, updates, failures, seconds an update, bytes up and down."""
    kinds: dict[str, dict[str, Any]] = {}
    for line in read_nodes(folder):
        if line.get("kind") in (None, "?", "gateway"):
            continue
        kind = kinds.setdefault(
            line["kind"], {"nodes": 0, "updates": 0, "failures": 0, "seconds": 0.0, "bytes_up": 0, "bytes_down": 0}
        )
        kind["nodes"] += 1
        for name, key in (("updates", "rounds"), ("failures", "failures"), ("seconds", "seconds")):
            kind[name] += line.get(key, 0)
        kind["bytes_up"] += line.get("bytes_up", 0)
        kind["bytes_down"] += line.get("bytes_down", 0)
    for kind in kinds.values():
        total = kind.pop("seconds")
        kind["seconds_an_update"] = round(total / kind["updates"], 3) if kind["updates"] else None
    return dict(sorted(kinds.items()))


def model_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return which model a node says that it has: what fits of it, since it is written down."""
    run, version = found.get("run"), found.get("version")
    taken: dict[str, Any] = {"run": wire.one_line(run)} if isinstance(run, str) else {}
    return taken | ({"version": version} if isinstance(version, int) and not isinstance(version, bool) else {})


def numbers_of(found: Any) -> dict[str, Any]:
    """Return the facts of a device that fit."""
    if not isinstance(found, dict):
        return {}
    taken: dict[str, Any] = {}
    for name, most in (("battery", 100.0), ("load", 1e4), ("temperature", 1e3), ("memory", 1e9)):
        value = found.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most:
            taken[name] = value
    if isinstance(found.get("charging"), bool):
        taken["charging"] = found["charging"]
    return taken
