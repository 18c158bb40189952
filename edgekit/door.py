"""The door of a web server: who has not shown who he is holds no room for long, and takes none from those who have.

A listening socket that counts what it lets in. Of connections that belong to nobody known only so many stay, from one
address and in all; beyond that the one that deserves it least goes, before it costs a TLS handshake or a thread: of the
address that has most, the one that has been silent for longest. So whoever comes to say something gets a word in.
"""

import asyncio
import contextlib
import gc
import ipaddress
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from edgekit.errors import ServeError

log = logging.getLogger("edgekit.door")

MOST_STRANGERS = 200
"""Connections at a time of those who did not show who they are; each takes about 0.3 MB with TLS."""
MOST_FROM_ONE = 60
"""Of them from one address: devices behind one router have one, but not for long, since they say who they are."""
MOST_OF_ONE = 16
"""Connections of one who is known."""
SILENT_SECONDS = 10.0
"""How long one who is not known may say nothing."""
LOOK_SECONDS = 1.0
COLLECTED = 50
"""Connections that are sent away before their memory is collected: a TLS transport is a cycle of 0.2 MB, of which
Python's collector sees a few small objects, and would let thousands lie."""
KNOWN = "edgekit.known"
"""Where a request's scope holds what tells the door whose it is."""


class Connection(socket.socket):
    """A connection that came in by a door.

    Attributes:
        peer: address and port of the other end.
        address: what is counted as one: an IPv4 address, or the /64 of an IPv6 address, which one machine may have.
        silent_since: when it last said something, by the door's clock.
        asking: requests of it that are answered just now.
        known: who it is; "" as long as nobody knows.
    """

    door: "Door"
    peer: tuple[str, int]
    address: str
    silent_since: float
    asking: int
    known: str

    def close(self) -> None:
        """Close it; the door forgets it."""
        self.door.forget(self)
        super().close()

    def turn_away(self) -> None:
        """End it: whoever reads from it finds its end, and closes it."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)


class Listener(socket.socket):
    """A listening socket that lets in by a door."""

    door: "Door"

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection that may stay."""
        number, peer = self._accept()  # type: ignore[attr-defined]
        connection = Connection(self.family, self.type, self.proto, fileno=number)
        self.door.came(connection, (str(peer[0]), int(peer[1])))
        return connection, peer


class Door:
    """Lets connections in, and sends away those that deserve their place least.

    Args:
        strangers: connections of those who are not known, at a time.
        from_one: of them from one address.
        of_one: connections of one who is known.
        silent_seconds: how long one who is not known may say nothing.
        clock: seconds.
    """

    def __init__(
        self,
        strangers: int = MOST_STRANGERS,
        from_one: int = MOST_FROM_ONE,
        of_one: int = MOST_OF_ONE,
        silent_seconds: float = SILENT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._strangers, self._from_one, self._of_one = strangers, from_one, of_one
        self._silent_seconds, self._clock = silent_seconds, clock
        self._inside: dict[tuple[str, int], Connection] = {}
        self._sent_away: Counter[str] = Counter()
        self._lying = 0

    def listen(self, host: str, port: int) -> list[socket.socket]:
        """Return sockets that are bound to a host's addresses.

        Raises:
            ServeError: one cannot be listened on.
        """
        found: list[Listener] = []
        try:
            for family, kind, proto, _, address in socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                listener = Listener(family, kind, proto)
                found.append(listener)
                listener.door = self
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind(address)
        except OSError as error:
            for listener in found:
                listener.close()
            raise ServeError(f"cannot listen on {host} port {port} ({error.strerror})") from None
        return list(found)

    def came(self, connection: Connection, peer: tuple[str, int]) -> None:
        """Let a connection in; another one may have to go for it."""
        connection.door, connection.peer, connection.address = self, peer, one_of(peer[0])
        connection.silent_since, connection.asking, connection.known = self._clock(), 0, ""
        self._inside[peer] = connection
        strangers = [one for one in self._inside.values() if not one.known]
        if len(strangers) > self._strangers:
            of_most, _ = Counter(one.address for one in strangers).most_common(1)[0]
            self._send_away([one for one in strangers if one.address == of_most])
        elif len(mine := [one for one in strangers if one.address == connection.address]) > self._from_one:
            self._send_away(mine)

    def forget(self, connection: Connection) -> None:
        """A connection is closed."""
        if self._inside.get(connection.peer) is connection:
            del self._inside[connection.peer]

    @contextlib.contextmanager
    def asking(self, peer: tuple[str, int], *, stays: bool = False) -> Iterator[Callable[[str], None]]:
        """A request is answered while this is entered; yields what tells whose connection it came by.

        Args:
            peer: address and port of the other end.
            stays: whether the connection is kept for talking, so that its beginning says nothing of who it is.
        """
        connection = self._inside.get(peer)
        if connection is None:
            yield lambda who: None
            return
        connection.silent_since = self._clock()
        connection.asking += not stays
        try:
            yield lambda who: self._know(connection, who)
        finally:
            connection.asking -= not stays
            connection.silent_since = self._clock()

    def look(self) -> None:
        """Send away those who are not known and say nothing; to be called every second or so."""
        late = self._clock() - self._silent_seconds
        for one in list(self._inside.values()):
            if not one.known and not one.asking and one.silent_since < late:
                self._turn_away(one)
        for address, times in self._sent_away.items():
            log.warning("%d connections from %s said nothing of who they are, and were ended", times, address)
        self._sent_away.clear()

    async def keep(self) -> None:
        """Look, again and again."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def _know(self, connection: Connection, who: str) -> None:
        if connection.known == who:
            return
        connection.known = who
        theirs = [one for one in self._inside.values() if one.known == who]
        if len(theirs) > self._of_one:
            min(theirs, key=_desert).turn_away()

    def _send_away(self, candidates: list[Connection]) -> None:
        self._turn_away(min(candidates, key=_desert))

    def _turn_away(self, connection: Connection) -> None:
        self._sent_away[connection.address] += 1
        self._inside.pop(connection.peer, None)
        connection.turn_away()
        self._lying += 1
        if self._lying >= COLLECTED:
            self._lying = 0
            gc.collect()


def _desert(connection: Connection) -> tuple[bool, float]:
    """Return how much a connection deserves its place: it is answered something, or said something lately."""
    return bool(connection.asking), connection.silent_since


def one_of(address: str) -> str:
    """Return what is counted as one address: of IPv6 the /64, all of which one machine may have."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return address
    return found.ipv4_mapped.compressed if found.ipv4_mapped else str(ipaddress.ip_network((int(found), 64), False))


class Watched:
    """Tells a door what is asked by its connections.

    Args:
        application: ASGI, that answers.
        door: by which they came.
    """

    def __init__(self, application: ASGIApp, door: Door) -> None:
        self._application, self._door = application, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket") or not scope.get("client"):
            await self._application(scope, receive, send)
            return
        host, port = scope["client"]
        with self._door.asking((str(host), int(port)), stays=scope["type"] == "websocket") as know:
            await self._application({**scope, KNOWN: know}, receive, send)


def known(scope: Scope, who: str) -> None:
    """Tell the door whose connection a request came by, now that it is certain."""
    if tell := scope.get(KNOWN):
        tell(who)
