"""The line to a split server elsewhere: a gRPC stream that outlives broken links."""

import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import grpc

from edgekit.algorithms.split import split_pb2 as pb
from edgekit.algorithms.split import split_pb2_grpc as stubs
from edgekit.algorithms.split.codec import Codec
from edgekit.algorithms.split.messages import Answer, Asked
from edgekit.algorithms.split.wire import MOST_BYTES, OPTIONS, PROTOCOL, TOKEN, pack_asked, read_answer
from edgekit.errors import LinkDownError, RefusedError

AGAIN_SECONDS = (0.1, 2.0)
"""How long it waits before it connects again: first, and at most."""
STOP_SECONDS = 0.25
"""How often it looks whether it shall stop."""
PASSING = (
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)  # fmt: skip
"""What may be better on the next connection: a link that broke, a server that is full."""


class StreamLine:
    """A device's stream to the server, for one round.

    Args:
        address: host:port of the server.
        token: of this device and round.
        codec: how arrays travel.
        seconds: until the round is over; of this device's own clock, which may be wrong.
        authority: certificate (PEM) that the server's must come from; None for no TLS.
        stop: ends it early; what waits then raises LinkDownError.
    """

    def __init__(
        self,
        address: str,
        token: bytes,
        codec: Codec,
        seconds: float,
        authority: bytes | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._address, self._token, self._codec = address, token, codec
        self._deadline = time.monotonic() + seconds
        self._closed = False
        self._authority = authority
        self._sent = self._received = self._attempts = 0
        self._pause = AGAIN_SECONDS[0]
        self._unanswered: deque[Any] = deque()
        self._channel: Any = None
        self._out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: Any = None
        self._stop = stop or threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            self._connect_in_time()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "StreamLine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, message: Asked) -> None:
        """Send a message."""
        self._sent += 1
        ask = pb.FromDevice(ask=pack_asked(message, self._sent, self._codec))
        self._unanswered.append(ask)
        self._out.put(ask)

    def receive(self) -> Answer:
        """Return the next answer, over a new connection if need be.

        Raises:
            RefusedError: the server does not accept this device, or what it sends.
            LinkDownError: the server could not be reached until the deadline.
        """
        while True:
            try:
                found = self._next()
            except _BrokenError:
                self._connect_in_time()
                continue
            number = self._received + 1
            if found.WhichOneof("body") != "answer" or found.answer.number != number or number > self._sent:
                raise RefusedError("the split server answers what was not asked")
            self._received = number
            self._unanswered.popleft()
            self._pause = AGAIN_SECONDS[0]
            return read_answer(found.answer)

    def finish(self) -> None:
        """Say that this device's round is done; the token is spent.

        Raises:
            RefusedError: the server does not accept it.
            LinkDownError: the server is gone.
        """
        while True:
            self._out.put(pb.FromDevice(finish=pb.Finish()))
            try:
                if self._next().WhichOneof("body") != "finished":
                    raise RefusedError("the split server answers what was not asked")
                return
            except _BrokenError:
                self._connect_in_time()  # it may have heard it, or not: it is told again

    def close(self) -> None:
        """End the connection for good."""
        self._closed = True
        self._disconnect()

    def _disconnect(self) -> None:
        self._out.put(None)
        if self._channel is not None:
            self._channel.close()

    def _watch(self) -> None:
        """End what waits when this device shall stop."""
        while not self._closed:
            if self._stop.wait(STOP_SECONDS):
                self._disconnect()
                time.sleep(STOP_SECONDS)  # it may be connecting just now

    def _connect_in_time(self) -> None:
        """Connect, again and again until the round is over."""
        while True:
            if self._stop.is_set():
                raise LinkDownError("this device was stopped in the middle of a round")
            if self._attempts:  # longer each time, until a step gets through
                if time.monotonic() + self._pause > self._deadline:
                    raise LinkDownError(f"the split server at {self._address} cannot be reached")
                if self._stop.wait(self._pause):
                    raise LinkDownError("this device was stopped in the middle of a round")
                self._pause = min(2 * self._pause, AGAIN_SECONDS[1])
            try:
                return self._connect()
            except _BrokenError:
                continue

    def _connect(self) -> None:
        """Open a stream, and send again what the server does not have."""
        self._disconnect()
        self._out = queue.SimpleQueue()
        if self._authority is None:
            self._channel = grpc.insecure_channel(self._address, OPTIONS)
        else:
            self._channel = grpc.secure_channel(self._address, grpc.ssl_channel_credentials(self._authority), OPTIONS)
        self._attempts += 1
        hello = pb.Hello(protocol=PROTOCOL, answers=self._received, attempt=self._attempts)
        self._out.put(pb.FromDevice(hello=hello))
        seconds = max(0.001, self._deadline - time.monotonic())
        stub = stubs.SplitStub(self._channel)
        try:
            self._answers = stub.Train(
                _given(self._out), timeout=seconds, wait_for_ready=False, metadata=((TOKEN, self._token),)
            )
        except ValueError:  # it was closed meanwhile, to stop
            raise _BrokenError from None
        welcome = self._next()
        if welcome.WhichOneof("body") != "welcome" or welcome.welcome.protocol != PROTOCOL:
            raise RefusedError("the split server speaks another protocol: install the same version of edgekit")
        if not self._received <= welcome.welcome.asks <= self._sent:
            raise RefusedError("the split server and this device do not agree on which steps were made")
        for ask in self._unanswered:
            if ask.ask.number > welcome.welcome.asks:
                self._out.put(ask)

    def _next(self) -> Any:
        try:
            return next(self._answers)
        except StopIteration:
            raise _BrokenError from None
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise LinkDownError("the split server did not answer within the round's time") from None
            if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in (error.details() or ""):
                raise RefusedError(
                    f"a batch takes more than {MOST_BYTES >> 20} MB on its way: take a smaller training.batch_size "
                    "(or privacy.sample_rate), a later cut, or another split.codec"
                ) from None
            if error.code() in PASSING:
                raise _BrokenError from None
            raise RefusedError(f"the split server refuses: {error.details() or error.code().name}") from None


class _BrokenError(Exception):
    """The link broke; another may be made."""


def _given(source: "queue.SimpleQueue[Any]") -> Iterator[Any]:
    return iter(source.get, None)
