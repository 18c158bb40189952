"""What is asked of a coordinator that runs on this machine, by whoever may read its secret."""

from pathlib import Path
from typing import Any

import httpx

from edgekit.errors import ServeError
from edgekit.flower.superlink import SECRET_HEADER
from edgekit.listening import Listening
from edgekit.server.deployment.authority import Authority


def install_line(state: Path, listening: Listening) -> str:
    """Return what installs a node on a board from here; it trusts the coordinator's key, and nothing else."""
    pin = Authority(state / "keys").server_pin()
    return f"curl -fsSLk --pinnedpubkey '{pin}' {listening.url}/install | sudo sh -s -- 'URL#CODE' --data npz:FILE"


def remove_node(state: Path, name: str) -> str:
    """Remove a node from the coordinator that runs with this state; return a line that says so.

    Args:
        state: folder of the coordinator.
        name: of the node, or its number.

    Raises:
        ServeError: no coordinator runs, or there is no such node, or several.
    """
    try:
        port, secret = int((state / "port").read_text()), (state / "secret").read_text()
    except (OSError, ValueError):
        raise ServeError(f"no coordinator of {state} runs here: start it with edgekit serve") from None
    client = httpx.Client(timeout=10.0)
    nodes = asked(client, port, secret, "GET", "/edgekit/state")["nodes"]
    found = [node for node, facts in nodes.items() if name in (node, facts["name"])]
    if len(found) != 1:
        there = ", ".join(f"{facts['name']} ({node})" for node, facts in nodes.items()) or "none"
        raise ServeError(f"{len(found)} nodes are called {name!r}; there are: {there}")
    asked(client, port, secret, "DELETE", f"/edgekit/nodes/{found[0]}")
    return f"{nodes[found[0]]['name']} (node {found[0]}) was removed"


def asked(client: httpx.Client, port: int, secret: str, method: str, path: str) -> dict[str, Any]:
    """Ask the SuperLink's process something of ours."""
    try:
        response = client.request(method, f"http://127.0.0.1:{port}{path}", headers={SECRET_HEADER: secret})
        found: dict[str, Any] = response.json()
    except (httpx.HTTPError, ValueError) as error:
        raise ServeError(f"the SuperLink does not answer: {error}") from None
    if response.status_code != 200:
        raise ServeError(str(found.get("error", response.status_code)))
    return found
