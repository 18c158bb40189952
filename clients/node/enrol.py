"""A device joins a coordinator by a one-time code: see `edgekit/enrolment.py` for what is proved to whom."""

import json
import secrets
import time
from collections.abc import Callable
from typing import Any

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgekit.clients.node.folder import Membership, NodeFolder, NodeSettings
from edgekit.enrolment import PROTOCOL, JoinAddress, JoinCode, clock_problem, enrolment_parts, is_proof, phone_message
from edgekit.errors import JoinError
from edgekit.flower.fleet import explain, trusting
from edgekit.version import __version__

TIMEOUT_SECONDS = 60.0
MOST_BYTES = 64 << 10


def join(folder: NodeFolder, address: JoinAddress, code: JoinCode, name: str, kind: str) -> Membership:
    """Join; the folder then holds a membership.

    Args:
        folder: of the node; its key is made here if it has none.
        address: of the coordinator.
        code: that the coordinator showed.
        name: that the owner calls the device.
        kind: `torch`, `litert`, `supernode` or `gateway`.

    Raises:
        JoinError: anything is wrong; it says what, and what to do.
    """
    authority = _hello(address, code) if address.secure else b""
    public, nonce = folder.public_key(), secrets.token_hex(16)
    proof = code.proof(*enrolment_parts(nonce, public, name, kind))
    request = {
        "code": code.name,
        "nonce": nonce,
        "public_key": public,
        "name": name,
        "kind": kind,
        "version": __version__,
        "proof": proof,
        "signature": _signed(folder, proof.encode()),
    }
    answer = _post(address, authority or None, "enrol", request)
    return _keep(folder, answer, address, authority)


def join_phone(gateway: NodeFolder, folder: NodeFolder, address: JoinAddress, name: str) -> None:
    """Bring a phone: its folder then holds a membership, and a key of its own.

    Args:
        gateway: folder of the gateway's own node, which has joined.
        folder: of the phone's node.
        address: of the coordinator.
        name: of the phone.

    Raises:
        JoinError: anything is wrong.
    """
    by, when = gateway.membership(), time.time()
    public = folder.public_key()
    message = phone_message(by.node_id, public, name, when)
    request = {
        "gateway": by.node_id,
        "public_key": public,
        "name": name,
        "version": __version__,
        "time": when,
        "signature": _signed(gateway, message),
        "proof": _signed(folder, message),
    }
    answer = _post(address, gateway.authority(), "phone", request)
    folder.keep_node_settings(NodeSettings(url=str(address), name=name))
    _keep(folder, answer, address, gateway.authority() or b"")


def leave(folder: NodeFolder, address: JoinAddress) -> None:
    """Leave the coordinator: it forgets this node's key.

    Raises:
        JoinError: it cannot be told.
    """
    node, when = folder.membership().node_id, time.time()
    signature = _signed(folder, f"leave {node} {when}".encode())
    _post(address, folder.authority(), "leave", {"node_id": node, "time": when, "signature": signature})
    folder.membership_file.unlink()


def clock_ahead(address: JoinAddress, authority: bytes | None) -> float:
    """Return how many seconds this device's clock is ahead of the coordinator's.

    Raises:
        JoinError: the coordinator cannot be asked.
    """
    before = time.time()
    found = _exchange(lambda client: client.get(f"{address}/join/time"), address, authority)
    theirs = found.get("time")
    if not isinstance(theirs, int | float):
        raise JoinError(f"{address} does not say what time it is")
    return (before + time.time()) / 2 - theirs


def _keep(folder: NodeFolder, answer: dict[str, Any], address: JoinAddress, authority: bytes) -> Membership:
    """Write down what joining gave."""
    try:
        membership = Membership(node_id=answer["node_id"], signing_key=answer["signing_key"], secure=address.secure)
        bytes.fromhex(membership.signing_key)
    except (KeyError, ValueError):
        raise JoinError(f"{address} answered what no coordinator answers") from None
    folder.keep_membership(membership, authority)
    return membership


def _hello(address: JoinAddress, code: JoinCode) -> bytes:
    """Return the coordinator's certificate authority, proved by the code to be its own."""
    nonce = secrets.token_hex(16)
    # Whoever answers is not known yet, and learns nothing here: what he says counts only with the code's proof.
    answer = _post(address, b"", "hello", {"code": code.name, "nonce": nonce})
    if isinstance(answer.get("time"), int | float) and (problem := clock_problem(time.time() - answer["time"])):
        raise JoinError(problem)
    authority = str(answer.get("authority", "")).encode()
    if not is_proof(answer.get("proof"), code.proof(b"authority", nonce.encode(), authority)):
        raise JoinError(
            f"{address} cannot prove that it showed this code: the code is mistyped, or somebody stands between; "
            "nothing was sent to it"
        )
    return authority


def _post(address: JoinAddress, authority: bytes | None, what: str, request: dict[str, Any]) -> dict[str, Any]:
    content = json.dumps({"time": time.time(), **request, "protocol": PROTOCOL})
    return _exchange(lambda client: client.post(f"{address}/join/{what}", content=content), address, authority)


def _exchange(
    ask: Callable[[httpx.Client], httpx.Response], address: JoinAddress, authority: bytes | None
) -> dict[str, Any]:
    """Ask, and return the answer; an empty authority trusts anybody, None means no TLS."""
    verify = trusting(authority) if authority else False
    try:
        with httpx.Client(verify=verify, timeout=TIMEOUT_SECONDS) as client:
            response = ask(client)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        raise JoinError(f"{address} does not answer: {explain(error)}") from None
    try:
        answer = json.loads(response.content[:MOST_BYTES])
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise JoinError(f"{address} is no coordinator of edgekit's: it answered {response.status_code}")
    if response.status_code != 200:
        raise JoinError(str(answer.get("error", f"the coordinator answered {response.status_code}"))[:500])
    return answer


def _signed(folder: NodeFolder, message: bytes) -> str:
    return folder.key().sign(message, ec.ECDSA(hashes.SHA256())).hex()
