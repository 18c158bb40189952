"""The SuperLink's process: `python -m edgekit.server.deployment.superlink`, started and watched by `edgekit serve`.

One application, two doors: the public one (TLS) is `gate.py`, the one on loopback is everything.
"""

import argparse
import asyncio
import contextlib
import logging
import sqlite3
import sys
from pathlib import Path

import anyio.to_thread

from edgekit import logs
from edgekit.errors import EdgekitError
from edgekit.flower.superlink import Control, superlink_app
from edgekit.server.deployment.authority import Authority
from edgekit.server.deployment.enrolment import Enrolment
from edgekit.server.deployment.gate import Gate, admin
from edgekit.webserver import Server, serve

log = logging.getLogger("edgekit.superlink")

RENEWAL_SECONDS = 6 * 3600.0
KEEP_ALIVE_SECONDS = 120
"""Longer than nodes wait between two questions, so that each costs no new TLS handshake."""
MOST_CONNECTIONS = 4000
HANDLERS = 4


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
    logs.begin()
    logging.getLogger("httpx").setLevel(logging.WARNING)
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
    database = state / "superlink.db"
    anew = _set_aside_if_damaged(database)
    database.touch(mode=0o600)
    database.chmod(0o600)  # sqlite's files beside it are made as it is
    superlink = superlink_app(database, secret.encode())
    enrolment = Enrolment(
        state, authority.certificate, authority.signing_key, control.register_node, control.unregister_node, log.info
    )
    scheme = "http" if given.insecure else "https"
    url = f"{scheme}://{given.reached_as[0] if given.reached_as else given.host}:{given.port}"
    gate = Gate(superlink, enrolment, given.bundle, url, authority.server_pin())
    inner = Server(
        admin(superlink, gate, enrolment, secret),
        "127.0.0.1",
        given.internal_port,
        None,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    outer = Server(
        gate,
        given.host,
        given.port,
        None if given.insecure else authority.server_files,
        lifespan="off",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    # The SuperLink's handlers are threads that write into one sqlite file: more than a few wait for its lock, which
    # sqlite does by sleeping ever longer.
    anyio.to_thread.current_default_thread_limiter().total_tokens = HANDLERS
    gate.ready = not anew

    async def registering() -> None:
        while not inner.started:
            await asyncio.sleep(0.05)
        await anyio.to_thread.run_sync(enrolment.register_anew, limiter=anyio.CapacityLimiter(1))
        gate.ready = True

    renewing = outer.keep_certificate(lambda: authority.renew(given.reached_as), RENEWAL_SECONDS)
    try:
        await serve([inner, outer], given.parent, renewing, *([registering()] if anew else []))
    finally:
        control.close()


def _set_aside_if_damaged(database: Path) -> bool:
    """See whether a database can be used; return whether a new one begins.

    What counts is elsewhere: members in members.json, rounds in the run folder.
    """
    if not database.exists() or not database.stat().st_size:
        return True
    try:
        with contextlib.closing(sqlite3.connect(database)) as opened:
            (found,) = opened.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        found = error
    if found == "ok":
        return False
    aside = database.with_name(f"{database.name}.damaged")
    database.replace(aside)
    for beside in ("-wal", "-shm"):
        database.with_name(f"{database.name}{beside}").unlink(missing_ok=True)
    log.warning("%s is damaged (%s): it lies at %s, and a new one begins", database, found, aside)
    return True


if __name__ == "__main__":
    main()
