"""Runs a gateway: the web server, its certificate, and a ticket that is always open."""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from edgekit.clients.phone.connection import MOST_FRAME_BYTES
from edgekit.clients.phone.gateway import Gateway
from edgekit.clients.phone.members import Members
from edgekit.errors import EdgekitError
from edgekit.listening import Listening
from edgekit.runfolder import write_whole
from edgekit.webserver import Server
from edgekit.webserver import serve as serve_web

log = logging.getLogger("edgekit.phone")

LINK_FILE = "link.json"
LOOK_SECONDS = 0.5
CERTIFICATE_SECONDS = 60.0
PING_SECONDS = 15.0
"""How often it is seen whether a page still answers; browsers do so by themselves."""


def serve(
    folder: Path,
    name: str,
    listening: Listening,
    files: tuple[Path, Path] | None,
    ticket_seconds: float,
    on_link: Callable[[str], None],
    *,
    renew: Callable[[], None] = lambda: None,
    public: bool = False,
    parent: int | None = None,
) -> None:
    """Serve phones until a signal.

    Args:
        folder: of the gateway, which has joined.
        name: of the gateway.
        listening: where.
        files: certificate and key (PEM); None for no TLS.
        ticket_seconds: how long a code holds.
        on_link: called with each new link for a phone.
        renew: called now and then, to renew a certificate that is ours.
        public: whether the certificate is a public authority's.
        parent: process with which this one ends; None ends with no other.
    """

    async def work() -> None:
        gateway = Gateway(folder, name, public=public)
        server = Server(
            gateway.application,
            listening.host,
            listening.port,
            files,
            lifespan="on",
            ws="websockets-sansio",
            ws_max_size=MOST_FRAME_BYTES,
            ws_ping_interval=PING_SECONDS,
            ws_ping_timeout=PING_SECONDS,
            ws_per_message_deflate=False,  # weights do not get smaller, and a small frame could be a large one
        )
        tickets = Tickets(gateway.members, listening.url, folder / LINK_FILE, ticket_seconds, on_link)
        await serve_web(
            [server], parent, tickets.keep_open(server), server.keep_certificate(renew, CERTIFICATE_SECONDS)
        )

    asyncio.run(work())


class Tickets:
    """Keeps one ticket open, and shows it: a new one as soon as it is used or too old.

    Args:
        members: of the gateway.
        url: under which phones reach it.
        path: where the newest link is written, for whoever shows it.
        seconds: how long a ticket holds.
        on_link: called with each new link.
    """

    def __init__(self, members: Members, url: str, path: Path, seconds: float, on_link: Callable[[str], None]) -> None:
        self._members, self._url, self._path, self._seconds, self._on_link = members, url, path, seconds, on_link
        self._ticket = ""

    def look(self) -> None:
        """Issue a new ticket if the last one is gone; to be called every second or so."""
        if self._ticket and self._members.is_open(self._ticket):
            return
        self._ticket = self._members.issue(self._seconds)
        link = f"{self._url}/phone/#t={self._ticket}"
        write_whole(self._path, json.dumps({"link": link, "until": time.time() + self._seconds}), mode=0o600)
        self._on_link(link)

    async def keep_open(self, server: Server) -> None:
        """Look, again and again, from when the server is up."""
        while True:
            if server.started:
                try:
                    self.look()
                except (EdgekitError, OSError) as error:  # a full disk, say: it may get better
                    log.warning("there is no code for phones now: %s", error)
            await asyncio.sleep(LOOK_SECONDS)
