"""What goes to nodes and comes back, through Flower's grid: questions, and messages that are waited for."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from edgekit import wire
from edgekit.errors import EdgekitError, RefusedError
from edgekit.flower import CLIENT_RAISED
from edgekit.flower.parcel import error_reply

FASTEST_POLL, SLOWEST_POLL = 0.03, 0.25
QUESTION_SECONDS = 120.0
"""How long nodes may take to answer a question: loading a task takes a while on a slow board."""
Exchanged = tuple[Message, Message]
"""A message, and the reply to it."""


class Exchange:
    """Sends messages to nodes, and fetches their replies.

    Args:
        grid: Flower's.
        on_notice: called with a line for people.

    Attributes:
        waited: seconds until a node's last answer.
    """

    def __init__(self, grid: Grid, on_notice: Callable[[str], None]) -> None:
        self._grid, self._on_notice = grid, on_notice
        self.waited: dict[int, float] = {}

    def online(self) -> list[int]:
        """Return the nodes that are there."""
        return sorted(self._grid.get_node_ids())

    def push(self, messages: Sequence[Message]) -> dict[str, Message]:
        """Send messages without waiting; return those that were taken, by name."""
        names = self._grid.push_messages(messages)
        return {name: message for name, message in zip(names, messages, strict=True) if name}

    def pull(self, names: Sequence[str]) -> list[Message]:
        """Return the replies that came; one that Flower cannot decode must not cost the others."""
        try:
            return list(self._grid.pull_messages(names))
        except Exception as error:  # its decoders raise many kinds
            if len(names) == 1:
                self._on_notice(f"a reply cannot be decoded: {wire.one_line(error)}")
                return []
            return [reply for name in names for reply in self.pull([name])]

    def ask(self, nodes: Sequence[int], question: wire.Message) -> list[tuple[int, dict[str, Any] | EdgekitError]]:
        """Ask nodes; return each one's answer, or why there is none."""
        exchanged = self.send(questions(nodes, question), QUESTION_SECONDS)
        return [(message.metadata.dst_node_id, answer_of(reply)) for message, reply in exchanged]

    def send(
        self,
        messages: Sequence[Message],
        seconds: float,
        heard: Callable[[Message, Message], None] = lambda message, reply: None,
    ) -> list[Exchanged]:
        """Send messages, and wait for the replies: (message, reply) in the order of the nodes, errors among them.

        `heard` is called with each (message, reply) as it comes.

        Flower's own `send_and_receive` looks every three seconds; this one looks often at first.
        """
        if not messages:
            return []
        messages = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        waiting = self.push(messages)
        replies: dict[int, Message] = {}
        begun, pause = time.monotonic(), FASTEST_POLL
        end = begun + seconds
        while waiting and time.monotonic() < end:
            for reply in self.pull(list(waiting)):
                message = waiting.pop(reply.metadata.reply_to_message_id, None)
                if message is not None:
                    node = message.metadata.dst_node_id
                    replies[node], self.waited[node] = checked(reply, message), time.monotonic() - begun
                    heard(message, replies[node])
            if waiting:
                time.sleep(min(pause, max(0.0, end - time.monotonic())))
                pause = min(1.2 * pause, SLOWEST_POLL)
        late = f"no answer within {seconds:g} s"
        return [
            (message, replies.get(message.metadata.dst_node_id) or error_reply(CLIENT_RAISED, late, message))
            for message in messages
        ]


def questions(nodes: Sequence[int], question: wire.Message, seconds: float = QUESTION_SECONDS) -> list[Message]:
    """Return a question to several nodes."""
    record = question.record()
    return [Message(record, node, "query", ttl=seconds) for node in nodes]


def checked(reply: Message, message: Message) -> Message:
    """Return a reply as from the node that was asked: the SuperLink answers for nodes that are gone."""
    if reply.has_error():
        reason = wire.one_line(reply.error.reason or "no reason given")
        return error_reply(reply.error.code, reason, message)
    if reply.metadata.src_node_id != message.metadata.dst_node_id:
        return error_reply(CLIENT_RAISED, "another node answered in its name: not taken", message)
    return reply


def answer_of(reply: Message) -> dict[str, Any] | EdgekitError:
    """Return what a node answers, or why it gave no answer."""
    try:
        return dict(wire.read(reply).facts)
    except RefusedError as error:
        return error
