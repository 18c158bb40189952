"""Split learning with a fleet: the split server beside Flower's rounds, which bring each node its address and token."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flwr.app import Message
from torch import nn

from edgekit.algorithms.base import with_mu
from edgekit.algorithms.split.server import in_parts
from edgekit.algorithms.split.service import Ended, Keys, SplitService, listen
from edgekit.algorithms.split.settings import Split
from edgekit.algorithms.split.simulated import whole
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Ask
from edgekit.clients.node.task_facts import SplitFacts
from edgekit.data import FederatedDataset
from edgekit.flower import CLIENT_RAISED
from edgekit.flower.parcel import error_reply
from edgekit.local_settings import LocalSettings
from edgekit.server.engines.fleet.nodes import NodeState

MINIMUM_SECONDS = 1.0
"""That a node has for a round, however late it is."""
MOST_DEVICES = 500
"""Streams at a time; each has a thread."""


class SplitHost:
    """The server's side of a network's parts, for the nodes of each round.

    Args:
        split: the experiment's section, with a cut.
        model: the network.
        dataset: the coordinator's own.
        address: host:port to listen on.
        keys: of the server; None for no TLS.

    Attributes:
        facts: what nodes need to know of it.
        plan: the device's side.
        trainer: how nodes train, for people.
        device_like: arrays of the shapes and names that nodes have.
        own_bytes: their size.
        port: where it listens.

    Raises:
        ModelError: the network cannot be cut there.
        ServeError: somebody else listens there.
    """

    def __init__(
        self, split: Split, model: nn.Module, dataset: FederatedDataset, address: str, keys: Keys | None
    ) -> None:
        self.plan, self._server = in_parts(split, model, dataset)
        self._service = SplitService(self._server, split.codec, split.window)
        self._grpc, self.port = listen(self._service, address, MOST_DEVICES, keys)
        self.facts = SplitFacts(
            cuts=tuple(self.plan.names),
            codec=split.codec,
            window=split.window,
            crossing=tuple(self.plan.terms.crossing),
            activation_clip=split.activation_clip,
            no_peek=split.no_peek,
        )
        self.trainer = f"split learning, cut behind {self.plan.names[0]}"
        self.sequential = split.order == "sequential"
        self.device_like: Weights = self.plan.device_like
        self._shared = split.halves == "shared"
        self.own_bytes = sum(array.nbytes for array in self.device_like.values())
        self._places: dict[int, int] = {}
        self._between: list[Weights] = []
        self._up = self._down = 0

    def own(self, weights: Weights) -> Weights:
        """Return what of a network's weights a device is sent."""
        return {name: weights[name] for name in self.device_like}

    def begin(self, examples: Mapping[int, int], weights: Weights, settings: LocalSettings) -> list[bytes]:
        """Begin a round with nodes of so many examples (for `dp-sgd`); return each one's one-time token."""
        self._server.begin(weights, settings, secrets.randbits(256), list(examples.values()))
        self._places = {node: place for place, node in enumerate(examples)}
        return [self._service.admit(place) for place in range(len(examples))]

    def end(self, places: Sequence[int]) -> dict[int, Ended]:
        """End the round for some devices; return how it was for each."""
        ended = self._service.end(places)
        self._up += sum(one.bytes_up for one in ended.values())
        self._down += sum(one.bytes_down for one in ended.values())
        return ended

    def end_round(self) -> None:
        """End the round for whoever is left, and keep the server's part as it is."""
        self._service.end()
        self._between = [self._server.weights(place) for place in range(1 if self._shared else len(self._places))]
        self._server.finish()

    def forget(self) -> None:
        """Let go of the server's part: all updates have it."""
        self._between = []

    def whole(self, node: int, arrays: Weights, weights: Weights) -> Weights:
        """Return a node's arrays together with the server's part, after the round, as weights of the network."""
        place = self._places[node]
        return whole(arrays, self._between[0 if self._shared else place], weights)

    def take_traffic(self) -> tuple[int, int]:
        """Return the bytes of the streams, up and down, since the last time."""
        found, self._up, self._down = (self._up, self._down), 0, 0
        return found

    def close(self) -> None:
        """Stop listening."""
        self._grpc.stop(0)


def stream(
    split: SplitHost,
    asks: Mapping[int, Ask],
    seconds: float,
    state: Callable[[int], NodeState],
    send: Callable[[Mapping[int, Ask], float, Mapping[int, Mapping[str, Any]]], list[tuple[Message, Message]]],
) -> tuple[list[tuple[Message, Message]], bool]:
    """Send a round's asks and serve the streams that they begin.

    One node after the other, each has its share of the time that is left.

    Args:
        split: the server's side.
        asks: by node.
        seconds: that the round may take.
        state: what is known of a node.
        send: sends asks with further facts, and waits for the replies.

    Returns:
        (message, reply) for each, and whether anybody sent anything.
    """
    nodes = sorted(asks)
    first = asks[nodes[0]]
    weights = first.bundles[WEIGHTS]
    own = {node: replace(ask, bundles={WEIGHTS: split.own(weights)}) for node, ask in asks.items()}
    end = time.monotonic() + seconds
    tokens = split.begin({node: state(node).examples for node in nodes}, weights, with_mu(first))
    exchanged: list[tuple[Message, Message]] = []
    ended: dict[int, Ended] = {}
    groups = [[place] for place in range(len(nodes))] if split.sequential else [list(range(len(nodes)))]
    try:
        for number, group in enumerate(groups):
            share = max(MINIMUM_SECONDS, (end - time.monotonic()) / (len(groups) - number))
            more = {
                nodes[place]: {"split": {"port": split.port, "token": tokens[place], "seconds": share}}
                for place in group
            }
            exchanged += send({node: own[node] for node in more}, share, more)
            ended |= split.end(group)
    finally:
        split.end_round()
    found = []
    for message, reply in exchanged:
        node = message.metadata.dst_node_id
        known, one = state(node), ended[nodes.index(node)]
        known.bytes_up += one.bytes_up
        known.bytes_down += one.bytes_down
        if not (reply.has_error() or one.finished):
            reply = error_reply(CLIENT_RAISED, "it sent an update before its stream had ended", message)
        found.append((message, reply))
    return found, any(one.asks for one in ended.values())
