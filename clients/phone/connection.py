"""A page's WebSocket: frames in their order, and words before it ends."""

import asyncio
import contextlib
from urllib.parse import urlsplit

from starlette.websockets import WebSocket, WebSocketDisconnect

from edgekit.clients.phone.frames import Frame, pack, unpack
from edgekit.errors import RefusedError

MOST_FRAME_BYTES = 16 << 20
REFUSED, GARBAGE, LEFT, ELSEWHERE = 4401, 4400, 4410, 4409
"""WebSocket close codes: not known here, not understood or not now, left for good, opened elsewhere."""


class Connection:
    """An open WebSocket (see `line.Connection`); frames are sent in the order in which they were given."""

    def __init__(self, websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> None:
        self._websocket, self._loop = websocket, loop
        self.wanted = ""
        self._sending = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def post(self, frame: Frame | bytes) -> None:
        """Send a frame, from any thread."""
        self._loop.call_soon_threadsafe(self._start, frame)

    def end(self, reason: str, code: int = ELSEWHERE) -> None:
        """Say why it ends, and end it, from any thread."""
        self._loop.call_soon_threadsafe(self._start, Frame("refused", {"reason": reason, "code": code}), code)

    def _start(self, frame: Frame | bytes, then_close: int = 0) -> None:
        async def work() -> None:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
                await self.send(frame)
                if then_close:
                    await self.close(then_close)

        task = self._loop.create_task(work())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def send(self, frame: Frame | bytes) -> None:
        """Send a frame."""
        content = frame if isinstance(frame, bytes) else pack(frame)
        async with self._sending:
            await self._websocket.send_bytes(content)

    async def close(self, code: int) -> None:
        """End it."""
        await self._websocket.close(code)

    async def refuse(self, code: int, reason: str) -> None:
        """Say why it ends, and end it."""
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
            await self.send(Frame("refused", {"reason": reason, "code": code}))
            await self.close(code)


async def receive(websocket: WebSocket, most: int = MOST_FRAME_BYTES) -> Frame:
    """Return the next frame.

    Raises:
        WebSocketDisconnect: the page went.
        RefusedError: it is none.
    """
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1006))
    content = message.get("bytes")
    if content is None:
        raise RefusedError("frames are binary messages")
    if len(content) > most:
        raise RefusedError(f"this frame has more than {most} bytes")
    return unpack(content)


def same_origin(websocket: WebSocket) -> bool:
    """Whether a page of this gateway asks; programs that are no browsers do not say where they come from."""
    origin = websocket.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == websocket.headers.get("host")
