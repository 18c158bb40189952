"""A gateway as a member of a coordinator."""

from pathlib import Path

from edgekit.clients.node import enrol
from edgekit.clients.node.folder import NodeFolder, NodeSettings
from edgekit.enrolment import parse_url
from edgekit.errors import JoinError


def join(folder: Path, url: str, name: str) -> None:
    """Make this gateway a member of a coordinator, by a join code; or, without one, tell it where its own is now.

    Args:
        folder: of the gateway.
        url: of the coordinator; with a code if this gateway is new to it.
        name: of the gateway.

    Raises:
        JoinError: it may not.
    """
    node = NodeFolder(folder / "node")
    address, code = parse_url(url)
    if code is None and not node.joined:
        raise JoinError("give the whole address with its code, URL#CODE, as edgekit serve shows it")
    # First: a membership is there only with all else. Whoever answers there must have the authority's certificate.
    node.keep_node_settings(NodeSettings(url=str(address), name=name))
    if code is not None:
        enrol.join(node, address, code, name, "gateway")
