"""A message as it comes over a node's link, and the replies to it."""

from dataclasses import dataclass

from flwr.app import Error, Message
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from edgekit.errors import RefusedError


@dataclass(frozen=True)
class Parcel:
    """A message as it came over the link: content by hash, so that it can be kept on the disk.

    Attributes:
        message_id: its hash.
        objects: content by hash.
    """

    message_id: str
    objects: dict[str, bytes]

    def open(self) -> Message:
        """Return the message.

        Raises:
            RefusedError: the objects do not make a message.
        """
        try:
            message = inflate_object_from_contents(self.message_id, dict(self.objects))
        except Exception as error:  # Flower's decoders raise many kinds
            raise RefusedError(f"a message cannot be read: {type(error).__name__}: {error}") from None
        if not isinstance(message, Message):
            raise RefusedError(f"a message was expected, this is a {type(message).__name__}")
        message.metadata.__dict__["_message_id"] = self.message_id
        return message


def ends_of(message: Message) -> float:
    """Return when nobody waits for the reply to a message any more, in seconds since 1970."""
    return float(message.metadata.created_at + message.metadata.ttl)


def begin(parcel: Parcel, node_id: int) -> Message:
    """Open a message to answer it: replies read their run and sender from the process."""
    message = parcel.open()
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = message.metadata.run_id, node_id, 1
    return message


def error_reply(code: int, reason: str, message: Message) -> Message:
    """Return a reply that says why there is none."""
    return Message(Error(code, reason), reply_to=message)
