"""The process of the SuperLink: `python -m edgekit.server.superlink`, started and watched by `edgekit serve`.

One application, two doors: the public one (TLS) is `server/gate.py`, the one on loopback is everything.
"""

import argparse
import asyncio
import contextlib
import logging
import resource
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import anyio.to_thread
import uvicorn

from edgekit.errors import EdgekitError
from edgekit.flower.superlink import Control, superlink_app
from edgekit.processes import parent_ended
from edgekit.server.authority import Authority
from edgekit.server.enrolment import Enrolment
from edgekit.server.gate import Gate, admin

log = logging.getLogger("edgekit.superlink")

RENEWAL_SECONDS = 6 * 3600.0
KEEP_ALIVE_SECONDS = 120
"""Longer than nodes wait between two questions, so that each costs no new TLS handshake."""
MOST_CONNECTIONS = 4000
HANDLERS = 4
CLOSING_SECONDS = 1
"""Nodes hold their questions open for long; they ask again elsewhere, or later."""


class _Server(uvicorn.Server):
    """A server that leaves signals to us, since there are two of them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def main() -> None:
    """Serve until a signal, or the end of the process that started this one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--internal-port", type=int, required=True)
    parser.add_argument("--reached-as", action="append", default=[])
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # each node that waits is an open file
    try:
        asyncio.run(_serve(given))
    except EdgekitError as error:
        log.error("%s", error)
        sys.exit(1)


async def _serve(given: argparse.Namespace) -> None:
    state: Path = given.state
    secret = (state / "secret").read_text()
    authority = Authority(state / "keys")
    authority.renew(given.reached_as)
    control = Control(given.internal_port, secret)
    superlink = superlink_app(state / "superlink.db", secret.encode())
    enrolment = Enrolment(
        state, authority.certificate, authority.signing_key, control.register_node, control.unregister_node, log.info
    )
    scheme = "http" if given.insecure else "https"
    url = f"{scheme}://{given.reached_as[0] if given.reached_as else given.host}:{given.port}"
    gate = Gate(superlink, enrolment, given.bundle, url, authority.server_pin())
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "timeout_keep_alive": KEEP_ALIVE_SECONDS}
    quiet["timeout_graceful_shutdown"] = CLOSING_SECONDS
    inner = _Server(
        uvicorn.Config(
            admin(superlink, gate, enrolment, secret),
            host="127.0.0.1",
            port=given.internal_port,
            lifespan="on",
            **quiet,
        )
    )
    certificate, key = authority.server_files
    tls: dict[str, Any] = {} if given.insecure else {"ssl_certfile": certificate, "ssl_keyfile": key}
    outer = _Server(
        uvicorn.Config(
            gate,
            host=given.host,
            port=given.port,
            lifespan="off",
            limit_concurrency=MOST_CONNECTIONS,
            **tls,
            **quiet,
        )
    )

    def stop() -> None:
        inner.should_exit = outer.should_exit = True

    # The SuperLink's handlers are threads that write into one sqlite file: more than a few wait for its lock, which
    # sqlite does by sleeping ever longer.
    anyio.to_thread.current_default_thread_limiter().total_tokens = HANDLERS
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    watching = asyncio.gather(_watch_parent(given.parent, stop), _renew(authority, given.reached_as, outer))
    try:
        await asyncio.gather(inner.serve(), outer.serve())
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        control.close()


async def _watch_parent(parent: int, stop: Callable[[], None]) -> None:
    """End with the process that started this one, however it ended."""
    await parent_ended(parent)
    log.warning("edgekit serve has ended: the SuperLink stops too")
    stop()


async def _renew(authority: Authority, hosts: list[str], server: uvicorn.Server) -> None:
    """Renew the server's certificate in time, for connections made from then on."""
    while True:
        await asyncio.sleep(RENEWAL_SECONDS)
        if authority.renew(hosts) and server.config.ssl is not None:
            server.config.ssl.load_cert_chain(*authority.server_files)
            log.info("the server's certificate was renewed")


if __name__ == "__main__":
    main()
