"""What the network sees of the coordinator: enrolment, and of Flower's SuperLink the Fleet API alone."""

import asyncio
import base64
import binascii
import contextlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgekit import strict_json
from edgekit.door import known
from edgekit.enrolment import PROTOCOL
from edgekit.errors import EdgekitError, RefusedError
from edgekit.flower.fleet import HAS_HEADER, NEXT_PATH, REPLY_PATH
from edgekit.flower.superlink import ARRIVAL_PATHS, FLEET_PATHS, NOT_FOR_NODES, SECRET_HEADER, Exchange
from edgekit.server.deployment.enrolment import Enrolment
from edgekit.throttle import Throttle

log = logging.getLogger("edgekit.gate")

MOST_JOIN_BYTES = 16 << 10
MOST_FLEET_BYTES = 8 << 20
"""A request of a node; Flower cuts arrays into pieces of 5 MB."""
JOIN_SECONDS = 10.0
"""How long a request to join may take to come."""
JOINERS = 4
"""Devices that are let in at a time."""
JOINS_A_MINUTE = 600
"""Requests to join from one address; more wait."""
KEY_HEADER = b"flwr-public-key"
WAIT_SECONDS = 20.0
"""How long a node's question for its next message is held; then it asks again."""
LOOK_SECONDS = 5.0
"""How often it is looked for messages without a sign of any."""
SETTLE_SECONDS = 0.03
"""How long it must be quiet before nodes are given what came."""


@dataclass
class Traffic:
    """What passed between the coordinator and one node since the SuperLink started.

    Attributes:
        last_seen: seconds since 1970, of the last request that was accepted.
        bytes_up: from the node.
        bytes_down: to the node.
    """

    last_seen: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0


class Gate:
    """The ASGI application on the public port.

    Args:
        superlink: Flower's.
        enrolment: who may take part.
        bundle: a bundle for boards (`edgekit bundle`) that devices may fetch from here, or None.
        join_url: under which devices reach this gate, for the installation script.
        pin: of the server's key, likewise.
    """

    def __init__(self, superlink: ASGIApp, enrolment: Enrolment, bundle: Path | None, join_url: str, pin: str) -> None:
        self._superlink, self._enrolment, self._bundle = superlink, enrolment, bundle
        self._exchange = Exchange(superlink)
        self._join_url, self._pin = join_url, pin
        self.traffic: dict[int, Traffic] = {}
        self._knocks = Throttle(JOINS_A_MINUTE)
        routes = [
            Route("/join/time", self._time, methods=["GET"]),
            Route("/join/hello", self._joining(enrolment.hello), methods=["POST"]),
            Route("/join/enrol", self._joining(enrolment.enrol), methods=["POST"]),
            Route("/join/phone", self._joining(enrolment.enrol_phone), methods=["POST"]),
            Route("/join/leave", self._joining(enrolment.leave_signed), methods=["POST"]),
        ]
        if bundle is not None:
            routes += [Route("/install", self._install), Route("/bundle.tar", self._send_bundle)]
        self._ours = Starlette(routes=routes)
        self._arrivals = asyncio.Condition()
        self._last_arrival = 0.0
        self._joiners = anyio.CapacityLimiter(JOINERS)
        self._offered: dict[int, tuple[str, bytes]] = {}
        self.ready = True
        """Whether all members are known to the SuperLink; until then everybody is asked to come back."""

    def forget_strangers(self) -> None:
        """Drop what is held for nodes that left."""
        for node in {*self.traffic, *self._offered} - set(self._enrolment.members):
            self.traffic.pop(node, None)
            self._offered.pop(node, None)

    async def arrived(self) -> None:
        """Messages for nodes came in: wake those that wait for theirs."""
        self._last_arrival = time.monotonic()
        async with self._arrivals:
            self._arrivals.notify_all()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = str(scope.get("path", ""))
        if scope["type"] != "http":
            return
        if not self.ready:
            await _say(503, "the coordinator is starting: try again")(scope, receive, send)
        elif path.startswith(FLEET_PATHS) or path in (NEXT_PATH, REPLY_PATH):
            await self._fleet(path, scope, receive, send)
        else:
            await self._ours(scope, receive, send)

    async def _fleet(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        node = self._node_with(headers.get(KEY_HEADER, b""))
        if len(headers) != len(scope["headers"]):  # what Flower reads and what is read here must be the same
            node = None
        size = headers.get(b"content-length", b"")
        if path in NOT_FOR_NODES or node is None:
            log.warning("refused %s from %s: no node that joined", path, _client(scope))
            await _say(401, "this node has not joined: use edgekit join")(scope, receive, send)
            return
        if not size.isdigit() or int(size) > MOST_FLEET_BYTES:
            log.warning("refused a request of %s bytes from node %d", size.decode("latin-1") or "unknown", node)
            await _say(413, f"requests have at most {MOST_FLEET_BYTES} bytes")(scope, receive, send)
            return
        traffic = self.traffic.setdefault(node, Traffic())

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] < 400:
                    known(scope, str(node))
                    traffic.last_seen = time.time()
                    traffic.bytes_up += int(size)
                else:
                    name = self._enrolment.members[node].name if node in self._enrolment.members else "?"
                    log.warning("node %d (%s): %s answered %d", node, name, path, message["status"])
            elif message["type"] == "http.response.body":
                traffic.bytes_down += len(message.get("body", b""))
            await send(message)

        if path == NEXT_PATH:
            await self._next(node, Request(scope, receive), counted)
        elif path == REPLY_PATH:
            await self._reply(node, Request(scope, receive), counted)
        else:
            await self._superlink(scope, receive, counted)

    async def _next(self, node: int, request: Request, send: Send) -> None:
        """Answer with a node's next message, as soon as there is one, or with nothing after a while.

        The SuperLink gives a message once. A node whose link broke while it came asks without having it, and is given
        it again.
        """
        headers, body = request.scope["headers"], await request.body()
        has = request.headers.get(HAS_HEADER, "")
        end = time.monotonic() + WAIT_SECONDS
        answer: Response
        try:
            while True:
                if await request.is_disconnected():
                    return
                found = await run_in_threadpool(self._given, node, has, headers, body)
                left = end - time.monotonic()
                if found is not None or left <= 0:
                    answer = Response(found or b"", media_type="application/octet-stream")
                    break
                async with self._arrivals:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._arrivals.wait(), min(left, LOOK_SECONDS))
                # A round's messages come first, and their content piece by piece after them.
                while time.monotonic() - self._last_arrival < SETTLE_SECONDS and time.monotonic() < end:
                    await asyncio.sleep(SETTLE_SECONDS / 2)
        except RefusedError as error:
            answer = _say(401, str(error))
        await answer(request.scope, request.receive, send)

    def _given(self, node: int, has: str, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes | None:
        name, content = self._offered.get(node, ("", b""))
        if name and name != has:
            self._exchange.authenticate(headers, body)
            return content
        self._offered.pop(node, None)
        found = self._exchange.next(headers, body)
        if found is None:
            return None
        self._offered[node] = found
        return found[1]

    async def _reply(self, node: int, request: Request, send: Send) -> None:
        """Take a node's reply."""
        headers, body = request.scope["headers"], await request.body()
        try:
            taken = await run_in_threadpool(self._exchange.take, headers, body)
            self._offered.pop(node, None)
            answer: Response = Response(b"taken" if taken else b"stale")
        except RefusedError as error:
            answer = _say(401 if "signed" in str(error) else 400, str(error))
        await answer(request.scope, request.receive, send)

    def _node_with(self, key: bytes) -> int | None:
        """Return the node that has this public key; Flower checks that the request is signed with it."""
        try:
            public = base64.b64decode(key, validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        return self._enrolment.with_key(public)

    def _joining(self, answer: Callable[[Any], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            who = _client(request.scope)
            if self._knocks.too_often(who):
                return _say(429, "too many requests to join from this address: wait a minute")
            try:
                body = await _read(request)
            except TimeoutError:
                return _say(408, f"requests to join come within {JOIN_SECONDS:g} s")
            if body is None:
                return _say(413, f"requests to join have at most {MOST_JOIN_BYTES} bytes")
            try:
                asked = strict_json.loads(body)
                if not isinstance(asked, dict):
                    raise ValueError
            except ValueError:
                return _say(400, "the request is not a JSON object")
            try:
                # Threads of their own: enrolment asks the SuperLink, whose handlers need the others.
                return JSONResponse(await anyio.to_thread.run_sync(answer, asked, limiter=self._joiners))
            except EdgekitError as error:
                log.warning("refused to join, from %s: %s", who, error)
                return _say(403, str(error))

        return endpoint

    async def _time(self, request: Request) -> Response:
        return JSONResponse({"time": time.time(), "protocol": PROTOCOL})

    async def _install(self, request: Request) -> Response:
        script = INSTALL.format(url=self._join_url, pin=self._pin)
        return PlainTextResponse(script)

    async def _send_bundle(self, request: Request) -> Response:
        assert self._bundle is not None
        return FileResponse(self._bundle, media_type="application/x-tar")


INSTALL = """#!/bin/sh
# Fetch the bundle of this coordinator and install it:  … | sudo sh -s -- 'URL#CODE' [options of edgekit join]
set -eu
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
curl -fsSLk --pinnedpubkey '{pin}' '{url}/bundle.tar' | tar -x -C "$work"
sh "$work"/edgekit-bundle/install.sh "$@"
"""


def admin(superlink: ASGIApp, gate: Gate, enrolment: Enrolment, secret: str) -> ASGIApp:
    """Return the application on loopback: the whole SuperLink, and the coordinator's own questions.

    Args:
        superlink: Flower's; its Runtime API has tokens of its own, its Control API none, so that it needs the secret.
        gate: whose traffic is reported.
        enrolment: who may take part.
        secret: that the coordinator's processes share.
    """

    async def codes(request: Request) -> Response:
        seconds = float(request.query_params.get("seconds", "600"))
        try:
            gateway = request.query_params.get("gateway") == "1"
            code = await run_in_threadpool(lambda: enrolment.issue(seconds, gateway=gateway))
        except EdgekitError as error:
            return _say(503, str(error))
        return JSONResponse({"code": str(code), "name": code.name})

    async def state(request: Request) -> Response:
        gate.forget_strangers()
        nodes = {
            str(node): {
                "name": member.name,
                "kind": member.kind,
                "since": member.since,
                **vars(gate.traffic.get(node, Traffic())),
            }
            for node, member in enrolment.members.items()
        }
        return JSONResponse({"nodes": nodes, "open": enrolment.open_codes()})

    async def remove(request: Request) -> Response:
        try:
            await run_in_threadpool(enrolment.leave, int(request.path_params["node"]))
        except EdgekitError as error:
            return _say(404, str(error))
        return JSONResponse({"left": True})

    ours = Starlette(
        routes=[
            Route("/edgekit/codes", codes, methods=["POST"]),
            Route("/edgekit/state", state, methods=["GET"]),
            Route("/edgekit/nodes/{node:int}", remove, methods=["DELETE"]),
        ]
    )

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        if scope["type"] == "http" and path.startswith(("/v1/control/", "/edgekit/")):
            given = dict(scope["headers"]).get(SECRET_HEADER.encode(), b"")
            if not hmac.compare_digest(given, secret.encode()):
                await _say(401, "this is for the coordinator's own processes")(scope, receive, send)
                return
        await (ours if path.startswith("/edgekit/") else superlink)(scope, receive, send)
        if path in ARRIVAL_PATHS:
            await gate.arrived()

    return application


async def _read(request: Request) -> bytes | None:
    """Return a request's body; None if it is too long."""
    body = b""
    async with asyncio.timeout(JOIN_SECONDS):
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_JOIN_BYTES:
                return None
    return body


def _say(status: int, text: str) -> Response:
    return JSONResponse({"error": text}, status)


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "?"
