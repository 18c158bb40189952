"""The split server's gRPC service: sessions by one-time token, which outlive broken links but not their round."""

import hmac
import logging
import secrets
import threading
from collections import deque
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc

from edgekit.errors import EdgekitError, RefusedError
from edgekit.server.split import SplitServer
from edgekit.split import split_pb2 as pb
from edgekit.split import split_pb2_grpc as stubs
from edgekit.split.codec import Codec
from edgekit.split.wire import OPTIONS, PROTOCOL, pack_answer, read_asked

log = logging.getLogger("edgekit.split")

TOKEN_BYTES = 32


@dataclass
class _Session:
    """One device in one round."""

    client: int
    asks: int = 0
    answers: deque[Any] = field(default_factory=deque)
    finished: bool = False
    connection: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class SplitService(stubs.SplitServicer):
    """Answers devices' streams.

    Args:
        server: trains the part between.
        codec: how arrays travel.
        window: batches of a device under way at once.
    """

    def __init__(self, server: SplitServer, codec: Codec, window: int) -> None:
        self._server, self._codec, self._window = server, codec, window
        self._lock = threading.Lock()
        self._sessions: dict[bytes, _Session] = {}

    def admit(self, client: int) -> bytes:
        """Let a client take part in the round; return its token."""
        token = secrets.token_bytes(TOKEN_BYTES)
        with self._lock:
            self._sessions[token] = _Session(client)
        return token

    def end_round(self) -> None:
        """No token holds any more."""
        with self._lock:
            sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.finished = True

    def Train(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802 (the stub's name)
        """Serve one stream."""
        try:
            yield from self._train(request_iterator)
        except EdgekitError as error:
            log.warning("a split stream from %s is refused: %s", context.peer(), error)
            known = isinstance(error, _UnknownError)
            code = grpc.StatusCode.UNAUTHENTICATED if known else grpc.StatusCode.INVALID_ARGUMENT
            context.abort(code, str(error))

    def _train(self, messages: Iterator[Any]) -> Iterator[Any]:
        hello = _next(messages, "hello")
        if hello.protocol != PROTOCOL:
            raise RefusedError(f"this server speaks version {PROTOCOL} of the split protocol: install its edgekit")
        session = self._session(hello.token)
        with session.lock:  # of an older stream of the same device, the step under way is finished first
            session.connection += 1
            mine, asks = session.connection, session.asks
            missing = [answer for answer in session.answers if answer.answer.number > hello.answers]
        if hello.answers > asks or len(missing) != asks - hello.answers:
            raise RefusedError("the device and the server do not agree on which steps were made")
        yield pb.FromServer(welcome=pb.Welcome(protocol=PROTOCOL, asks=asks))
        yield from missing
        for message in messages:
            if message.WhichOneof("body") == "finish":
                session.finished = True
                yield pb.FromServer(finished=pb.Finished())
                return
            if message.WhichOneof("body") != "ask":
                raise RefusedError("a step was expected")
            with session.lock:
                if session.connection != mine or session.finished:
                    raise RefusedError("this device is connected elsewhere, or its round has ended")
                if message.ask.number != session.asks + 1:
                    raise RefusedError(f"message {session.asks + 1} was expected, not {message.ask.number}")
                answer = self._server.answer(session.client, read_asked(message.ask))
                session.asks += 1
                found = pb.FromServer(answer=pack_answer(answer, session.asks, self._codec))
                session.answers.append(found)
                while len(session.answers) > 2 * self._window:  # of each batch under way, two answers at most
                    session.answers.popleft()
            yield found

    def _session(self, token: bytes) -> _Session:
        with self._lock:
            for known, session in self._sessions.items():
                if hmac.compare_digest(known, token) and not session.finished:
                    return session
        raise _UnknownError("this token is of no round that runs, or was used up")


class _UnknownError(RefusedError):
    """Nobody who may take part."""


def _next(messages: Iterator[Any], wanted: str) -> Any:
    message = next(messages, None)
    if message is None or message.WhichOneof("body") != wanted:
        raise RefusedError(f"{wanted} was expected")
    return getattr(message, wanted)


def listen(service: SplitService, address: str, devices: int, keys: tuple[bytes, bytes] | None) -> tuple[Any, int]:
    """Serve; return gRPC's server, and the port.

    Args:
        service: to serve.
        address: host:port to bind; port 0 takes a free one.
        devices: that may be connected at once.
        keys: the server's key and certificate (PEM); None for no TLS.
    """
    server = grpc.server(futures.ThreadPoolExecutor(devices + 4), options=OPTIONS)
    stubs.add_SplitServicer_to_server(service, server)
    if keys is None:
        port = server.add_insecure_port(address)
    else:
        port = server.add_secure_port(address, grpc.ssl_server_credentials([keys]))
    server.start()
    return server, port
