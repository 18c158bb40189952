"""What coordinator and node say to each other, inside Flower's messages: facts as JSON, and bytes.

Flower fetches every record and every array of a message by itself, so a network of twenty arrays would cost more than
forty requests a node and round. Here a message is a single record, and weights are the bytes of one safetensors file.
What a method asks and what clients send back are written and read here, for both sides.
"""

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.app import Message as FlowerMessage

from edgekit import arrays, compact, strict_json
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Ask, Bundles, Scored, Update, packed, unpacked
from edgekit.errors import EdgekitError, RefusedError, TrainingError
from edgekit.local_settings import LocalSettings

MOST_BYTES = 256 << 20
INLINE_BYTES = 4 << 20
"""Content up to this size lies in the record itself; more goes into an array, which Flower sends in pieces."""
RECORD = "edgekit"
MOST_LETTERS = 300
MOST_EXAMPLES = 10**9


@dataclass(frozen=True)
class Message:
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


def read(message: FlowerMessage) -> Message:
    """Read a message, from whoever sent it.

    Raises:
        RefusedError: it is an error, or says nothing that edgekit understands.
    """
    if message.has_error():
        raise RefusedError(message.error.reason or "no reason given")
    try:
        record = message.content.config_records[RECORD]
        facts = strict_json.loads(str(record["facts"]), _bytes_from_json)
        content = record.get("content")
        if content is None:
            content = _pieces(message.content.array_records["content"])
    except (KeyError, TypeError, ValueError, AttributeError, EOFError, binascii.Error) as error:
        raise RefusedError(f"a message cannot be read: {type(error).__name__}: {str(error)[:200]}") from None
    if not isinstance(facts, dict) or not isinstance(content, bytes):
        raise RefusedError("a message cannot be read: it lacks facts or content")
    return Message(facts, content)


def answer(facts: Mapping[str, Any], message: FlowerMessage, content: bytes = b"") -> FlowerMessage:
    """Return the reply to a message."""
    return FlowerMessage(Message(facts, content).record(), reply_to=message)


def asking(ask: Ask, written: bytes | None = None) -> tuple[dict[str, Any], bytes]:
    """Return an ask as facts and content; `written` is the content, where it was made already."""
    bundles, content = _as_content(ask.bundles, written)
    facts = {
        "round": ask.round,
        "local-settings": ask.settings.to_json(),
        "proximal-mu": ask.config.get("proximal-mu", 0.0),
        "config": dict(ask.config),
        **bundles,
    }
    return facts, content


def ask_of(asked: Message) -> Ask:
    """Return what a coordinator asks.

    Raises:
        RefusedError: it cannot be read, or asks for what cannot be.
    """
    try:
        settings = LocalSettings.from_json(str(asked.facts["local-settings"]))
        config = dict(asked.facts.get("config", {}))
        config["proximal-mu"] = mu = float(asked.facts.get("proximal-mu", 0.0))
        dataclasses.replace(settings, proximal_mu=mu)  # refused where it is out of range
        return Ask(_bundles(asked), config, settings, int(asked.facts["round"]))
    except (KeyError, TypeError, ValueError, OverflowError, EdgekitError) as error:
        raise RefusedError(f"a round's instructions cannot be read: {type(error).__name__}: {error}") from None


def telling(update: Update, sent: Bundles | None = None) -> tuple[dict[str, Any], bytes]:
    """Return an update as facts and content.

    Args:
        update: the update.
        sent: what the client was sent; arrays that are mostly as they were then travel as places and values, and those
            on a grid as codes.
    """
    flat, form = compact.compacted(update, sent) if sent is not None else ({}, {})
    if form:
        bundles: dict[str, Any] = {"bundles": list(update.bundles), **form}
        content = arrays.to_bytes(flat)
    else:
        bundles, content = _as_content(update.bundles)
    weight = int(update.weight) if float(update.weight).is_integer() else update.weight
    facts = dict(update.facts)
    loss = {"train_loss": facts.pop("train_loss")} if "train_loss" in facts else {}
    return {"num-examples": weight, **loss, **({"facts": facts} if facts else {}), **bundles}, content


def update_of(told: Message, like: Bundles | None = None, sent: Bundles | None = None) -> Update:
    """Return what a client sends, of which only known names and fitting numbers are taken.

    Args:
        told: the message.
        like: arrays of the shapes that the update must have; without, all must travel whole.
        sent: what the client was sent.

    Raises:
        RefusedError: it cannot be read.
    """
    count, loss, more = told.facts.get("num-examples"), told.facts.get("train_loss"), told.facts.get("facts", {})
    if not isinstance(count, int | float) or isinstance(count, bool) or not 0 < count < MOST_EXAMPLES:
        raise RefusedError("it does not say how many examples it trained on")
    if not isinstance(more, dict) or "train_loss" in more:
        raise RefusedError("what it tells beside its update cannot be read")
    facts = dict(more)
    if isinstance(loss, float) and abs(loss) < 1e9:
        facts["train_loss"] = loss
    return Update(_bundles(told, like, sent), count, facts)


def score_of(told: Message) -> Scored:
    """Return how good a model is on what a node holds back.

    Raises:
        RefusedError: it cannot be read, or nobody could measure such numbers.
    """
    loss, score, examples = (told.facts.get(name) for name in ("loss", "score", "examples"))
    if isinstance(loss, float) and isinstance(score, float) and isinstance(examples, int):
        fits = -1e9 < score <= 1 and 0 <= loss < 1e9 and 0 < examples < MOST_EXAMPLES
        if fits:
            return Scored(loss, score, examples)
    raise RefusedError("how good the model is cannot be read")


def _as_content(bundles: Bundles, written: bytes | None = None) -> tuple[dict[str, Any], bytes]:
    """Return bundles as content; weights alone are just that, which every kind of client reads."""
    alone = list(bundles) == [WEIGHTS]
    content = written or arrays.to_bytes(bundles[WEIGHTS] if alone else packed(bundles))
    return {} if alone else {"bundles": list(bundles)}, content


def _bundles(message: Message, like: Bundles | None = None, sent: Bundles | None = None) -> Bundles:
    names = message.facts.get("bundles")
    if names is None:
        return {WEIGHTS: message.weights()}
    if not isinstance(names, list) or not all(isinstance(name, str) and ":" not in name for name in names):
        raise RefusedError("the names of its bundles cannot be read")
    flat = message.weights()
    if compact.SPARSE in message.facts or compact.CODED in message.facts:
        try:
            flat = compact.whole(flat, message.facts, like or {}, sent or {})
        except TrainingError as error:
            raise RefusedError(str(error)) from None
    found = unpacked(flat)
    if unknown := sorted(set(found) - set(names)):
        raise RefusedError(f"the bundle {unknown[0][:40]!r} is not announced")
    return {name: found.get(name, {}) for name in names}


def one_line(text: object) -> str:
    """Return what another machine says as one line that no terminal or log takes for more than text."""
    return "".join(sign if sign.isprintable() else " " for sign in str(text)[:MOST_LETTERS])


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
