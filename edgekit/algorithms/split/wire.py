"""Messages as they travel on the stream (`split.proto`), and back; whatever comes is checked."""

from typing import Any

import numpy as np

from edgekit.algorithms.split import split_pb2 as pb
from edgekit.algorithms.split.codec import CODECS, MOST_DIMENSIONS, Codec, Coded, decode, encode
from edgekit.algorithms.split.messages import Answer, Asked, Backward, Forward, Gradient, Output
from edgekit.data.federated import Floats, Integers
from edgekit.errors import RefusedError

PROTOCOL = 2
TOKEN = "edgekit-token-bin"
"""Of the call's metadata: a token of one device and one round."""
MOST_BYTES = 64 << 20
"""Of a message; gRPC's own limit of 4 MB is less than an activation may take."""
OPTIONS = [
    ("grpc.max_send_message_length", MOST_BYTES),
    ("grpc.max_receive_message_length", MOST_BYTES),
    # An activation in few frames, without waiting for leave to send more: a third less time for 400 kB.
    ("grpc.http2.max_frame_size", 4 << 20),
    ("grpc.http2.lookahead_bytes", 8 << 20),
    # A link that died without a word is noticed by these within half a minute, on either side.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
]


def pack_asked(message: Asked, number: int, codec: Codec) -> Any:
    """Return a device's message as an `Ask`."""
    if isinstance(message, Backward):
        array = _tensor(message.gradient, codec)
        return pb.Ask(number=number, step=message.step, array=array, backward=True)
    labels = b"" if message.labels is None else message.labels.astype("<i4").tobytes()
    return pb.Ask(number=number, step=message.step, array=_tensor(message.activation, codec), labels=labels)


def read_asked(ask: Any, codec: Codec, shape: tuple[int, ...], most: int) -> Asked:
    """Read an `Ask`.

    Args:
        ask: as it came.
        codec: that was agreed.
        shape: that one example must have.
        most: examples.

    Raises:
        RefusedError: it lies.
    """
    found = tuple(ask.array.shape[: MOST_DIMENSIONS + 1])
    if ask.array.codec != codec or found[1:] != shape or not 1 <= found[0] <= most:
        raise RefusedError(
            f"{codec} arrays of 1 to {most} x {' x '.join(map(str, shape))} are expected here, not "
            f"{ask.array.codec[:20]} of {' x '.join(map(str, found))}"
        )
    array = _array(ask.array)
    if ask.backward:
        return Backward(ask.step, array)
    labels: Integers | None = None
    if ask.labels:
        if len(ask.labels) != 4 * len(array):
            raise RefusedError(f"{len(array)} examples come with {len(ask.labels)} bytes of labels")
        labels = np.frombuffer(ask.labels, "<i4").astype(np.int64)
    return Forward(ask.step, array, labels)


def pack_answer(answer: Answer, number: int, codec: Codec) -> Any:
    """Return the server's message as an `Answer`."""
    if isinstance(answer, Output):
        return pb.Answer(number=number, step=answer.step, array=_tensor(answer.activation, codec))
    return pb.Answer(
        number=number, step=answer.step, array=_tensor(answer.gradient, codec), gradient=True, loss=answer.loss
    )


def read_answer(answer: Any) -> Answer:
    """Read an `Answer`.

    Raises:
        RefusedError: it lies.
    """
    array = _array(answer.array)
    if not answer.gradient:
        return Output(answer.step, array)
    return Gradient(answer.step, array, answer.loss if answer.HasField("loss") else None)


def size_of(tensor: Any) -> int:
    """Return the bytes of a `Tensor`'s values."""
    return len(tensor.data) + len(tensor.scales) + len(tensor.zeros) + len(tensor.places)


def _tensor(array: Floats, codec: Codec) -> Any:
    coded = encode(array, codec)
    return pb.Tensor(
        codec=coded.codec, shape=coded.shape, data=coded.data, scales=coded.scales, zeros=coded.zeros,
        places=coded.places,
    )  # fmt: skip


def _array(tensor: Any) -> Floats:
    codec: Codec | None = next((name for name in CODECS if name == tensor.codec), None)
    if codec is None:
        raise RefusedError(f"arrays come as {', '.join(CODECS)}, not as {tensor.codec[:20]!r}")
    return decode(
        Coded(
            codec, tuple(tensor.shape[: MOST_DIMENSIONS + 1]), tensor.data, tensor.scales, tensor.zeros, tensor.places
        )
    )
