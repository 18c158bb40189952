"""A run while it trains, as a page on this machine: for its owner alone, over server-sent events."""

import asyncio
import html
import json
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgekit.errors import MissingExtraError, ServeError
from edgekit.runfolder import score_of, write_whole

HOST = "127.0.0.1"
LOOK_SECONDS, LINGER_SECONDS, STARTING_SECONDS = 0.2, 4.0, 10.0
"""Between two looks for news; how long a finished run's page may take to fetch its report; to begin."""
COOKIE = "edgekit-watch"
REPORT = "report.html"


class LivePage:
    """Shows what a run does to whoever has its address.

    It listens on this machine alone. The address holds a token, which the browser keeps as a cookie; Prometheus sends
    it as a bearer token to `/metrics`. `/healthz` needs none, and tells whether the run goes on.

    Args:
        name: of the experiment.
        folder: of the run, for its report; it need not be there yet.
        port: to listen on; 0 is any that is free.
        token: "" makes a new one.

    Attributes:
        address: for the owner, with the token.

    Raises:
        MissingExtraError: starlette or uvicorn are not installed.
        ServeError: the port is taken.
    """

    def __init__(self, name: str, folder: Path, port: int = 0, token: str = "") -> None:
        self._name, self._folder = name, folder
        self._token = token or secrets.token_urlsafe(16)
        self._events: list[dict[str, Any]] = []
        self._state: dict[str, Any] = {"state": "running"}
        self._fetched = threading.Event()
        self._watching = 0
        self._socket = socket.socket()
        try:
            self._socket.bind((HOST, port))
        except OSError as error:
            raise ServeError(f"the page cannot listen on port {port}: {error.strerror}; give another --port") from None
        self._port = self._socket.getsockname()[1]
        self.address = f"http://{HOST}:{self._port}/?token={self._token}"
        self._server, self._thread = _started(self._application(), self._socket)

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._tell({"stage": name})

    def round(self, metrics: Any, rounds: int) -> None:
        """A round ended."""
        self._tell({"round": dict(vars(metrics)), "rounds": rounds})

    def notice(self, line: str) -> None:
        """Something a person should know."""
        self._tell({"notice": line})

    def nodes(self, rows: list[dict[str, Any]]) -> None:
        """Who is there, of real devices: the newest rows count; what did not change is not told again."""
        told = ("name", "kind", "online", "rounds", "failures", "problem")
        known = [{key: row.get(key) for key in told} for row in rows]
        if known != self._state.get("nodes"):
            self._tell({"nodes": known})

    def finished(self, result: Mapping[str, Any]) -> None:
        """The run ended, and its report is there."""
        self._state["state"] = "finished"
        self._tell({"finished": {key: result.get(key) for key in ("seconds", "rounds")}})

    def failed(self, line: str) -> None:
        """The run cannot go on."""
        self._state["state"] = "failed"
        self._tell({"failed": line})

    def close(self) -> None:
        """Stop, once a page that is open has its report."""
        until = time.monotonic() + LINGER_SECONDS
        while self._watching and self._state["state"] == "finished" and time.monotonic() < until:
            if self._fetched.wait(LOOK_SECONDS):
                break
        self._server.should_exit = True
        self._thread.join(timeout=LINGER_SECONDS)
        self._socket.close()

    def _tell(self, event: dict[str, Any]) -> None:
        if "round" in event:
            self._state |= {"round": event["round"], "rounds": event["rounds"]}
            for key, name in (("bytes_up", "up"), ("bytes_down", "down"), ("failures", "failures")):
                self._state[name] = self._state.get(name, 0) + event["round"][key]
        if "nodes" in event:
            self._state["nodes"] = event["nodes"]
        self._events.append(event)

    def _application(self) -> Any:
        try:
            from starlette.applications import Starlette
            from starlette.middleware.trustedhost import TrustedHostMiddleware
            from starlette.requests import Request
            from starlette.responses import (
                HTMLResponse,
                PlainTextResponse,
                RedirectResponse,
                Response,
                StreamingResponse,
            )
            from starlette.routing import Route
        except ImportError:
            raise MissingExtraError("starlette", "serve") from None

        def known(request: Request) -> bool:
            bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
            return any(
                secrets.compare_digest(one.encode(), self._token.encode())
                for one in (request.cookies.get(f"{COOKIE}-{self._port}", ""), bearer)
            )

        stranger = PlainTextResponse("open the address that edgekit printed: it holds the token\n", 403)

        async def page(request: Request) -> Response:
            given = request.query_params.get("token", "")
            if secrets.compare_digest(given.encode(), self._token.encode()):
                answer = RedirectResponse("/", 303)
                answer.set_cookie(f"{COOKIE}-{self._port}", self._token, httponly=True, samesite="strict")
                return answer
            if not known(request):
                return stranger
            nonce = secrets.token_urlsafe(12)
            return HTMLResponse(self._page(nonce), headers=_headers(f"script-src 'nonce-{nonce}'"))

        async def events(request: Request) -> Response:
            if not known(request):
                return stranger
            last = request.headers.get("last-event-id", "")
            news = self._news(request, int(last) + 1 if last.isdigit() else 0)
            return StreamingResponse(news, media_type="text/event-stream", headers={"cache-control": "no-store"})

        async def report(request: Request) -> Response:
            if not known(request):
                return stranger
            path = self._folder / REPORT
            if not path.is_file():
                return PlainTextResponse("the report is not there yet\n", 404)
            self._fetched.set()
            return HTMLResponse(path.read_text(), headers=_headers("script-src 'none'"))

        async def health(request: Request) -> Response:
            state = self._state["state"]
            return PlainTextResponse(f"{state}\n", 503 if state == "failed" else 200)

        async def metrics(request: Request) -> Response:
            if not known(request):
                return stranger
            return PlainTextResponse(prometheus(self._name, self._state), media_type="text/plain; version=0.0.4")

        routes = {"/": page, "/events": events, f"/{REPORT}": report, "/healthz": health, "/metrics": metrics}
        made = Starlette(routes=[Route(path, answer) for path, answer in routes.items()])
        # Another page's name that leads here does not open this one.
        made.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
        return made

    def _page(self, nonce: str) -> str:
        room = files("edgekit.report")
        page = room.joinpath("live.html").read_text()
        style = room.joinpath("page.css").read_text()
        for mark, text in (("{{ style }}", style), ("{{ nonce }}", nonce), ("{{ name }}", html.escape(self._name))):
            page = page.replace(mark, text)
        return page

    async def _news(self, request: Any, place: int) -> AsyncIterator[str]:
        self._watching += 1
        try:
            while not await request.is_disconnected() and not self._server.should_exit:
                while place < len(self._events):
                    yield f"id: {place}\ndata: {json.dumps(self._events[place])}\n\n"
                    place += 1
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._watching -= 1


def kept_token(path: Path) -> str:
    """Return the token in a file, made on first use: Prometheus knows it after a restart, too.

    Raises:
        RunFolderError: it cannot be written.
    """
    if not path.exists():
        write_whole(path, f"{secrets.token_urlsafe(16)}\n", mode=0o600)
    return path.read_text().strip()


@contextmanager
def _own_signals() -> Any:
    yield


def _started(application: Any, listening: socket.socket) -> tuple[Any, threading.Thread]:
    """Return a server that has begun, in a thread that ends with this process."""
    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("uvicorn", "serve") from None
    config = uvicorn.Config(
        application, log_level="warning", log_config=None, access_log=False, server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.capture_signals = _own_signals  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    until = time.monotonic() + STARTING_SECONDS
    while not server.started and time.monotonic() < until:
        time.sleep(0.005)
    return server, thread


def _headers(script: str) -> dict[str, str]:
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; {script}"
    return {
        "content-security-policy": policy,
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


def prometheus(name: str, state: Mapping[str, Any]) -> str:
    """Return a run's state in Prometheus's text format (version 0.0.4)."""
    label = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    rows: list[tuple[str, str, str, Any]] = []
    for one in ("running", "finished", "failed"):
        rows.append(("edgekit_state", "gauge", f',state="{one}"', int(state["state"] == one)))
    if found := state.get("round"):
        rows.append(("edgekit_round", "gauge", "", found["round"]))
        rows.append(("edgekit_rounds", "gauge", "", state["rounds"]))
        rows.append(("edgekit_score", "gauge", f',measure="{found["measure"]}"', score_of(found)))
        rows.append(("edgekit_loss", "gauge", "", found["loss"]))
        rows.append(("edgekit_epsilon", "gauge", "", found["epsilon"]))
        rows.append(("edgekit_round_seconds", "gauge", "", found["seconds"]))
        rows.append(("edgekit_received_bytes_total", "counter", "", state["up"]))
        rows.append(("edgekit_sent_bytes_total", "counter", "", state["down"]))
        rows.append(("edgekit_failures_total", "counter", "", state["failures"]))
    if "nodes" in state:
        there = sum(bool(row["online"]) for row in state["nodes"])
        rows.append(("edgekit_nodes", "gauge", ',state="online"', there))
        rows.append(("edgekit_nodes", "gauge", ',state="away"', len(state["nodes"]) - there))
    lines, told = [], set()
    for key, kind, more, value in rows:
        if value is None:
            continue
        if key not in told:
            lines.append(f"# TYPE {key} {kind}")
            told.add(key)
        lines.append(f'{key}{{run="{label}"{more}}} {value}')
    return "\n".join(lines) + "\n"
