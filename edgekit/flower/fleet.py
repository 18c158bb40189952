"""The node's end of Flower's Fleet API: authenticated, in one warm process, without Flower's worker loop.

Flower's own `flower-supernode` starts a process for every message and polls every three seconds. This speaks the same
protocol (protobuf over HTTP, objects by their hash) with the same client classes, so the SuperLink sees no difference.
"""

import re
import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import DecodeError

from edgekit.arrays import as_arrays, as_contents, from_bytes, to_bytes
from edgekit.errors import EdgekitError, LinkDownError, RefusedError, StaleError
from edgekit.flower.parcel import Parcel

HAS_HEADER = "edgekit-has"
"""Header of a question for the next message: the one that the node got last, so that none is lost on the way."""
NEXT_PATH, REPLY_PATH = "/edgekit/next", "/edgekit/reply"
"""Where a coordinator of edgekit's exchanges whole messages (`superlink.Exchange`)."""
EXCHANGED_BYTES = 6 << 20
"""Objects that go along with a message; more are fetched or sent one by one."""
HEARTBEAT_SECONDS = 15.0
"""How often the SuperLink wants to hear of a node; it counts as gone after two such intervals."""
ARRIVAL_SECONDS = 60.0
"""How long a message's content may take to arrive after the message."""
MOST_BYTES = 256 << 20
"""Messages beyond this size are not taken: a node's memory is small."""
WAIT_SECONDS = 25.0
"""How long the coordinator may hold a question for the next message."""
T = TypeVar("T")


class NotThereError(LinkDownError):
    """The coordinator does not have what was asked for."""


class FleetLink:
    """One node's connection to a SuperLink.

    Args:
        address: `host:port`.
        authority: certificate authority that the server's certificate must come from, PEM; None means no TLS.
        key: the node's own (a NIST curve); it signs every request and never leaves this process.
        timeout: of one request, in seconds.
    """

    def __init__(
        self, address: str, authority: bytes | None, key: ec.EllipticCurvePrivateKey, timeout: float = 30.0
    ) -> None:
        self._public = key.public_key()
        self._signer = NodeAuthHttpInterceptor(key, self._public)
        self._base = f"{'http' if authority is None else 'https'}://{address}"
        self._timeout = timeout
        verify = True if authority is None else trusting(authority)
        self._client = FleetHttpClient(
            self._base,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperNode"), self._signer],
            verify=verify,
            timeout=timeout,
        )
        self._http = httpx.Client(verify=verify, timeout=timeout)
        self._whole, self._last = True, ""
        self.node_id = 0

    def register(self) -> None:
        """Make this node known, where the SuperLink lets nodes do so themselves (without TLS)."""
        self._call(self._client.RegisterNode, RegisterNodeFleetRequest(public_key=public_key_to_bytes(self._public)))

    def activate(self, node_id: int = 0) -> int:
        """Come online; return the node's id.

        Args:
            node_id: of this node, if it is known: one that was killed still counts as online for a minute, and the
                SuperLink does not let it in before it has gone offline.

        Raises:
            LinkDownError: the SuperLink cannot be reached.
            RefusedError: it does not know this node, or the clocks differ.
        """
        request = ActivateNodeRequest(
            public_key=public_key_to_bytes(self._public), heartbeat_interval=HEARTBEAT_SECONDS
        )
        try:
            self.node_id = self._call(self._client.ActivateNode, request).node_id
        except LinkDownError:
            if not node_id:
                raise
            self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=node_id))
            self.node_id = self._call(self._client.ActivateNode, request).node_id
        return self.node_id

    def heartbeat(self) -> None:
        """Say that this node is there."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_SECONDS)
        if not self._call(self._client.SendNodeHeartbeat, request).success:
            raise RefusedError("the coordinator does not know this node any more")

    def pull(self, keep: Callable[[Parcel], None] = lambda parcel: None) -> Parcel | None:
        """Fetch the next message, or None.

        Args:
            keep: called with it before the SuperLink is told that it arrived, to keep it over a crash.
        """
        response, objects = self._next()
        if not response.messages_list:
            return None
        try:
            metadata = message_from_proto(response.messages_list[0]).metadata
            (tree_of_all,) = response.message_object_trees
        except Exception as error:  # Flower's decoders raise many kinds
            raise LinkDownError(f"the coordinator's message cannot be read: {type(error).__name__}") from None
        if not re.fullmatch(r"[0-9a-f]{64}", metadata.message_id):
            raise LinkDownError("the coordinator's message has no proper name")
        total = sum(map(len, objects.values()))
        for tree in iterate_object_tree(tree_of_all):
            if tree.object_id not in objects:
                try:
                    objects[tree.object_id] = self._object(metadata.run_id, tree.object_id)
                except StaleError:
                    self._last = metadata.message_id  # its round has ended: it is not to be offered again
                    raise
                total += len(objects[tree.object_id])
            if total > MOST_BYTES:
                self._last = metadata.message_id
                raise RefusedError(f"a message of more than {MOST_BYTES >> 20} MiB was not taken")
        parcel = Parcel(metadata.message_id, objects)
        keep(parcel)
        self._last = parcel.message_id
        if not self._whole:  # else it is confirmed with the reply
            confirmation = ConfirmMessageReceivedRequest(
                node=self._node, run_id=metadata.run_id, message_object_id=metadata.message_id
            )
            self._call(self._client.ConfirmMessageReceived, confirmation)
        return parcel

    def push(self, reply: Message, seconds: float = 0.0) -> None:
        """Send a reply.

        Args:
            reply: to a message that was pulled.
            seconds: that the work took.

        Raises:
            StaleError: nobody waits for it any more.
        """
        with no_object_id_recompute():
            objects = {name: thing.deflate() for name, thing in get_all_nested_objects(reply).items()}
            tree = get_object_tree(reply)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(_without_content(reply))],
                message_object_trees=[tree],
                clientapp_runtime_list=[seconds],
            )
        if self._whole and sum(map(len, objects.values())) <= EXCHANGED_BYTES:
            body = to_bytes(as_arrays({"request": request.SerializeToString(), **objects}))
            answered = self._post(REPLY_PATH, body, self._timeout)
            if answered == b"taken":
                return
            if answered is not None:
                raise StaleError("the round ended, or the message was answered before")
            self._whole = False  # no gate of edgekit's: by the Fleet API
        response = self._call(self._client.PushMessages, request)
        for name in response.objects_to_push:
            pushed = PushObjectRequest(
                node=self._node,
                run_id=reply.metadata.run_id,
                object_id=name,
                object_content=objects[name],
                session_id=response.session_id,
            )
            if not self._call(self._client.PushObject, pushed).stored:
                raise StaleError("the coordinator did not take the reply's content")

    def close(self) -> None:
        """Go offline."""
        try:
            if self.node_id:
                self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=self.node_id))
        except (LinkDownError, RefusedError, StaleError):
            pass  # then the SuperLink notices by itself, a minute later
        finally:
            self._client.close()
            self._http.close()

    @property
    def _node(self) -> Node:
        return Node(node_id=self.node_id)

    def _next(self) -> tuple[Any, dict[str, bytes]]:
        """Return a PullMessagesResponse, and the objects that came with it.

        A coordinator of edgekit's answers when there is a message, and sends it whole; any other SuperLink has the
        Fleet API alone.
        """
        request = PullMessagesRequest(node=self._node)
        if self._whole:
            content = self._post(NEXT_PATH, request.SerializeToString(), self._timeout + WAIT_SECONDS)
            if content is not None:
                if not content:
                    return PullMessagesResponse(), {}
                try:
                    held = as_contents(from_bytes(content)[0])
                    response = PullMessagesResponse.FromString(held.pop("response"))
                except (EdgekitError, KeyError, DecodeError) as error:
                    raise LinkDownError(f"the coordinator's answer cannot be read: {error}") from None
                return response, held
            self._whole = False
        return self._call(self._client.PullMessages, request), {}

    def _post(self, path: str, body: bytes, timeout: float) -> bytes | None:
        """Post to the coordinator's gate, signed as Flower signs; None if there is no such gate."""

        def send(asked: bytes) -> httpx.Response:
            request = self._http.build_request("POST", f"{self._base}{path}", content=asked, timeout=timeout)
            request.headers[HAS_HEADER] = self._last
            response: httpx.Response = self._signer.intercept(
                ProtobufRequestContext(path, Node(), request), lambda context: self._http.send(context.request)
            )
            response.raise_for_status()
            return response

        try:
            return self._call(send, body).content
        except NotThereError:
            return None

    @property
    def waits(self) -> bool:
        """Whether `pull` waits by itself until there is a message."""
        return self._whole

    def _object(self, run_id: int, name: str) -> bytes:
        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=name)
        end, pause = time.monotonic() + ARRIVAL_SECONDS, 0.02
        while time.monotonic() < end:
            response = self._call(self._client.PullObject, request)
            if not response.object_found:
                break
            if response.object_available:
                content: bytes = response.object_content
                return content
            time.sleep(pause)  # the coordinator is still uploading it
            pause = min(2 * pause, 1.0)
        raise StaleError("a message's content is not there (any more)")

    def _call(self, method: Callable[[Any], T], request: Any) -> T:
        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            code, text = error.response.status_code, _reason(error.response)
            if code == httpx.codes.UNAUTHORIZED:
                raise RefusedError("the coordinator refuses this node's signature") from None
            if code == httpx.codes.NOT_FOUND:
                raise NotThereError(f"the coordinator answered {code}: {text}") from None
            if code == httpx.codes.PRECONDITION_FAILED or code >= 500 or code == 429:
                raise LinkDownError(f"the coordinator answered {code}: {text}") from None
            if code in (httpx.codes.BAD_REQUEST, httpx.codes.CONFLICT, httpx.codes.FORBIDDEN):
                raise StaleError(f"the coordinator answered {code}: {text}") from None
            raise RefusedError(f"the coordinator answered {code}: {text}") from None
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            raise LinkDownError(f"the coordinator cannot be reached: {explain(error)}") from None
        except ValueError as error:
            raise LinkDownError(f"the coordinator's answer cannot be read: {error}") from None


def trusting(authority: bytes) -> ssl.SSLContext:
    """Return a TLS context that trusts this certificate authority (PEM) and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authority.decode("ascii"))
    return context


def explain(error: Exception) -> str:
    """Say in a few words why a connection failed: certificates expire, and hosts are away."""
    text = " ".join(str(error).split())
    if "certificate has expired" in text:
        return "its certificate has expired; restart edgekit serve, which renews it (or is this device's clock wrong?)"
    if "certificate is not yet valid" in text:
        return "its certificate is not valid yet: is this device's clock behind?"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"its certificate is not of the coordinator that this node joined ({text})"
    return text or type(error).__name__


def _without_content(message: Message) -> Message:
    from flwr.app.message import remove_content_from_message

    return remove_content_from_message(message) if message.has_content() else message


def _reason(response: httpx.Response) -> str:
    found = FlowerError.from_json(response.text)
    return str(found.message) if found else " ".join(response.text.split())[:200]
