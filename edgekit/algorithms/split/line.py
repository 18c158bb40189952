"""The line within one process: nothing is sent, and everything is as if it had been."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from edgekit.algorithms.split.codec import Codec, decode, encode
from edgekit.algorithms.split.messages import Answer, Asked, Backward, Forward, Gradient
from edgekit.data.federated import Floats

T = TypeVar("T", Asked, Answer)


class DirectLine:
    """A line to a server in the same process.

    Args:
        answer: the server's side of one client.
        codec: how arrays would travel; what it loses is lost here too.

    Attributes:
        bytes_up: of the arrays that the device sent.
        bytes_down: of those it was sent.
    """

    def __init__(self, answer: Callable[[Asked], Answer], codec: Codec) -> None:
        self._answer, self._codec = answer, codec
        self._answers: deque[Answer] = deque()
        self.bytes_up = self.bytes_down = 0

    def send(self, message: Asked) -> None:
        """Send a message; it is answered at once."""
        sent, size = travelled(message, self._codec)
        self.bytes_up += size
        answer, size = travelled(self._answer(sent), self._codec)
        self.bytes_down += size
        self._answers.append(answer)

    def receive(self) -> Answer:
        """Return the next answer."""
        return self._answers.popleft()


def travelled(message: T, codec: Codec) -> tuple[T, int]:
    """Return a message as it arrives, and the bytes of its arrays."""
    name = "gradient" if isinstance(message, Backward | Gradient) else "activation"
    array: Floats = getattr(message, name)
    labels = message.labels.size * 4 if isinstance(message, Forward) and message.labels is not None else 0
    if codec == "float32":
        return message, array.size * 4 + labels
    coded = encode(np.asarray(array), codec)
    changed: dict[str, Any] = {name: decode(coded)}
    return replace(message, **changed), coded.size + labels
