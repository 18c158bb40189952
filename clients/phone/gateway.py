"""The phones' gateway: serves the page, and gives each phone a Flower node of its own. One process, hundreds of phones.

It sees updates, as the coordinator does, and no data: that stays in the page.
"""

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from edgekit.clients.node import enrol
from edgekit.clients.node.folder import NodeFolder
from edgekit.clients.node.resident import Resident
from edgekit.clients.phone.connection import (
    GARBAGE,
    LEFT,
    REFUSED,
    Connection,
    receive,
    same_origin,
)
from edgekit.clients.phone.frames import VERSION, Frame, pack
from edgekit.clients.phone.handler import MOST_EXAMPLES, Board, GatewayHandler, PhoneHandler
from edgekit.clients.phone.line import Line
from edgekit.clients.phone.members import Members, NotKnownError, Phone
from edgekit.clients.phone.pages import Guarded, page_routes
from edgekit.door import known
from edgekit.enrolment import parse_url
from edgekit.errors import EdgekitError, JoinError, RefusedError
from edgekit.throttle import Throttle
from edgekit.version import __version__

log = logging.getLogger("edgekit.phone")

MOST_CONNECTIONS = 1000
MOST_CONNECTIONS_FROM_ONE = 300
"""Phones behind one router have one address."""
KNOCKS_A_MINUTE = 600
"""Connections from one address."""
FRAMES_A_MINUTE = 600
"""Of one phone; more end its connection."""
HELLO_SECONDS = 10.0
MOST_HELLO_BYTES = 4096
LEAST_SECRET = 32
LINGER_SECONDS = 60.0
"""How long the node of a phone that went away stays; then it goes offline."""
JOINERS = 4


@dataclass
class Session:
    """A phone that was here since the gateway started.

    Attributes:
        phone: it.
        line: to its page.
        resident: its Flower node, None before the person started.
        thread: of that node.
    """

    phone: Phone
    line: Line
    resident: Resident | None = None
    thread: threading.Thread | None = None


class Gateway:
    """The web application.

    Args:
        folder: of the gateway: `node/` is its own node, which has joined, `phones/` are theirs.
        name: of the gateway.
        public: whether its certificate is a public authority's.
    """

    def __init__(self, folder: Path, name: str, *, public: bool = False) -> None:
        self._node = NodeFolder(folder / "node")
        self._url = self._node.node_settings().url
        self._address, _ = parse_url(self._url)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.members = Members(folder / "phones")
        self.board = Board(folder / "tasks", self._node.membership().signing_key, self._news)
        self._resident = Resident(self._node, GatewayHandler(self.board, name))
        self._sessions: dict[str, Session] = {}
        self._connections: dict[str, int] = {}
        self._knocks, self._frames = Throttle(KNOCKS_A_MINUTE), Throttle(FRAMES_A_MINUTE)
        self._joiners = anyio.CapacityLimiter(JOINERS)
        self.application: ASGIApp = Guarded(
            Starlette(
                routes=[
                    *page_routes(),
                    Route("/progress", self._progress),
                    WebSocketRoute("/line", self._line),
                ],
                lifespan=self._living,
            ),
            public=public,
        )

    @contextlib.asynccontextmanager
    async def _living(self, _: Starlette) -> Any:
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._resident.run, daemon=True).start()
        sweeping = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            sweeping.cancel()
            for resident in (self._resident, *(session.resident for session in self._sessions.values())):
                if resident is not None:
                    resident.stop.set()

    async def _sweep(self) -> None:
        """Take phones offline that have been away for a while."""
        while True:
            await asyncio.sleep(LINGER_SECONDS / 4)
            for identity, session in list(self._sessions.items()):
                away = not session.line.connected and time.monotonic() - session.line.last_seen > LINGER_SECONDS
                if away and session.resident is not None:
                    session.resident.stop.set()
                    session.resident = None
                if away and (session.thread is None or not session.thread.is_alive()):
                    self._sessions.pop(identity, None)

    # What people see.

    async def _progress(self, request: Request) -> Response:
        return JSONResponse(self._told(), headers={"cache-control": "no-store"})

    def _told(self) -> dict[str, Any]:
        return {"edgekit": __version__, **self.board.progress}

    def _news(self) -> None:
        """Tell all pages what changed, from whatever thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._tell_all)

    def _tell_all(self) -> None:
        content = pack(self._news_frame())
        for session in list(self._sessions.values()):
            session.line.post(content)

    def _news_frame(self) -> Frame:
        return Frame("progress", {"progress": self._told(), "task": self.board.name})

    # Phones.

    async def _line(self, websocket: WebSocket) -> None:
        """Talk with one page until it goes."""
        who = websocket.client.host if websocket.client else "?"
        if not same_origin(websocket):
            log.warning("refused a page of another origin, from %s", who)
            await websocket.close(REFUSED)
            return
        full = sum(self._connections.values()) >= MOST_CONNECTIONS
        if full or self._connections.get(who, 0) >= MOST_CONNECTIONS_FROM_ONE or self._knocks.too_often(who):
            log.warning("refused a connection from %s: there are too many", who)
            await websocket.close(1013)
            return
        self._connections[who] = self._connections.get(who, 0) + 1
        try:
            await websocket.accept()
            await self._converse(websocket, who)
        except (WebSocketDisconnect, RuntimeError, OSError):
            pass  # it went
        finally:
            self._connections[who] -= 1
            if not self._connections[who]:
                del self._connections[who]

    async def _converse(self, websocket: WebSocket, who: str) -> None:
        connection = Connection(websocket, asyncio.get_running_loop())
        try:
            hello = await asyncio.wait_for(receive(websocket, MOST_HELLO_BYTES), HELLO_SECONDS)
            # Threads of their own: a new phone is made known to the coordinator, which may take a while.
            limiter = self._joiners if "ticket" in hello.facts else None
            identity, phone, welcome = await anyio.to_thread.run_sync(self._let_in, hello, limiter=limiter)
        except (EdgekitError, TimeoutError) as error:
            reason = str(error) or "the page did not say who it is"
            log.warning("refused a phone from %s: %s", who, reason)
            await connection.refuse(REFUSED if isinstance(error, NotKnownError) else GARBAGE, reason)
            return
        known(websocket.scope, identity)
        session = self._sessions.setdefault(identity, Session(phone, Line()))
        line = session.line
        log.info("%s is here, from %s", session.phone.name, who)
        await connection.send(welcome)
        if task := self.board.frame(str(hello.facts.get("has", ""))):
            await connection.send(task)
        await connection.send(self._news_frame())
        self._sessions[identity] = session  # it may have been swept away meanwhile
        line.connect(connection)
        try:
            while await self._heard(await receive(websocket), identity, session, connection):
                if self._frames.too_often(identity):
                    raise RefusedError(f"more than {FRAMES_A_MINUTE} messages a minute")
                if not line.is_on(connection):  # what an older connection still brings is not for the newest
                    return
        except RefusedError as error:
            log.warning("%s: %s", session.phone.name, error)
            if line.is_on(connection):
                line.fail(str(error))
            await connection.refuse(GARBAGE, str(error))
        finally:
            line.disconnect(connection)
            log.info("%s is away", session.phone.name)

    def _let_in(self, hello: Frame) -> tuple[str, Phone, Frame]:
        """See who a page is; return its id, the phone, and its welcome.

        Raises:
            RefusedError: it speaks another protocol.
            NotKnownError: it may not come in.
            JoinError: it cannot come in now.
        """
        facts = hello.facts
        if hello.type != "hello" or hello.arrays or facts.get("protocol") != VERSION:
            raise RefusedError(f"this gateway speaks version {VERSION} of the phones' protocol: reload the page")
        told: dict[str, Any] = {"protocol": VERSION, "edgekit": __version__, "time": time.time()}
        if isinstance(facts.get("ticket"), str):
            ticket, secret = facts["ticket"], facts.get("secret")
            if not isinstance(secret, str):
                told["secret"] = secret = secrets.token_urlsafe(LEAST_SECRET)
            elif len(secret) < LEAST_SECRET:
                raise RefusedError(f"a phone's secret has at least {LEAST_SECRET} letters")
            identity = self.members.came_by(ticket)
            if identity and "secret" not in told:  # the same phone again, whose welcome was lost
                with contextlib.suppress(NotKnownError):
                    phone = self.members.find(identity, secret)
                    return identity, phone, Frame("welcome", {**told, "phone": identity, "name": phone.name})
            identity, phone = self._new(ticket, str(facts.get("agent", "")), secret)
        elif isinstance(facts.get("phone"), str) and isinstance(facts.get("secret"), str):
            identity = facts["phone"]
            phone = self.members.find(identity, facts["secret"])
        else:
            raise NotKnownError("scan the code that edgekit shows: it lets one phone in")
        return identity, phone, Frame("welcome", {**told, "phone": identity, "name": phone.name})

    def _new(self, ticket: str, agent: str, secret: str) -> tuple[str, Phone]:
        identity, phone = self.members.new(agent)
        self.members.redeem(ticket, identity)
        try:
            enrol.join_phone(self._node, phone.folder, self._address, phone.name)
            self.members.keep(identity, phone, secret)
        except EdgekitError:
            self.members.give_back(ticket)
            self.members.forget(phone)
            raise
        log.info("%s joined", phone.name)
        return identity, phone

    async def _heard(self, frame: Frame, identity: str, session: Session, connection: "Connection") -> bool:
        """Do what a page says; return whether it stays.

        Raises:
            RefusedError: it says what no page says.
        """
        line = session.line
        if frame.type in ("update", "declined", "failed", "delivered"):
            line.answer(frame)  # else nobody waits for it any more
        elif frame.type == "ready":
            examples = frame.facts.get("examples", -1)
            if type(examples) is not int or not (examples == -1 or 1 <= examples <= MOST_EXAMPLES):
                raise RefusedError("the page's number of examples is impossible")
            model = frame.facts.get("model")
            if isinstance(model, dict) and isinstance(model.get("run"), str) and type(model.get("version")) is int:
                line.model = {"run": model["run"][:100], "version": model["version"]}
            line.ready(True, examples)
            self._go_online(session)
        elif frame.type == "pause":
            line.ready(False)
        elif frame.type == "want":
            if connection.wanted != self.board.name and (task := self.board.frame(str(frame.facts.get("has", "")))):
                connection.wanted = self.board.name  # once: it is large
                await connection.send(task)
        elif frame.type == "leave":
            await anyio.to_thread.run_sync(self._leave, identity, session, limiter=self._joiners)
            await connection.send(Frame("left"))
            await connection.close(LEFT)
            return False
        else:
            raise RefusedError(f"this gateway does not know {frame.type[:40]!r}: reload the page")
        return True

    def _go_online(self, session: Session) -> None:
        """Start the phone's Flower node, after an earlier one has gone offline."""
        if session.resident is not None and session.thread is not None and session.thread.is_alive():
            return
        before, folder = session.thread, session.phone.folder
        node_settings = folder.node_settings()
        if node_settings.url != self._url:  # the coordinator has moved
            folder.keep_node_settings(node_settings.model_copy(update={"url": self._url}))
        stop, line = threading.Event(), session.line
        # A phone that comes back while its old node is still ending is asked all the same.
        handler = PhoneHandler(self.board, line, session.phone.name, lambda: stop.is_set() and not line.is_ready)
        resident = Resident(folder, handler, stop, lambda: self._removed(session, stop))

        def work() -> None:
            if before is not None:
                before.join()
            resident.run()

        session.resident = resident
        session.thread = threading.Thread(target=work, daemon=True)
        session.thread.start()

    def _removed(self, session: Session, stop: threading.Event) -> None:
        """Tell a page that whoever runs the group has removed its phone; called by its node's thread."""
        stop.set()
        log.info("%s was removed by the coordinator", session.phone.name)
        session.line.dismiss("this phone was removed from the group: scan a new code to take part again", REFUSED)

    def _leave(self, identity: str, session: Session) -> None:
        """Forget a phone, here and at the coordinator."""
        session.line.ready(False)
        if session.resident is not None:
            session.resident.stop.set()
        try:
            enrol.leave(session.phone.folder, self._address)
        except JoinError as error:
            log.warning("%s left, but the coordinator was not told: %s", session.phone.name, error)
        self.members.forget(session.phone)
        self._sessions.pop(identity, None)
        log.info("%s left for good", session.phone.name)
