"""What a run knows of its nodes: `nodes.json`, which the server app writes."""

import json
from typing import Any

from edgekit.runfolder import RunFolder


def read_nodes(folder: RunFolder) -> list[dict[str, Any]]:
    """Return what a run's server app knows of its nodes, [] if it has written nothing yet."""
    try:
        found = json.loads((folder.path / "nodes.json").read_text())
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) else []


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
