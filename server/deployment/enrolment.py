"""Who may take part: join codes, and the nodes that joined by them."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from edgekit.enrolment import (
    PROTOCOL,
    JoinCode,
    clock_problem,
    enrolment_parts,
    is_proof,
    phone_message,
    version_problem,
)
from edgekit.errors import JoinError, ServeError
from edgekit.logs import one_line
from edgekit.runfolder import write_whole
from edgekit.section import first_problem
from edgekit.server.deployment.claims import check_label, check_signature, fingerprint, text
from edgekit.version import __version__

CODE_SECONDS = 600.0
MOST_ATTEMPTS = 5
"""Wrong proofs with one code; then it is void."""
MOST_CODES = 1000
KINDS = ("torch", "litert", "supernode", "gateway")
MOST_PHONES = 10_000
"""That one gateway brings."""


@dataclass
class Code:
    """A join code as the coordinator remembers it.

    Attributes:
        secret: as in `JoinCode`.
        expires: seconds since 1970.
        attempts: wrong proofs so far.
        used_by: fingerprint of the key that used it, "" for nobody.
        gateway: whether it lets in a gateway, which brings phones of its own.
    """

    secret: str
    expires: float
    attempts: int = 0
    used_by: str = ""
    gateway: bool = False


@dataclass
class Member:
    """A node that joined.

    Attributes:
        node_id: Flower's.
        name: what its owner calls it.
        kind: `torch`, `litert`, `supernode`, `gateway` or `phone`.
        public_key: PEM.
        since: seconds since 1970.
        version: of edgekit when it joined.
        brought_by: the gateway of a phone; 0 for all else.
    """

    node_id: int
    name: str
    kind: str
    public_key: str
    since: float
    version: str
    brought_by: int = 0


class Enrolment:
    """Join codes and members, kept in two files that survive restarts.

    Args:
        folder: of the coordinator's state.
        authority: its certificate, PEM.
        signing_key: that it signs models with, 32 bytes.
        register: makes a public key known to the SuperLink, under a name, and returns the node's id.
        unregister: makes the SuperLink forget a node.
        log: told what happens, in lines for people.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        authority: bytes,
        signing_key: bytes,
        register: Callable[[bytes, str], int],
        unregister: Callable[[int], None],
        log: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._codes_file, self._members_file = folder / "codes.json", folder / "members.json"
        self.authority, self.signing_key = authority, signing_key
        self._register, self._unregister, self._log, self._clock = register, unregister, log, clock
        self._lock = threading.RLock()
        self._codes = _read(self._codes_file, _CODES)
        self.members = {member.node_id: member for member in _read(self._members_file, _MEMBERS).values()}
        self._by_key = {member.public_key: node for node, member in self.members.items()}

    def issue(self, seconds: float = CODE_SECONDS, *, gateway: bool = False) -> JoinCode:
        """Make a new code that expires.

        Args:
            seconds: how long it holds.
            gateway: whether it lets in a gateway too; other codes let in one device and no more.

        Raises:
            ServeError: a thousand codes are open already.
        """
        with self._lock:
            self._drop_expired()
            if len(self.open_codes()) >= MOST_CODES:
                raise ServeError(f"{MOST_CODES} join codes are open: wait until some expire")
            code = JoinCode.new()
            while code.name in self._codes:
                code = JoinCode.new()
            self._codes[code.name] = Code(code.secret, self._clock() + seconds, gateway=gateway)
            self._save_codes()
            return code

    def open_codes(self) -> list[str]:
        """Return the names of the codes that can still be used."""
        now = self._clock()
        return [name for name, code in list(self._codes.items()) if not code.used_by and code.expires > now]

    def with_key(self, public_key: str) -> int | None:
        """Return the node that joined with a public key (PEM); None if none did."""
        return self._by_key.get(public_key)

    def hello(self, request: Any) -> dict[str, Any]:
        """Answer a device's first question: prove, by its code, that this certificate authority is ours.

        Args:
            request: {"code": name, "nonce": text, "time": seconds, "protocol": number}.

        Raises:
            JoinError: the code is unknown, used, or expired; a version or a clock does not fit.
        """
        name, nonce = text(request, "code"), text(request, "nonce")
        self._check_sides(request)
        with self._lock:
            proof = JoinCode(name, self._find(name).secret).proof(b"authority", nonce.encode(), self.authority)
        return {"authority": self.authority.decode(), "proof": proof, "time": self._clock()}

    def enrol(self, request: Any) -> dict[str, Any]:
        """Let a device join.

        Args:
            request: {"code", "nonce", "public_key", "name", "kind", "version", "time", "protocol", "proof",
                "signature"}; the proof is of the code's secret, the signature (of the proof) of the private key.

        Raises:
            JoinError: anything is wrong; nothing changed then.
        """
        name, nonce, key = text(request, "code"), text(request, "nonce"), text(request, "public_key")
        label, kind, version = text(request, "name"), text(request, "kind"), text(request, "version")
        self._check_sides(request)
        if kind not in KINDS:
            raise JoinError(f"a node's kind is {', '.join(KINDS)}, not {kind[:20]!r}")
        check_label(label)
        if problem := version_problem(version, "this device"):
            raise JoinError(problem)
        with self._lock:
            code = self._find(name)
            wanted = JoinCode(name, code.secret).proof(*enrolment_parts(nonce, key, label, kind))
            if not is_proof(request.get("proof"), wanted):
                self._wrong(name, code)
            check_signature(key, wanted.encode(), request)
            if kind == "gateway" and not code.gateway:
                raise JoinError(
                    "this code lets in one device, not a gateway with phones of its own: use edgekit serve --phones, "
                    "or start the coordinator with --allow-gateways"
                )
            if code.used_by not in ("", fingerprint(key)):
                self._log(f"refused: code {name} was tried a second time, by another device")
                raise JoinError(
                    f"code {name} was used already: each joins one device; take a new one from edgekit serve"
                )
            again = bool(code.used_by)
            code.used_by = fingerprint(key)
            self._save_codes()
        try:
            node_id = self._take_in(label, kind, key, version)
        except JoinError:
            with self._lock:
                code.used_by = code.used_by if again else ""
                self._save_codes()
            raise
        self._log(f"{label} ({kind}) joined{' again' if again else ''} with code {name} as node {node_id}")
        return {"node_id": node_id, "signing_key": self.signing_key.hex(), "time": self._clock()}

    def enrol_phone(self, request: Any) -> dict[str, Any]:
        """Let a gateway bring a phone, whose key it keeps.

        Args:
            request: {"gateway": node id, "public_key", "name", "version", "time", "protocol", "signature" by the
                gateway's key, "proof" by the phone's own key, both of `phone_message`}.

        Raises:
            JoinError: it is no gateway that asks, or anything else is wrong.
        """
        self._check_sides(request)
        key, label, version = text(request, "public_key"), text(request, "name"), text(request, "version")
        if problem := version_problem(version, "this gateway"):
            raise JoinError(problem)
        gateway = self.members.get(request["gateway"]) if isinstance(request.get("gateway"), int) else None
        if gateway is None or gateway.kind != "gateway":
            raise JoinError("only a gateway of this coordinator brings phones: join it first, with edgekit phone")
        message = phone_message(gateway.node_id, key, label, request["time"])
        check_signature(gateway.public_key, message, request)
        check_signature(key, message, {"signature": request.get("proof")})
        check_label(label)
        if sum(member.brought_by == gateway.node_id for member in list(self.members.values())) >= MOST_PHONES:
            raise JoinError(f"{gateway.name} has brought {MOST_PHONES} phones already")
        node_id = self._take_in(label, "phone", key, version, gateway.node_id)
        self._log(f"{label} (phone) joined by {gateway.name} as node {node_id}")
        return {"node_id": node_id, "signing_key": self.signing_key.hex(), "time": self._clock()}

    def _take_in(self, label: str, kind: str, key: str, version: str, brought_by: int = 0) -> int:
        """Make a device a node of the SuperLink, which answers in this very process: without the lock.

        A key it knows already gives the same node.
        """
        try:
            node_id = self._register(key.encode(), label)
        except ServeError as error:
            raise JoinError(f"the coordinator could not take the device in ({error}): try again") from None
        with self._lock:
            self.members[node_id] = Member(node_id, label, kind, key, self._clock(), version, brought_by)
            self._by_key[key] = node_id
            self._save_members()
        return node_id

    def register_anew(self) -> None:
        """Make all members known to a SuperLink that knows nobody (any more); Flower gives them other numbers."""
        numbers: dict[int, int] = {}
        known = sorted(self.members.values(), key=lambda member: member.brought_by)  # gateways before their phones
        for member in known:
            numbers[member.node_id] = self._register(member.public_key.encode(), member.name)
        again = [
            replace(one, node_id=numbers[one.node_id], brought_by=numbers.get(one.brought_by, one.brought_by))
            for one in known
        ]
        with self._lock:
            self.members = {member.node_id: member for member in again}
            self._by_key = {member.public_key: member.node_id for member in again}
            self._save_members()

    def leave(self, node_id: int) -> None:
        """Forget a node; its requests are refused from now on.

        Raises:
            ServeError: there is no such node.
        """
        if node_id not in self.members:
            raise ServeError(f"no node {node_id} has joined")
        for phone in [member.node_id for member in list(self.members.values()) if member.brought_by == node_id]:
            self.leave(phone)
        self._unregister(node_id)
        with self._lock:
            member = self.members.pop(node_id, None)
            if member is None:
                return
            del self._by_key[member.public_key]
            for code in self._codes.values():  # a removed node does not come back by the code it joined with
                if code.used_by == fingerprint(member.public_key):
                    code.expires = 0.0
            self._save_codes()
            self._save_members()
        self._log(f"{member.name} (node {node_id}) left")

    def leave_signed(self, request: Any) -> dict[str, Any]:
        """Let a node leave at its own wish: {"node_id", "time", "signature" of "leave NODE TIME"}.

        Raises:
            JoinError: it is not this node that asks.
        """
        node_id, when = request.get("node_id"), request.get("time")
        member = self.members.get(node_id) if isinstance(node_id, int) else None
        if member is None:
            raise JoinError("the coordinator does not know this node (any more)")
        if not isinstance(when, int | float) or abs(when - self._clock()) > 300:
            raise JoinError("this request to leave is too old, or this device's clock is wrong")
        check_signature(member.public_key, f"leave {node_id} {when}".encode(), request)
        self.leave(member.node_id)
        return {"left": True}

    def _wrong(self, name: str, code: Code) -> None:
        code.attempts += 1
        if code.attempts >= MOST_ATTEMPTS:
            code.expires = 0.0
            self._log(f"code {name} is void after {MOST_ATTEMPTS} wrong attempts: somebody may be guessing")
        self._save_codes()
        raise JoinError("the code's secret part is wrong: type it again as edgekit serve shows it")

    def _find(self, name: str) -> Code:
        code = self._codes.get(name)
        if code is None:
            raise JoinError(f"code {name[:8]!r} is unknown here: is this the right coordinator, and the newest code?")
        if code.expires <= self._clock():
            raise JoinError(f"code {name} has expired: take a new one from edgekit serve")
        return code

    def _check_sides(self, request: Any) -> None:
        if request.get("protocol") != PROTOCOL:
            raise JoinError(
                f"this coordinator runs edgekit {__version__} (enrolment protocol {PROTOCOL}), the device one of "
                f"protocol {one_line(repr(request.get('protocol')))}: install the same edgekit on both"
            )
        theirs = request.get("time")
        if not isinstance(theirs, int | float) or isinstance(theirs, bool):
            raise JoinError("the request does not say the device's time")
        if problem := clock_problem(theirs - self._clock()):
            raise JoinError(problem)

    def _drop_expired(self) -> None:
        day = 86400.0  # kept a day longer, so that a late device hears "expired" and not "unknown"
        kept = [(name, code) for name, code in self._codes.items() if code.expires + day > self._clock()]
        kept.sort(key=lambda item: item[1].expires)
        self._codes = dict(kept[-MOST_CODES:])

    def _save_codes(self) -> None:
        write_whole(self._codes_file, json.dumps({n: asdict(c) for n, c in self._codes.items()}), mode=0o600)

    def _save_members(self) -> None:
        write_whole(self._members_file, json.dumps({n: asdict(m) for n, m in self.members.items()}), mode=0o600)


def members_in(folder: Path) -> set[int]:
    """Return the ids of the nodes that have joined, and have not left or been removed."""
    return {int(node) for node in _read(folder / "members.json", _MEMBERS)}


Kept = TypeVar("Kept", Code, Member)
_CODES, _MEMBERS = TypeAdapter(dict[str, Code]), TypeAdapter(dict[str, Member])


def _read(path: Path, kind: TypeAdapter[dict[str, Kept]]) -> dict[str, Kept]:
    remedy = "restore it, or remove it and let devices join again"
    try:
        return kind.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ServeError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    except ValidationError as error:
        raise ServeError(f"{path} is damaged ({first_problem(error)}): {remedy}") from None
