"""The manners of our web servers: they let nobody take others' place, stop at a signal or with their parent, and renew
their certificates."""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import socket
from collections.abc import Callable, Coroutine, Generator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from edgekit.door import Door, Watched
from edgekit.errors import EdgekitError
from edgekit.processes import parent_ended

log = logging.getLogger("edgekit.webserver")

BACKLOG = 64
"""Connections that are let in at a time, before those that deserve their place least are gone."""
CLOSING_SECONDS = 1
"""Connections are open for long; whoever has one asks again elsewhere, or later."""


class Server(uvicorn.Server):
    """A server that leaves signals to `serve`.

    Args:
        application: ASGI.
        host: address to bind.
        port: to listen on.
        files: certificate and key (PEM); None for no TLS.
        more: uvicorn's settings.
    """

    def __init__(self, application: Any, host: str, port: int, files: tuple[Path, Path] | None, **more: Any) -> None:
        tls: dict[str, Any] = {} if files is None else {"ssl_certfile": files[0], "ssl_keyfile": files[1]}
        self.door = Door()
        super().__init__(
            uvicorn.Config(
                Watched(application, self.door),
                host=host,
                port=port,
                log_level="warning",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=CLOSING_SECONDS,
                **tls,
                **more,
            )
        )
        self._files = files

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Do nothing: there may be several servers, and one signal."""
        yield

    def listen(self) -> list[socket.socket]:
        """Return the sockets that it is to listen on.

        Raises:
            ServeError: somebody else does.
        """
        return self.door.listen(self.config.host, self.config.port)

    async def keep_certificate(self, renew: Callable[[], object], seconds: float) -> None:
        """Use a renewed certificate for connections made from then on.

        Args:
            renew: makes a new one in time; whoever else does so is noticed too.
            seconds: between two looks.
        """
        if self._files is None:
            return
        used = self._files[0].stat().st_mtime
        while True:
            await asyncio.sleep(seconds)
            try:
                renew()
                now = self._files[0].stat().st_mtime
                if now != used and self.config.ssl is not None:
                    self.config.ssl.load_cert_chain(*self._files)
                    used = now
                    log.info("the certificate was renewed")
            except (EdgekitError, OSError) as error:
                log.warning("the certificate could not be renewed: %s", error)


async def serve(servers: Sequence[Server], parent: int | None, *beside: Coroutine[Any, Any, None]) -> None:
    """Serve until a signal, or the end of a process.

    Args:
        servers: to serve together.
        parent: process with which they end; None ends with no other.
        beside: what is done meanwhile.

    Raises:
        ServeError: a port is taken.
    """

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    async def follow() -> None:
        if parent is not None:
            await parent_ended(parent)
            log.warning("the process that started this one has ended: it stops too")
            stop()

    listening = [server.listen() for server in servers]
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # each connection is an open file
    gc.freeze()  # what was imported stays: it need not be looked through again and again
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    watching = asyncio.gather(follow(), *(server.door.keep() for server in servers), *beside)
    try:
        await asyncio.gather(*(server.serve(where) for server, where in zip(servers, listening, strict=True)))
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
