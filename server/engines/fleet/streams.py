"""Split learning with a fleet: the split server beside Flower's rounds, which bring each node its address and token."""

import secrets
from collections.abc import Sequence

from torch import nn

from edgekit.arrays import Weights
from edgekit.asks import LocalSettings, Trained
from edgekit.clients.node.task import SplitFacts
from edgekit.clients.split.cohort import whole
from edgekit.data import FederatedDataset
from edgekit.experiment import Split
from edgekit.server.split import in_parts
from edgekit.server.split_stream import Ended, Keys, SplitService, listen

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
        device_like: arrays of the shapes and names that nodes have.
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
        self.sequential = split.order == "sequential"
        self.device_like: Weights = self.plan.device_like
        self._shared = split.halves == "shared"
        self._devices = 0
        self._between: list[Weights] = []
        self._up = self._down = 0

    def own(self, weights: Weights) -> Weights:
        """Return what of a network's weights a device is sent."""
        return {name: weights[name] for name in self.device_like}

    def begin(self, examples: Sequence[int], weights: Weights, settings: LocalSettings) -> list[bytes]:
        """Begin a round with devices of so many examples (for `dp-sgd`); return each one's one-time token."""
        self._server.begin(weights, settings, secrets.randbits(256), examples)
        self._devices = len(examples)
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
        self._between = [self._server.weights(place) for place in range(1 if self._shared else self._devices)]
        self._server.finish()

    def forget(self) -> None:
        """Let go of the server's part: all updates have it."""
        self._between = []

    def whole(self, place: int, arrays: Weights, weights: Weights) -> Weights:
        """Return a device's arrays together with the server's part, after the round, as weights of the network."""
        return whole(Trained(arrays, 1, None), self._between[0 if self._shared else place], weights).arrays

    def take_traffic(self) -> tuple[int, int]:
        """Return the bytes of the streams, up and down, since the last time."""
        found, self._up, self._down = (self._up, self._down), 0, 0
        return found

    def close(self) -> None:
        """Stop listening."""
        self._grpc.stop(0)
