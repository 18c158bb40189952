"""The line to one phone's page: questions that outlive a broken connection, and are asked again on the next."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from edgekit.clients.phone.frames import Frame
from edgekit.errors import RefusedError

RECONNECT_SECONDS = 10.0
"""How long a question waits for a page that is reloaded, or whose link broke."""


class PausedError(RefusedError):
    """The person does not let the page train now."""


class Connection(Protocol):
    """An open WebSocket, as other threads see it."""

    def post(self, frame: Frame | bytes) -> None:
        """Send a frame, packed or not, without waiting."""

    def end(self, reason: str, code: int = ...) -> None:
        """Close, and say why; without a code, because the page was opened elsewhere."""


class Line:
    """What the threads of a phone's node and its connection share."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._connection: Connection | None = None
        self._ready = self._paused = False
        self._answers: dict[str, Frame] = {}
        self._asked: set[str] = set()
        self.examples = -1
        self.model: dict[str, object] = {}
        self.last_seen = self._unready_since = time.monotonic()

    def connect(self, connection: Connection) -> None:
        """The page is here; an older connection of the same phone ends."""
        with self._changed:
            before, self._connection = self._connection, connection
            self._ready = self._paused = False
            self._unready_since = time.monotonic()
            self._changed.notify_all()
        if before is not None:
            before.end("the page was opened anew")

    def disconnect(self, connection: Connection) -> None:
        """A connection has ended."""
        with self._changed:
            if self._connection is connection:
                self._connection = None
                self._set_ready(False)
                self.last_seen = time.monotonic()
                self._changed.notify_all()

    def ready(self, on: bool, examples: int = -1) -> None:
        """The person let the page train, or asked it to stop."""
        with self._changed:
            self._set_ready(on)
            self._paused, self.examples = not on, examples
            self._changed.notify_all()

    def _set_ready(self, on: bool) -> None:
        if self._ready and not on:
            self._unready_since = time.monotonic()
        self._ready = on

    @property
    def is_ready(self) -> bool:
        """Whether the page is here and would train."""
        return self._ready

    @property
    def connected(self) -> bool:
        """Whether the page is here."""
        return self._connection is not None

    def dismiss(self, reason: str, code: int) -> None:
        """End the page's connection, if it has one."""
        with self._changed:
            if self._connection is not None:
                self._connection.end(reason, code)

    def is_on(self, connection: Connection) -> bool:
        """Whether this is the phone's newest connection."""
        return self._connection is connection

    def post(self, frame: Frame | bytes) -> None:
        """Send a frame that needs no answer, if the page is here."""
        with self._changed:
            if self._connection is not None:
                self._connection.post(frame)

    def answer(self, frame: Frame) -> bool:
        """Take an answer; return whether it was waited for."""
        name = frame.facts.get("id")
        with self._changed:
            if not isinstance(name, str) or name not in self._asked:
                return False
            self._answers[name] = frame
            self._changed.notify_all()
            return True

    def fail(self, problem: str) -> None:
        """Answer all that is asked with a failure: the page said what cannot be taken."""
        with self._changed:
            for name in self._asked:
                self._answers[name] = Frame("failed", {"id": name, "problem": problem})
            self._changed.notify_all()

    def ask(self, frame: Frame, until: float, stopped: Callable[[], bool]) -> Frame:
        """Send a question, and return its answer.

        Args:
            frame: with an `id`; a page that is asked twice answers twice alike.
            until: seconds since 1970, when nobody waits for the answer any more.
            stopped: whether the phone's node is to end.

        Raises:
            PausedError: the person does not want it now, or closed the page a while ago.
            RefusedError: there is no answer.
        """
        name = str(frame.facts["id"])
        with self._changed:
            self._asked.add(name)
            try:
                return self._answer_to(name, frame, until, stopped)
            finally:
                self._asked.discard(name)
                self._answers.pop(name, None)

    def _answer_to(self, name: str, frame: Frame, until: float, stopped: Callable[[], bool]) -> Frame:
        asked_on: Connection | None = None
        while name not in self._answers:
            if self._connection is not None and self._ready:
                if self._connection is not asked_on:
                    asked_on = self._connection
                    asked_on.post(frame)
            elif time.monotonic() - self._unready_since > RECONNECT_SECONDS:
                if asked_on is None:
                    raise PausedError("its page is closed")
                raise RefusedError("the phone went away")
            if self._paused:
                raise PausedError("its person has paused it")
            if time.time() >= until:
                raise RefusedError("the phone did not answer in time: its page sleeps, or is too slow")
            if stopped():
                raise RefusedError("the phone left")
            self._changed.wait(min(0.5, max(0.0, until - time.time())))
        return self._answers.pop(name)
