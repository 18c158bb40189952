"""A phone without a browser, for load and for what no page would do: it speaks the phones' protocol and no more."""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from edgekit.clients.phone.frames import VERSION, Frame, pack, unpack

Work = Callable[[Frame], Frame]
LOOP = asyncio.new_event_loop()
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def echo(asked: Frame) -> Frame:
    """Answer a round with the weights that came: no training, all of the way."""
    return Frame("update", {"id": asked.facts["id"], "examples": 16, "loss": 1.0}, {"w": asked.arrays["w"]})


class Connection:
    """An open WebSocket, for threads. All of them share one event loop: Python's TLS is not made for one thread that
    writes while another reads.

    Args:
        url: to connect to.
        context: of TLS, None for none.
    """

    def __init__(self, url: str, context: ssl.SSLContext | None) -> None:
        self._socket: ClientConnection = self._do(_connect(url, context))

    def send(self, content: bytes | str) -> None:
        """Send a message."""
        self._do(self._socket.send(content))

    def recv(self, timeout: float) -> bytes | str:
        """Return the next message."""
        found: bytes | str = self._do(asyncio.wait_for(self._socket.recv(), timeout))
        return found

    def close(self) -> None:
        """Close it."""
        self._do(self._socket.close())

    @staticmethod
    def _do(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, LOOP).result()


async def _connect(url: str, context: ssl.SSLContext | None) -> ClientConnection:
    return await connect(url, ssl=context, max_size=None, compression=None, open_timeout=30)


class ScriptedPhone:
    """One phone.

    Args:
        link: as the gateway shows it, with its ticket; later a link without, for a phone that was there before.
        work: answers a round.
        counts: whether it tells how many examples it has.
    """

    def __init__(self, link: str, work: Work = echo, *, counts: bool = True) -> None:
        parts = urlsplit(link)
        secure = parts.scheme == "https"
        self.url = f"{'wss' if secure else 'ws'}://{parts.netloc}/line"
        self.ticket = parts.fragment.removeprefix("t=")
        self.work, self.counts = work, counts
        self.identity: dict[str, str] = {}
        self.task: Frame | None = None
        self.heard: list[Frame] = []
        self.rounds = 0
        self.connection: Connection | None = None
        self.close_code: int | None = None
        self._thread: threading.Thread | None = None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._context = context if secure else None

    def open(self) -> Connection:
        """Connect, without saying anything."""
        self.connection = Connection(self.url, self._context)
        return self.connection

    def hello(self, **more: Any) -> Frame:
        """Connect and say who this is; return the gateway's first frame."""
        connection = self.open()
        who = self.identity or {"ticket": self.ticket, "agent": "script"}
        connection.send(pack(Frame("hello", {"protocol": VERSION, **who, **more})))
        first = self.receive()
        if first.type == "welcome" and "secret" in first.facts:
            self.identity = {"phone": first.facts["phone"], "secret": first.facts["secret"]}
        return first

    def receive(self, timeout: float = 60) -> Frame:
        """Return the next frame."""
        assert self.connection is not None
        content = self.connection.recv(timeout=timeout)
        assert isinstance(content, bytes)
        return unpack(content)

    def send(self, frame: Frame) -> None:
        """Send a frame."""
        assert self.connection is not None
        self.connection.send(pack(frame))

    def take_part(self) -> None:
        """Say hello, wait for the task, and answer rounds in a thread of its own."""
        first = self.hello()
        if first.type != "welcome":
            raise RuntimeError(f"the gateway refused: {first.facts}")
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        try:
            while True:
                frame = self.receive(timeout=3600)
                self.heard.append(frame)
                if frame.type == "task":
                    self.task = frame
                    self.send(Frame("ready", {"examples": 16} if self.counts else {}))
                elif frame.type == "progress" and frame.facts["task"] and self.task is None:
                    self.send(Frame("want"))  # it was not there yet when this phone came
                elif frame.type == "train":
                    self.send(self.work(frame))
                    self.rounds += 1
                elif frame.type == "deliver":
                    self.send(Frame("delivered", {"id": frame.facts["id"]}))
        except (ConnectionClosed, TimeoutError, OSError) as error:
            self.close_code = getattr(getattr(error, "rcvd", None), "code", None)

    def close(self) -> None:
        """Go away, as a browser does whose tab is closed."""
        if self.connection is not None:
            self.connection.close()
        if self._thread is not None:
            self._thread.join(10)


def flat(weights: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Return all weights one after the other, as they travel."""
    return np.concatenate([array.ravel() for array in weights.values()])


def wait(done: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something, at most so long."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come within {seconds:g} s")
        time.sleep(0.02)
