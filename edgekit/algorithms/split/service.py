"""The split server's gRPC service: sessions by one-time token, which outlive broken links but not their round."""

import contextlib
import hmac
import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc

from edgekit.algorithms.split import split_pb2 as pb
from edgekit.algorithms.split import split_pb2_grpc as stubs
from edgekit.algorithms.split.codec import Codec
from edgekit.algorithms.split.messages import Answer, Asked
from edgekit.algorithms.split.wire import OPTIONS, PROTOCOL, TOKEN, pack_answer, read_asked, size_of
from edgekit.errors import EdgekitError, RefusedError, ServeError

log = logging.getLogger("edgekit.algorithms.split")

TOKEN_BYTES = 32
SPARE_STREAMS = 8
"""Beside one for each device: for those that come anew, and strangers, who are sent away."""
UNKNOWN = "this token is of no round that runs"
LOOK_SECONDS = 0.5
"""How often a stream that waits for an older one's step looks whether it is still the newest."""
HELLO_SECONDS = 10.0
"""A stream that has not said hello by then ends, as does a TLS handshake."""
IDLE_SECONDS = 60.0
"""A connection without a stream ends then."""


@dataclass
class _Session:
    """One device in one round.

    Attributes:
        client: which.
        asks: that were answered.
        answers: the last of them, for a device that lost them.
        attempt: number of its newest stream.
        context: of that stream.
        finished: whether it has no more steps.
        ended: whether the round was ended for it.
        bytes_up: of the arrays and labels that came.
        bytes_down: of the arrays that were answered.
        lock: held while a step is made.
    """

    client: int
    asks: int = 0
    answers: deque[Any] = field(default_factory=deque)
    attempt: int = 0
    context: Any = None
    finished: bool = False
    ended: bool = False
    bytes_up: int = 0
    bytes_down: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Ended:
    """How a device's round ended.

    Attributes:
        asks: that it made.
        finished: whether it said that it is done.
        bytes_up: of the arrays and labels that came.
        bytes_down: of the arrays that were answered.
    """

    asks: int
    finished: bool
    bytes_up: int
    bytes_down: int


class StepServer(Protocol):
    """What trains the server's part: `SplitServer`, or `VerticalServer`."""

    def answer(self, client: int, message: Asked) -> Answer:
        """Return the answer to a client's message; it may wait for other clients."""

    def expects(self, client: int, step: int, *, backward: bool) -> tuple[tuple[int, ...], int]:
        """Return what a message's array must be: the shape of one example, and the most examples."""

    def forget(self, client: int) -> None:
        """Forget the batches of a client that are under way."""

    def release(self) -> None:
        """Let nobody wait any longer: clients' rounds end."""


class SplitService(stubs.SplitServicer):
    """Answers devices' streams.

    Args:
        server: trains the part between.
        codec: how arrays travel.
        window: batches of a device under way at once.
    """

    def __init__(self, server: StepServer, codec: Codec, window: int) -> None:
        self._server, self._codec, self._window = server, codec, window
        self._lock = threading.Lock()
        self._sessions: dict[bytes, _Session] = {}

    def admit(self, client: int) -> bytes:
        """Let a client take part in the round; return its token."""
        token = secrets.token_bytes(TOKEN_BYTES)
        with self._lock:
            self._sessions[token] = _Session(client)
        return token

    def has_finished(self, client: int) -> bool:
        """Return whether a client has said that its round is done."""
        with self._lock:
            return any(session.client == client and session.finished for session in self._sessions.values())

    def end(self, clients: Sequence[int] | None = None) -> dict[int, Ended]:
        """End the streams of some clients, or of all, after the steps under way; their tokens hold no more.

        Return how the round was for each.
        """
        with self._lock:
            sessions = {
                token: session
                for token, session in self._sessions.items()
                if clients is None or session.client in clients
            }
            for token in sessions:
                del self._sessions[token]
        self._server.release()
        ended = {}
        for session in sessions.values():
            with session.lock:
                ended[session.client] = Ended(session.asks, session.finished, session.bytes_up, session.bytes_down)
                session.finished = session.ended = True
                self._forget(session)
            if session.context is not None:
                session.context.cancel()
        return ended

    def Train(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802 (the stub's name)
        """Serve one stream."""
        try:
            yield from self._train(request_iterator, context)
        except EdgekitError as error:
            log.warning("a split stream from %s is refused: %s", context.peer(), error)
            known = isinstance(error, _UnknownError)
            code = grpc.StatusCode.UNAUTHENTICATED if known else grpc.StatusCode.INVALID_ARGUMENT
            context.abort(code, str(error))
        except Exception:
            if not context.is_active():
                return  # it went
            log.exception("a step of split learning failed: please report it")
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the step failed at the server; its log says why")

    def knows(self, token: bytes) -> bool:
        """Return whether a token is of a round that runs."""
        with self._lock:
            return self._with(token) is not None

    def _with(self, token: bytes) -> _Session | None:
        return next((s for t, s in self._sessions.items() if hmac.compare_digest(t, token)), None)

    def _train(self, messages: Iterator[Any], context: Any) -> Iterator[Any]:
        timer = threading.Timer(HELLO_SECONDS, context.cancel)
        timer.daemon = True
        timer.start()
        try:
            hello = next(messages, None)
        finally:
            timer.cancel()
        if hello is None or hello.WhichOneof("body") != "hello":
            raise RefusedError("hello was expected")
        hello = hello.hello
        if hello.protocol != PROTOCOL:
            raise RefusedError(f"this server speaks version {PROTOCOL} of the split protocol: install its edgekit")
        session = self._come_in(hello, context)
        with self._held(session, hello.attempt, context):  # an older stream's step under way is finished first
            asks = session.asks
            missing = [answer for answer in session.answers if answer.answer.number > hello.answers]
        if hello.answers > asks or len(missing) != asks - hello.answers:
            raise RefusedError("the device and the server do not agree on which steps were made")
        yield pb.FromServer(welcome=pb.Welcome(protocol=PROTOCOL, asks=asks))
        yield from missing
        for message in messages:
            kind = message.WhichOneof("body")
            if kind not in ("ask", "finish"):
                raise RefusedError("a step was expected")
            with self._held(session, hello.attempt, context):
                if kind == "finish":
                    if session.ended:
                        raise RefusedError("this device's round has ended")
                    session.finished = True
                    self._forget(session)
                    answer = pb.FromServer(finished=pb.Finished())
                else:
                    try:
                        answer = self._step(session, message.ask)
                    except EdgekitError:
                        session.context = None  # this stream ends by itself, and says why
                        raise
            yield answer
            if kind == "finish":
                return

    @contextlib.contextmanager
    def _held(self, session: _Session, attempt: int, context: Any) -> Iterator[None]:
        """Hold a session; who is not its newest stream any more does not wait for it, and takes up no thread."""
        while not session.lock.acquire(timeout=LOOK_SECONDS):
            if session.attempt != attempt or not context.is_active():
                raise RefusedError("this device is connected elsewhere")
        try:
            if session.attempt != attempt:
                raise RefusedError("this device is connected elsewhere")
            yield
        finally:
            session.lock.release()

    def _step(self, session: _Session, ask: Any) -> Any:
        if session.finished:
            raise RefusedError("this device's round has ended")
        if ask.number != session.asks + 1:
            raise RefusedError(f"message {session.asks + 1} was expected, not {ask.number}")
        shape, most = self._server.expects(session.client, ask.step, backward=ask.backward)
        answer = self._server.answer(session.client, read_asked(ask, self._codec, shape, most))
        session.asks += 1
        session.bytes_up += size_of(ask.array) + len(ask.labels)
        found = pb.FromServer(answer=pack_answer(answer, session.asks, self._codec))
        session.bytes_down += size_of(found.answer.array)
        session.answers.append(found)
        while len(session.answers) > 2 * self._window:  # of each batch under way, two answers at most
            session.answers.popleft()
        return found

    def _come_in(self, hello: Any, context: Any) -> _Session:
        """Return a device's session; its older stream ends."""
        with self._lock:
            session = self._with(_token(context.invocation_metadata()))
            if session is None:
                raise _UnknownError(UNKNOWN)
            if hello.attempt <= session.attempt:
                raise _UnknownError("this token is in use elsewhere, or used up")
            older, session.attempt, session.context = session.context, hello.attempt, context
        if older is not None:
            older.cancel()
        return session

    def _forget(self, session: _Session) -> None:
        session.answers.clear()
        self._server.forget(session.client)


def _token(metadata: Sequence[tuple[str, str | bytes]] | None) -> bytes:
    found = dict(metadata or ()).get(TOKEN, b"")
    return found if isinstance(found, bytes) else b""


class _Doorkeeper(grpc.ServerInterceptor):
    """Sends away who has no token, before anything is read of what he sends."""

    def __init__(self, service: SplitService) -> None:
        self._service = service

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        if self._service.knows(_token(details.invocation_metadata)):
            return continuation(details)
        return grpc.stream_stream_rpc_method_handler(_refuse)


def _refuse(_: Iterator[Any], context: Any) -> Iterator[Any]:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, UNKNOWN)
    yield


class _UnknownError(RefusedError):
    """Nobody who may take part."""


Keys = Callable[[], tuple[bytes, bytes]]
"""Gives the server's key and certificate (PEM), as they are now."""


def listen(service: SplitService, address: str, devices: int, keys: Keys | None) -> tuple[Any, int]:
    """Serve; return gRPC's server, and the port.

    Args:
        service: to serve.
        address: host:port to bind; port 0 takes a free one.
        devices: that may be connected at once.
        keys: asked at each connection, since certificates are renewed; None for no TLS.

    Raises:
        ServeError: somebody else listens there.
    """
    threads = devices + SPARE_STREAMS
    server = grpc.server(
        futures.ThreadPoolExecutor(threads),
        options=[
            *OPTIONS,
            ("grpc.so_reuseport", 0),
            ("grpc.server_handshake_timeout_ms", int(1000 * HELLO_SECONDS)),
            ("grpc.max_connection_idle_ms", int(1000 * IDLE_SECONDS)),
        ],
        interceptors=[_Doorkeeper(service)],
        maximum_concurrent_rpcs=threads,
    )
    stubs.add_SplitServicer_to_server(service, server)
    try:
        if keys is None:
            port = server.add_insecure_port(address)
        else:
            given = keys

            def certificate() -> Any:
                return grpc.ssl_server_certificate_configuration([given()])

            credentials = grpc.dynamic_ssl_server_credentials(certificate(), certificate, False)
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        raise ServeError(f"cannot listen on {address}: is another server running there?") from None
    server.start()
    return server, port
