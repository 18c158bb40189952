"""The resident node: one warm process that stays connected for weeks, whatever happens to the link or to itself."""

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from flwr.app import Message

from edgekit import arrays
from edgekit.clients.node import enrol
from edgekit.clients.node.folder import NodeFolder
from edgekit.enrolment import clock_problem, parse_url
from edgekit.errors import EdgekitError, JoinError, LinkDownError, RefusedError, StaleError, StoppedError
from edgekit.flower import CLIENT_RAISED
from edgekit.flower.fleet import FleetLink
from edgekit.flower.parcel import Parcel, begin, ends_of, error_reply
from edgekit.runfolder import write_whole

log = logging.getLogger("edgekit.node")

FASTEST_POLL, SLOWEST_POLL, POLL_SHARE = 0.1, 3.0, 0.1
"""A node asks for messages after a tenth of the time since the last one, in seconds: waiting adds a tenth to a round,
and hundreds of idle nodes cost the coordinator little."""
HEARTBEAT_SECONDS = 6.0
FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
SETTLED_SECONDS = 10.0
"""A connection that lasted so long was a good one: the next is tried soon, whatever came before."""
MOST_ATTEMPTS = 2
"""How often a message may have been under way when this process died; then it is answered with an error."""


REMOVED = "it was removed there, or the coordinator's state is another one; join again with a new code"


class Answering(Protocol):
    """Who answers messages."""

    def answer(self, message: Message) -> Message:
        """Return the reply to a message."""


class Resident:
    """A node at work.

    Args:
        folder: of the node; it must have joined.
        handler: answers the coordinator's messages.
        stop: ends it; None makes one.
        on_removed: called when the coordinator does not know this node any more; it goes on trying.
    """

    def __init__(
        self,
        folder: NodeFolder,
        handler: Answering,
        stop: threading.Event | None = None,
        on_removed: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.handler, self._on_removed = folder, handler, on_removed
        self.stop = stop or threading.Event()
        self._state = ""
        self._last_message = time.monotonic()

    def run(self) -> None:
        """Work until `stop` is set.

        Raises:
            JoinError: the folder holds no node.
        """
        address, _ = parse_url(self.folder.node_settings().url)
        authority, key, member = self.folder.authority(), self.folder.key(), self.folder.membership()
        wait = FIRST_RETRY
        while not self.stop.is_set():
            link = FleetLink(address.netloc, authority, key)
            started = time.monotonic()
            try:
                node = link.activate(member.node_id)
                self._say(f"connected to {address} as node {node}")
                self._converse(link)
            except RefusedError as error:
                problem = self._clock_problem()
                self._say(f"refused: {problem or f'{error}: {REMOVED}'}")
                if problem is None:
                    self._on_removed()
            except (LinkDownError, StaleError) as error:
                self._say(f"waiting: {error}")
            except Exception:  # the node goes on, whatever came
                log.exception("an error that should not be: please report it")
                self._say("waiting after an error")
            finally:
                link.close()
            wait = FIRST_RETRY if time.monotonic() - started > SETTLED_SECONDS else min(2 * wait, LONGEST_RETRY)
            self.stop.wait(wait * random.uniform(0.5, 1.0))

    def _converse(self, link: FleetLink) -> None:
        """Answer messages until the link breaks."""
        broken = threading.Event()
        beating = threading.Thread(target=self._beat, args=(link, broken), daemon=True)
        beating.start()
        try:
            self._last_message = time.monotonic()
            while not (self.stop.is_set() or broken.is_set()):
                try:
                    parcel = self._kept() or link.pull(keep=self._keep)
                except StaleError as error:
                    log.info("%s", error)
                    self.stop.wait(FASTEST_POLL)
                    continue
                if parcel is None and link.waits:
                    continue
                if parcel is None:
                    since = time.monotonic() - self._last_message
                    pause = min(max(FASTEST_POLL, POLL_SHARE * since), SLOWEST_POLL)
                    self.stop.wait(pause * random.uniform(0.8, 1.2))
                    continue
                self._work(link, parcel)
                self._last_message = time.monotonic()
            if broken.is_set():
                raise LinkDownError("the coordinator does not answer heartbeats")
        finally:
            broken.set()

    def _work(self, link: FleetLink, parcel: Parcel) -> None:
        """Answer one message; it stays on the disk until its reply has arrived, or is not wanted any more."""
        path = self._path(parcel.message_id)
        attempts = self._count_attempt(path)
        try:
            message = begin(parcel, link.node_id)
        except RefusedError as error:
            log.warning("%s", error)
            self._forget(path)
            return
        until = ends_of(message)
        if time.time() > until:
            log.info("a message of %s was too old to be answered", message.metadata.group_id or "?")
            self._forget(path)
            return
        started = time.monotonic()
        if attempts > MOST_ATTEMPTS:
            log.warning("this node died twice over one message: it is answered with an error")
            reply = error_reply(CLIENT_RAISED, "this device died twice over this message (too little memory?)", message)
        else:
            try:
                reply = self.handler.answer(message)
            except StoppedError as error:
                log.info("%s", error)
                self.abandon()
                return
        taken = time.monotonic() - started
        wait = FIRST_RETRY
        while True:
            try:
                link.push(reply, taken)
                break
            except LinkDownError as error:
                if time.time() > until:
                    log.info("the round ended before its reply could be sent (%s)", error)
                    break
                self._say(f"waiting: {error}")
                if self.stop.wait(wait):
                    self.abandon()
                    return
                wait = min(2 * wait, LONGEST_RETRY / 4)
            except StaleError as error:
                log.info("the reply is not wanted any more: %s", error)
                break
        self._forget(path)

    def abandon(self) -> None:
        """Leave the message that is under way for the next start: it is not what this process ends of."""
        for mark in self.folder.inbox.glob("*.attempts"):
            mark.unlink(missing_ok=True)

    def _beat(self, link: FleetLink, broken: threading.Event) -> None:
        failures = 0
        while not broken.wait(HEARTBEAT_SECONDS):
            try:
                link.heartbeat()
                failures = 0
            except Exception:
                failures += 1
                if failures == 3:
                    broken.set()

    def _clock_problem(self) -> str | None:
        """Return what else than being a stranger may be why a signature is refused, None if nothing is."""
        try:
            address, _ = parse_url(self.folder.node_settings().url)
            return clock_problem(enrol.clock_ahead(address, self.folder.authority()))
        except JoinError as unreachable:
            return str(unreachable)

    def _say(self, state: str) -> None:
        if state != self._state:
            self._state = state
            log.info("%s", state)

    def _path(self, message_id: str) -> Path:
        return self.folder.inbox / f"{message_id[:64]}.message"

    def _keep(self, parcel: Parcel) -> None:
        """Write a message down before the coordinator is told that it arrived."""
        try:
            arrays.save(
                self._path(parcel.message_id), arrays.as_arrays(parcel.objects), {"message_id": parcel.message_id}
            )
        except EdgekitError as error:
            log.warning("a message is not kept over a crash: %s", error)

    def _kept(self) -> Parcel | None:
        """Return a message that was under way when this process died."""
        for path in sorted(self.folder.inbox.glob("*.message")):
            try:
                held, description = arrays.load(path)
                return Parcel(description["message_id"], arrays.as_contents(held))
            except (EdgekitError, KeyError, TypeError):
                self._forget(path)  # half-written before a crash: the round's deadline takes care of it
        return None

    def _count_attempt(self, path: Path) -> int:
        """Count how often a message was begun, on the disk, before it is begun."""
        mark = path.with_suffix(".attempts")
        try:
            attempts = int(mark.read_text()) + 1 if mark.exists() else 1
        except (OSError, ValueError):
            attempts = MOST_ATTEMPTS + 1  # cut off by a power loss: it had begun
        try:
            write_whole(mark, str(attempts))
        except EdgekitError as error:
            log.warning("%s", error)
        return attempts

    def _forget(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        path.with_suffix(".attempts").unlink(missing_ok=True)
