"""Runs a gateway: the web server, its certificate, and a ticket that is always open."""

import asyncio
import contextlib
import json
import logging
import resource
import signal
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from edgekit.clients.phone.gateway import MOST_FRAME_BYTES, Gateway
from edgekit.clients.phone.members import Members
from edgekit.errors import EdgekitError
from edgekit.processes import parent_ended
from edgekit.runfolder import write_whole

log = logging.getLogger("edgekit.phone")

LINK_FILE = "link.json"
LOOK_SECONDS = 0.5
CERTIFICATE_SECONDS = 60.0
CLOSING_SECONDS = 1
PING_SECONDS = 15.0
"""How often it is seen whether a page still answers; browsers do so by themselves."""


@dataclass(frozen=True)
class Listening:
    """Where a gateway listens.

    Attributes:
        host: address to bind.
        port: of the page.
        url: under which phones reach it.
        certificate: PEM file, and its key's; None for no TLS.
    """

    host: str
    port: int
    url: str
    certificate: tuple[Path, Path] | None


class _Server(uvicorn.Server):
    """A server that leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def serve(
    folder: Path,
    name: str,
    listening: Listening,
    ticket_seconds: float,
    on_link: Callable[[str], None],
    *,
    renew: Callable[[], None] = lambda: None,
    parent: int | None = None,
) -> None:
    """Serve phones until a signal.

    Args:
        folder: of the gateway, which has joined.
        name: of the gateway.
        listening: where.
        ticket_seconds: how long a code holds.
        on_link: called with each new link for a phone.
        renew: called now and then, to renew a certificate that is ours.
        parent: process with which this one ends; None ends with no other.
    """
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    asyncio.run(_serve(folder, name, listening, ticket_seconds, on_link, renew, parent))


async def _serve(
    folder: Path,
    name: str,
    listening: Listening,
    ticket_seconds: float,
    on_link: Callable[[str], None],
    renew: Callable[[], None],
    parent: int | None,
) -> None:
    gateway = Gateway(folder, name)
    tls: dict[str, Any] = {}
    if listening.certificate is not None:
        tls = {"ssl_certfile": listening.certificate[0], "ssl_keyfile": listening.certificate[1]}
    server = _Server(
        uvicorn.Config(
            gateway.application,
            host=listening.host,
            port=listening.port,
            lifespan="on",
            log_level="warning",
            access_log=False,
            ws="websockets-sansio",
            ws_max_size=MOST_FRAME_BYTES,
            ws_ping_interval=PING_SECONDS,
            ws_ping_timeout=PING_SECONDS,
            ws_per_message_deflate=False,  # weights do not get smaller, and a small frame could be a large one
            timeout_graceful_shutdown=CLOSING_SECONDS,
            **tls,
        )
    )

    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    tickets = Tickets(gateway.members, listening.url, folder / LINK_FILE, ticket_seconds, on_link)
    looking = asyncio.gather(_keep_open(tickets, server), _reload(listening, server, renew), _follow(parent, stop))
    try:
        await server.serve()
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


async def _follow(parent: int | None, stop: Callable[[], None]) -> None:
    if parent is not None:
        await parent_ended(parent)
        log.warning("the process that started this gateway has ended: it stops too")
        stop()


async def _keep_open(tickets: "Tickets", server: uvicorn.Server) -> None:
    while True:
        if server.started:
            try:
                tickets.look()
            except (EdgekitError, OSError) as error:  # a full disk, say: it may get better
                log.warning("there is no code for phones now: %s", error)
        await asyncio.sleep(LOOK_SECONDS)


async def _reload(listening: Listening, server: uvicorn.Server, renew: Callable[[], None]) -> None:
    """Use a renewed certificate for connections made from then on."""
    if listening.certificate is None:
        return
    used = listening.certificate[0].stat().st_mtime
    while True:
        await asyncio.sleep(CERTIFICATE_SECONDS)
        try:
            renew()
            if (now := listening.certificate[0].stat().st_mtime) != used and server.config.ssl is not None:
                used = now
                server.config.ssl.load_cert_chain(*listening.certificate)
                log.info("the certificate was renewed")
        except (EdgekitError, OSError) as error:
            log.warning("the certificate could not be renewed: %s", error)


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
