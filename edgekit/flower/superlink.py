"""Flower's SuperLink as a web application of ours, its Control API, and the app that it runs.

The SuperLink's three APIs share one port, and its Control API, through which whole programs are started, asks nobody
who he is. So `server/deployment/superlink.py` shows the network the Fleet API alone, and keeps the rest on loopback.
"""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import httpx
from fastapi import HTTPException
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import TRANSPORT_TYPE_GRPC_RERE, Status
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError
from starlette.requests import Request

from edgekit.arrays import as_arrays, as_contents, from_bytes, to_bytes
from edgekit.errors import EdgekitError, RefusedError, ServeError
from edgekit.flower.fleet import EXCHANGED_BYTES
from edgekit.flower.parcel import Parcel

SECRET_HEADER = "edgekit-secret"
"""Header of requests to the Control API: proof that they come from the coordinator's own processes."""
FLEET_PATHS = "/v1/fleet/"
"""What nodes may reach of the SuperLink."""
NOT_FOR_NODES = ("/v1/fleet/register-node", "/v1/fleet/unregister-node")
"""Nodes are made known by enrolment alone."""
ARRIVAL_PATHS = ("/v1/runtime/push-messages", "/v1/runtime/push-object")
"""Requests of a server app that bring messages for nodes."""
MOST_ANSWERED = 100_000
"""Messages whose answer is remembered, to refuse a second one."""
RUNNING = (Status.PENDING, Status.STARTING, Status.RUNNING)


def superlink_app(database: Path, superexec_secret: bytes) -> Any:
    """Return Flower's SuperLink as an ASGI application.

    Args:
        database: its sqlite file; made if it is not there.
        superexec_secret: that the external SuperExec proves itself with.
    """
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig, load_control_authn_plugin
    from flwr.superlink.main import create_app

    allow_spaces()
    config = SuperLinkLifespanConfig(
        control_address="127.0.0.1:0",  # of the gRPC API, which is off
        health_server_address=None,
        host="127.0.0.1",
        port=1,
        insecure=True,  # TLS is the business of who serves this application
        certificates=None,
        superexec_auth_secret=superexec_secret,
        authn_plugin=load_control_authn_plugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(database),
        isolation="process",
        runtime_dependency_install=False,
    )
    return create_app(config, SuperLinkLifespan)


def allow_spaces() -> None:
    """Let Flower make its database where it is installed in a folder with a space in its name.

    It hands Alembic the folders of its migrations as one text, cut at spaces.
    """
    from flwr.supercore.state.alembic import utils

    made = utils.build_alembic_config

    def build_alembic_config(engine: Any) -> Any:
        config = made(engine)
        places = [utils.ALEMBIC_DIR / "versions", *utils._version_locations]
        config.set_main_option("path_separator", "os")
        config.set_main_option("version_locations", os.pathsep.join(str(place).replace("%", "%%") for place in places))
        return config

    utils.build_alembic_config = build_alembic_config


class Exchange:
    """Whole messages for nodes, in one request each: Flower's own handlers, called one after the other.

    Over the Fleet API a message costs a node nine requests, and each of them Flower's authentication and middleware.

    Args:
        superlink: what `superlink_app` returned.
    """

    def __init__(self, superlink: Any) -> None:
        self._superlink = superlink
        self._answered: OrderedDict[str, None] = OrderedDict()

    def authenticate(self, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """See that a question for the next message is signed by the node that it names.

        Raises:
            RefusedError: it is not.
        """
        self._authenticate(headers, _parsed(PullMessagesRequest, body))

    def next(self, headers: list[tuple[bytes, bytes]], body: bytes) -> tuple[str, bytes] | None:
        """Return the next message for a node, None if there is none.

        Args:
            headers: of the node's request, signed as for the Fleet API.
            body: a PullMessagesRequest.

        Returns:
            Its id, and arrays of bytes (safetensors): `response`, a PullMessagesResponse, and objects by hash, as
            many as fit.

        Raises:
            RefusedError: the request is not signed by the node that it names.
        """
        request = _parsed(PullMessagesRequest, body)
        self._authenticate(headers, request)
        state = self._superlink.state.linkstate_factory.state()
        response = fleet_handlers.pull_messages(request, state, state.object_store)
        if not response.messages_list:
            return None
        run_id = response.messages_list[0].metadata.run_id
        held = {"response": response.SerializeToString()}
        size = 0
        for tree in iterate_object_tree(response.message_object_trees[0]):
            content = state.get_object(run_id, tree.object_id) or b""
            size += len(content)
            if size > EXCHANGED_BYTES:
                break
            if content:
                held[tree.object_id] = content
        parcel = to_bytes(as_arrays(held))
        return response.messages_list[0].metadata.message_id, parcel

    def take(self, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Take a node's reply with all its objects; return whether it was still wanted.

        Args:
            headers: of the node's request.
            body: arrays of bytes: `request`, a PushMessagesRequest, and objects by hash.

        Raises:
            RefusedError: it cannot be read, or is not signed by the node that it names.
        """
        try:
            held = as_contents(from_bytes(body)[0])
        except EdgekitError as error:
            raise RefusedError(str(error)) from None
        request = _parsed(PushMessagesRequest, held.pop("request", b""))
        self._authenticate(headers, request)
        state = self._superlink.state.linkstate_factory.state()
        # Whole and sound before Flower stores anything: a reply without its objects would keep the server app waiting.
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise RefusedError("one reply at a time can be taken")
        (tree,) = request.message_object_trees
        if {part.object_id for part in iterate_object_tree(tree)} != set(held):
            raise RefusedError("the reply does not come with its objects")
        Parcel(tree.object_id, held).open()
        if request.messages_list[0].metadata.src_node_id != request.node.node_id:
            raise RefusedError("the request is not signed by the node that it names")
        try:
            metadata = request.messages_list[0].metadata
            if metadata.reply_to_message_id in self._answered:  # Flower would take it a second time
                return False
            response = fleet_handlers.push_messages(request, state)
            for name in response.objects_to_push:
                if not state.store_object(metadata.run_id, response.session_id, name, held[name]):
                    return False
            state.object_store.delete(metadata.reply_to_message_id)  # the message has arrived
            self._answered[metadata.reply_to_message_id] = None
            while len(self._answered) > MOST_ANSWERED:
                self._answered.popitem(last=False)
        except FlowerError:
            return False  # the run has ended, or the message was answered
        except (KeyError, IndexError, ValueError) as error:
            raise RefusedError(f"a reply cannot be taken: {type(error).__name__}: {error}") from None
        return True

    def _authenticate(self, headers: list[tuple[bytes, bytes]], message: Any) -> None:
        request = Request({"type": "http", "headers": headers, "app": self._superlink, "state": {}})
        request.state.protobuf_request = message
        try:
            authenticate_node(request)
        except HTTPException:
            raise RefusedError("the request is not signed by the node that it names") from None


def _parsed(kind: Any, body: bytes) -> Any:
    message = kind()
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise RefusedError("a request cannot be read") from None
    return message


class _Secret:
    """Adds the secret to each request."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> Any:
        context.request.headers[SECRET_HEADER] = self._secret
        return call_next(context)


class Control:
    """The Control API of a SuperLink of ours.

    Args:
        port: on loopback.
        secret: that its processes share.
    """

    def __init__(self, port: int, secret: str) -> None:
        self._client = ControlHttpClient(f"http://127.0.0.1:{port}", interceptors=[_Secret(secret)])

    def register_node(self, public_key: bytes, name: str) -> int:
        """Make a node known by its public key (PEM, a NIST curve); return its id. A known key gives the same id."""
        request = RegisterNodeRequest(public_key=public_key, name=name)
        try:
            return int(self._call(self._client.RegisterNode, request).node_id)
        except ServeError:
            for node in self._call(self._client.ListNodes, ListNodesRequest()).nodes_info:
                if node.public_key == public_key:
                    return int(node.node_id)
            raise

    def unregister_node(self, node_id: int) -> None:
        """Forget a node: its requests are refused from now on."""
        self._call(self._client.UnregisterNode, UnregisterNodeRequest(node_id=node_id))

    def start_run(self, settings: dict[str, str]) -> int:
        """Start a run of our server app; return its id."""
        fab = fab_to_proto(Fab(*app_bundle(settings), {}))
        return int(self._call(self._client.StartRun, StartRunRequest(fab=fab)).run_id)

    def run_state(self, run_id: int) -> tuple[str, str]:
        """Return a run's status and, once it has ended, how: ("finished", "completed")."""
        runs = self._call(self._client.ListRuns, ListRunsRequest(run_id=run_id)).run_dict
        if run_id not in runs:
            return Status.FINISHED, "unknown"
        status = runs[run_id].status
        return str(status.status), str(status.sub_status)

    def stop_runs(self) -> None:
        """Stop every run that has not ended."""
        for run_id, run in self._call(self._client.ListRuns, ListRunsRequest()).run_dict.items():
            if run.status.status in RUNNING:
                self._call(self._client.StopRun, StopRunRequest(run_id=run_id))

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request)
        except httpx.HTTPStatusError as error:
            raise ServeError(f"the SuperLink refused: {' '.join(error.response.text.split())[:300]}") from None
        except httpx.HTTPError as error:
            raise ServeError(f"the SuperLink does not answer: {error or type(error).__name__}") from None


def app_bundle(settings: dict[str, str]) -> tuple[str, bytes]:
    """Return Flower's bundle of our apps, (hash, content): a manifest only, since the code is installed.

    Args:
        settings: run configuration of the apps, texts by name.
    """
    import hashlib

    import tomli_w

    manifest = {
        "project": {"name": "edgekit-federation", "version": "1.0.0", "license": {"text": "Apache-2.0"}},
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "edgekit",
                    "components": {
                        "serverapp": "edgekit.pipeline.serving:app",
                        "clientapp": "edgekit.clients.node.flower_app:app",
                    },
                    "config": settings,
                }
            }
        },
    }
    content, _ = build_fab_from_files({"pyproject.toml": tomli_w.dumps(manifest).encode()})
    return hashlib.sha256(content).hexdigest(), content
