"""What coordinator and node say to each other, inside Flower's messages: facts as JSON, and bytes.

Flower fetches every record and every array of a message by itself, so a network of twenty arrays would cost more than
forty requests a node and round. Here a message is a single record, and weights are the bytes of one safetensors file.
Strategies see named arrays as ever: `server/fleet.py` unpacks.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from edgekit import arrays
from edgekit.arrays import Weights
from edgekit.errors import EdgekitError, RefusedError

MOST_BYTES = 256 << 20
INLINE_BYTES = 4 << 20
"""Content up to this size lies in the record itself; more goes into an array, which Flower sends in pieces."""
RECORD = "edgekit"
MOST_LETTERS = 300


@dataclass(frozen=True)
class Letter:
    """What one message says.

    Attributes:
        facts: JSON values by name; bytes (a signature) may be among them.
        content: bytes that came along.
    """

    facts: Mapping[str, Any]
    content: bytes = b""

    def record(self) -> RecordDict:
        """Return it as a message's content."""
        text = json.dumps(dict(self.facts), default=_bytes_as_json)
        record = ConfigRecord({"facts": text})
        held = RecordDict({RECORD: record})
        if len(self.content) <= INLINE_BYTES:
            record["content"] = self.content
        else:
            pieces = ArrayRecord()
            pieces["bytes"] = Array(np.frombuffer(self.content, np.uint8))
            held["content"] = pieces
        return held

    def weights(self) -> Weights:
        """Return the content as named arrays.

        Raises:
            RefusedError: it is no safetensors file of edgekit's.
        """
        try:
            return arrays.from_bytes(self.content)[0]
        except EdgekitError as error:
            raise RefusedError(str(error)) from None


def read(message: Message) -> Letter:
    """Read a message, from whoever sent it.

    Raises:
        RefusedError: it is an error, or says nothing that edgekit understands.
    """
    if message.has_error():
        raise RefusedError(message.error.reason or "no reason given")
    try:
        record = message.content.config_records[RECORD]
        facts = json.loads(str(record["facts"]), object_hook=_bytes_from_json)
        content = record.get("content")
        if content is None:
            content = _pieces(message.content.array_records["content"])
    except (KeyError, TypeError, ValueError, AttributeError, EOFError, binascii.Error, RecursionError) as error:
        raise RefusedError(f"a message cannot be read: {type(error).__name__}: {str(error)[:200]}") from None
    if not isinstance(facts, dict) or not isinstance(content, bytes):
        raise RefusedError("a message cannot be read: it lacks facts or content")
    return Letter(facts, content)


def answer(facts: Mapping[str, Any], message: Message, content: bytes = b"") -> Message:
    """Return the reply to a message."""
    return Message(Letter(facts, content).record(), reply_to=message)


def one_line(text: object) -> str:
    """Return what another machine says as one line that no terminal or log takes for more than text."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text)[:MOST_LETTERS])


def _pieces(record: ArrayRecord) -> bytes:
    if list(record) != ["bytes"] or len(record["bytes"].data) > MOST_BYTES:
        raise ValueError(f"bytes were expected, at most {MOST_BYTES >> 20} MiB")
    found = record["bytes"].numpy()
    if found.dtype != np.uint8 or found.ndim != 1:
        raise ValueError(f"bytes were expected, these are {found.dtype} of shape {found.shape}")
    content: bytes = found.tobytes()
    return content


def _bytes_as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} cannot be sent")


def _bytes_from_json(found: dict[str, Any]) -> Any:
    if set(found) == {"bytes"} and isinstance(found["bytes"], str):
        return base64.b64decode(found["bytes"], validate=True)
    return found
