"""The coordinator's side of learning with parties: it joins what they make of people, over a stream to each."""

from edgekit.algorithms.parties.server import VerticalServer
from edgekit.algorithms.split.service import Ended, Keys, SplitService, listen
from edgekit.algorithms.split.settings import Split
from edgekit.arrays import Weights
from edgekit.clients.node.task_facts import PartyFacts, VerticalFacts
from edgekit.data.federated import Integers
from edgekit.data.vertical import VerticalDataset
from edgekit.local_settings import LocalSettings
from edgekit.models.vertical import VerticalNetwork


class PartyHost:
    """The coordinator's side: it joins what the parties make of people, over a stream to each.

    Args:
        split: the experiment's section.
        model: the network.
        dataset: the coordinator's own.
        address: host:port to listen on.
        keys: of the server; None for no TLS.

    Attributes:
        facts: what the parties need to know.
        like: arrays of the names and shapes that each party's network has.
        port: where it listens.

    Raises:
        ServeError: somebody else listens there.
    """

    def __init__(
        self, split: Split, model: VerticalNetwork, dataset: VerticalDataset, address: str, keys: Keys | None
    ) -> None:
        networks, top = model.in_parts()
        self._server = VerticalServer(top, len(networks), split.embedding, split.window)
        self._service = SplitService(self._server, split.codec, split.window)
        self._grpc, self.port = listen(self._service, address, 2 * len(networks), keys)
        self.like: list[Weights] = [
            {name: array.numpy() for name, array in network.state_dict().items()} for network in networks
        ]
        self.facts = VerticalFacts(
            parties=tuple(
                PartyFacts(
                    name=table.name,
                    shape=table.x.shape[1:],
                    parameters={name: array.shape for name, array in like.items()},
                )
                for table, like in zip(dataset.parties, self.like, strict=True)
            ),
            embedding=split.embedding,
            codec=split.codec,
            window=split.window,
            coverage=split.coverage,
        )
        self._up = self._down = 0

    def begin(self, weights: Weights, settings: LocalSettings, seed: int, labels: list[Integers]) -> list[bytes]:
        """Begin a round; return each party's one-time token."""
        self._server.begin(weights, settings, seed, labels)
        return [self._service.admit(place) for place in range(len(self.like))]

    def release(self) -> None:
        """Let nobody wait for others any longer."""
        self._server.release()

    def has_finished(self, place: int) -> bool:
        """Return whether a party has said on its stream that it is done."""
        return self._service.has_finished(place)

    def late(self) -> list[int]:
        """Return the places of the parties that are furthest behind."""
        return self._server.late()

    def end(self) -> tuple[dict[int, Ended], Weights]:
        """End the round; return how it was for each party, and the weights that join them."""
        ended = self._service.end()
        self._up += sum(one.bytes_up for one in ended.values())
        self._down += sum(one.bytes_down for one in ended.values())
        return ended, self._server.weights()

    def take_traffic(self) -> tuple[int, int]:
        """Return the bytes of the streams, up and down, since the last time."""
        found, self._up, self._down = (self._up, self._down), 0, 0
        return found

    def close(self) -> None:
        """Stop listening."""
        self._server.release()
        self._grpc.stop(0)
