"""Who may come in by the gateway: one-time tickets, and the phones that came by them."""

import hashlib
import hmac
import json
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.clients.node.folder import NodeFolder
from edgekit.errors import JoinError
from edgekit.runfolder import write_whole

TICKET_SECONDS = 600.0
MOST_TICKETS = 200
MOST_PHONES = 2000


class NotKnownError(JoinError):
    """A ticket or a phone is not known (any more): only another code helps."""


@dataclass(frozen=True)
class Phone:
    """A phone that joined.

    Attributes:
        name: that people see.
        folder: of its Flower node, whose key the gateway keeps.
    """

    name: str
    folder: NodeFolder


class Members:
    """Tickets, in memory, and phones, in a folder each. A restart voids the tickets and keeps the phones.

    Args:
        folder: of all phones.
        clock: seconds, for the tickets' age.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._lock = threading.Lock()
        self._tickets: dict[bytes, float] = {}
        self._used: dict[bytes, tuple[float, str]] = {}
        """Until when a used ticket is remembered, and the phone that came by it."""

    def issue(self, seconds: float = TICKET_SECONDS) -> str:
        """Make a ticket for one phone: 128 bits, for the part of a URL that browsers do not send.

        Raises:
            JoinError: too many are open.
        """
        with self._lock:
            now = self._clock()
            self._tickets = {ticket: until for ticket, until in self._tickets.items() if until > now}
            self._used = {ticket: used for ticket, used in self._used.items() if used[0] > now}
            if len(self._tickets) >= MOST_TICKETS:
                raise JoinError(f"{MOST_TICKETS} tickets are open: wait until some expire")
            ticket = secrets.token_urlsafe(16)
            self._tickets[_digest(ticket)] = now + seconds
            return ticket

    def redeem(self, ticket: str, identity: str) -> None:
        """Use a ticket up, for a phone.

        Raises:
            NotKnownError: it is unknown, used, or expired.
        """
        key = _digest(ticket)
        with self._lock:
            until = self._tickets.pop(key, None)
            if until is None:
                known = key in self._used
                raise NotKnownError(
                    "this code was used already: each lets one phone in; scan the newest one"
                    if known
                    else "this code is not known here (any more): scan the newest one"
                )
            self._used[key] = (self._clock() + 86_400, identity)
            if until <= self._clock():
                raise NotKnownError("this code has expired: scan the newest one")

    def came_by(self, ticket: str) -> str:
        """Return the phone that came by a ticket, whose welcome may have been lost; "" if none did."""
        return self._used.get(_digest(ticket), (0.0, ""))[1]

    def give_back(self, ticket: str, seconds: float = TICKET_SECONDS) -> None:
        """Make a redeemed ticket good again: the phone could not be let in, by no fault of its own."""
        with self._lock:
            self._used.pop(_digest(ticket), None)
            self._tickets[_digest(ticket)] = self._clock() + seconds

    def is_open(self, ticket: str) -> bool:
        """Whether a ticket can still be used."""
        with self._lock:
            return self._tickets.get(_digest(ticket), 0.0) > self._clock()

    def new(self, agent: str) -> tuple[str, Phone]:
        """Make a place for a new phone; return its id.

        Args:
            agent: what it is, in a few words.

        Raises:
            JoinError: there are too many.
        """
        taken = sum(1 for path in self._folder.glob("*/phone.json"))
        if taken >= MOST_PHONES:
            raise JoinError(f"this gateway has {MOST_PHONES} phones already")
        name = f"phone-{secrets.token_hex(2)}"
        identity = secrets.token_hex(8)
        words = "".join(letter for letter in agent if letter.isalnum() or letter in " .")[:24].strip()
        return identity, Phone(f"{name} {words}".strip(), NodeFolder(self._folder / identity))

    def keep(self, identity: str, phone: Phone, secret: str) -> None:
        """Write a phone down, and the secret with which it comes back."""
        facts = {"name": phone.name, "secret": _digest(secret).hex()}
        write_whole(phone.folder.path / "phone.json", json.dumps(facts), mode=0o600)

    def find(self, identity: str, secret: str) -> Phone:
        """Return the phone that shows this secret.

        Raises:
            NotKnownError: there is none.
            JoinError: what is known of it cannot be read now.
        """
        stranger = NotKnownError("this phone is not known here (any more): scan a new code")
        if not (identity.isalnum() and len(identity) == 16):
            raise stranger
        folder = NodeFolder(self._folder / identity)
        try:
            facts = json.loads((folder.path / "phone.json").read_text())
            known = bytes.fromhex(facts["secret"])
            name = str(facts["name"])
        except FileNotFoundError:
            raise stranger from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise JoinError(f"the gateway cannot read what it knows of this phone: {error}") from None
        if not hmac.compare_digest(known, _digest(secret)) or not folder.joined:
            raise stranger
        return Phone(name, folder)

    def forget(self, phone: Phone) -> None:
        """Remove a phone and its key."""
        shutil.rmtree(phone.folder.path, ignore_errors=True)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
