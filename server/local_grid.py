"""Flower's Grid in this process: no Ray, no server, the same strategies."""

import secrets
from collections.abc import Callable, Iterable, Sequence

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from edgekit.clients.app import error_reply
from edgekit.flower import Run, begin_run, give_id

CohortFunction = Callable[[Sequence[Message], Sequence[Context]], list[Message]]

FIRST_NODE = 1000
"""Node ids start here: Flower keeps the small ones for itself."""


class LocalGrid(Grid):
    """Delivers messages to clients in this process.

    Args:
        app: answers one message, as on a SuperNode; what it raises becomes an error reply.
        clients: how many nodes there are.
        train_cohort: answers all training messages of a round at once, instead of `app`; should that raise, the
            clients are answered one by one, so that only the one at fault fails.
        on_notice: called with a line for people when that happens.
    """

    def __init__(
        self,
        app: ClientApp,
        clients: int,
        train_cohort: CohortFunction | None = None,
        on_notice: Callable[[str], None] = lambda line: None,
        *,
        apart: bool = True,
    ) -> None:
        self.on_notice = on_notice
        self.apart = apart
        self.app = app
        self.clients = clients
        self.train_cohort = train_cohort
        self.online: list[int] | None = None
        """Clients that strategies see; None is all."""
        self._run = begin_run(secrets.randbits(62))
        self._waiting: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that are online."""
        return [FIRST_NODE + client for client in (range(self.clients) if self.online is None else self.online)]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages in; `pull_messages` answers them."""
        ids = []
        for message in messages:
            ids.append(give_id(message))
            self._waiting[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answer messages that were pushed."""
        return self._answer([self._waiting.pop(i) for i in message_ids if i in self._waiting])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Answer messages, in the order of their nodes so that sums do not depend on a strategy's shuffling."""
        ordered = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        return self.pull_messages(self.push_messages(ordered))

    def client_of(self, node: int) -> int:
        """Return the client's number of a node id."""
        return node - FIRST_NODE

    def _answer(self, messages: list[Message]) -> list[Message]:
        contexts = [self._context(message.metadata.dst_node_id) for message in messages]
        replies = self._answer_together(messages, contexts)
        if replies is None:
            replies = [self._answer_one(message, context) for message, context in zip(messages, contexts, strict=True)]
        for reply in replies:
            give_id(reply)
        return replies

    def _answer_together(self, messages: list[Message], contexts: list[Context]) -> list[Message] | None:
        """Answer a round's training messages at once; None if that is not possible."""
        if not (self.train_cohort and messages and all(m.metadata.message_type == "train" for m in messages)):
            return None
        try:
            return self.train_cohort(messages, contexts)
        except Exception as error:
            if not self.apart:
                return [error_reply(error, message) for message in messages]
            reason = " ".join(str(error).split()) or type(error).__name__
            self.on_notice(f"the cohort's common step failed ({reason}): its clients train one at a time this round")
            return None

    def _answer_one(self, message: Message, context: Context) -> Message:
        try:
            return self.app(message, context)
        except Exception as error:
            return error_reply(error, message)

    def _context(self, node: int) -> Context:
        config = {"partition-id": self.client_of(node), "num-partitions": self.clients}
        return Context(self._run.run_id, node, config, RecordDict(), {})
