"""Parties of a real fleet: nodes that hold different features of the same people, aligned and trained together."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Message, RecordDict

from edgekit import wire
from edgekit.arrays import Weights, problem_with, to_bytes
from edgekit.clients import LocalSettings, batches
from edgekit.clients.app import read_instructions, to_record
from edgekit.clients.node.delivery import Delivery
from edgekit.clients.node.party import NO_ALIGNMENT, rng_of
from edgekit.clients.node.task import PartyFacts, VerticalFacts
from edgekit.data.federated import Integers
from edgekit.data.vertical import VerticalDataset
from edgekit.errors import EdgekitError, RefusedError, TrainingError
from edgekit.experiment import Split
from edgekit.flower import CLIENT_RAISED
from edgekit.flower.fleet import error_reply
from edgekit.models.vertical import VerticalNetwork
from edgekit.privacy.intersection import Side, in_common, known_to_all
from edgekit.server.crew import Draw
from edgekit.server.fleet import QUESTION_SECONDS, WAITING_NOTICE_SECONDS, FleetCrew, metrics_of
from edgekit.server.split_stream import Ended, Keys, SplitService, listen
from edgekit.server.vertical import LACKS, VerticalServer

SECONDS_AN_ID = 3e-3
"""What a slow board takes for an id of its own and one of the coordinator's: so much longer it has to answer."""


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
        self._grpc, self.port = listen(self._service, address, len(networks), keys)
        self.like: list[Weights] = [
            {name: array.numpy() for name, array in network.state_dict().items()} for network in networks
        ]
        self.facts = VerticalFacts(
            parties=tuple(
                PartyFacts(
                    name=table.name,
                    shape=table.x.shape[1:],
                    columns=tuple(table.columns),
                    mean=tuple(table.scale.mean) if table.scale else (),
                    std=tuple(table.scale.std) if table.scale else (),
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
        self._grpc.stop(0)


class PartyCrew(FleetCrew):
    """The parties, each a node that knows by its owner which party it is. All take part in each round.

    Args:
        host: the coordinator's side.
        dataset: its labels.
        arguments: further ones of `FleetCrew`, by name.
    """

    def __init__(self, host: PartyHost, dataset: VerticalDataset, **arguments: Any) -> None:
        super().__init__(dataset=dataset, parameters={}, plan=None, **arguments)
        self.trainer = f"a real fleet of {len(host.like)} parties that hold different features"
        self._kinds = ("torch",)
        self._facts = self._facts.model_copy(update={"vertical": host.facts, "counts": False})
        self._host, self._ids, self._labels = host, dataset.ids, dataset.labels
        self._names = [party.name for party in host.facts.parties]
        self._party_of: dict[int, str] = {}
        self._alignments: dict[int, tuple[str, dict[int, int]]] = {}
        """Of each node: the alignment's name, and at which of the party's places the coordinator's rows are."""
        self._order: list[int] = []
        """The nodes of a round, in the order of the parties."""

    def choose(self, number: int, draw: Draw) -> list[int]:
        """Wait until all parties are there and aligned; return their nodes."""
        told: list[str] = []
        since = 0.0
        while True:
            there = {self._party_of[node]: node for node in self._there() if node in self._party_of}
            missing = [name for name in self._names if name not in there]
            if not missing and self._align(found := [there[name] for name in self._names]):
                self._order = found
                return list(found)
            if missing and (missing != told or time.monotonic() - since > WAITING_NOTICE_SECONDS):
                told, since = missing, time.monotonic()
                self._on_notice(f"round {number} waits for {', '.join(missing)}")
            time.sleep(self._pause())

    def train(self, messages: Iterable[Message]) -> list[Message]:
        """Train a round with all parties; each reply is the whole network, or says why there is none."""
        by_node = {message.metadata.dst_node_id: message for message in messages}
        ordered = [by_node[node] for node in self._order if node in by_node]
        if not ordered:
            return []
        if len(ordered) < len(self._order):
            raise TrainingError("all parties take part in each round: leave federation.cohort at 0")
        weights, settings, number = read_instructions(ordered[0])
        rows, places = known_to_all([self._alignments[node][1] for node in self._order])
        steps = batches.draw(len(rows), settings, rng_of(self._experiment.seed, number))
        own = self._labels[rows]
        tokens = self._host.begin(weights, settings, self._experiment.seed + number, [own[step] for step in steps])
        seconds = self._experiment.serve.deadline_seconds
        sent = []
        for place, message in enumerate(ordered):
            more = {
                "split": {"port": self._host.port, "token": tokens[place], "seconds": seconds},
                "alignment": self._alignments[self._order[place]][0],
                "places": places[place].astype("<i8").tobytes(),
            }
            content = to_bytes({name: weights[name] for name in self._host.like[place]})
            sent.append(self._packed(message, content, more))
            self._state(self._order[place]).bytes_down += len(content)

        def heard(reply: Message) -> None:
            if reply.has_error():
                self._host.release()  # without this party no step is made: the others need not wait

        replies = {reply_to.metadata.dst_node_id: reply for reply_to, reply in self._exchange(sent, seconds, heard)}
        ended, whole = self._host.end()
        problems: dict[int, str] = {}
        metrics = None
        for place, node in enumerate(self._order):
            state, stream = self._state(node), ended[place]
            state.bytes_up += stream.bytes_up
            state.bytes_down += stream.bytes_down
            try:
                letter = wire.read(replies[node])
                arrays = letter.weights()
                metrics = metrics_of(letter.facts)
                if problem := problem_with(arrays, self._host.like[place]):
                    raise RefusedError(problem)
                if not stream.finished:
                    raise RefusedError("it sent an update before its stream had ended")
                whole |= arrays
                state.last_seen = time.time()
                state.bytes_up += len(letter.content)
            except RefusedError as error:
                problems[node] = wire.one_line(error)
                self._let_go(node, replies[node], problems[node])
        found = []
        at_fault = [self._state(node).name for node, problem in problems.items() if LACKS not in problem]
        for node, message in zip(self._order, ordered, strict=True):
            if problems:
                lacks = f"the round needs all parties, and {LACKS} {', '.join(at_fault) or 'some'}"
                found.append(error_reply(CLIENT_RAISED, problems.get(node, lacks), message))
            else:
                self._state(node).rounds += 1
                self._stumbles.pop(node, None)
                arrays = {name: whole[name] for name in weights}
                found.append(Message(RecordDict({"arrays": to_record(arrays), "metrics": metrics}), reply_to=message))
        self.save()
        return found

    def moved(self, size: int, sent: int, accepted: int) -> tuple[int, int]:
        """Return the bytes of the streams, and of the parties' networks."""
        up, down = self._host.take_traffic()
        own = sum(array.nbytes for like in self._host.like for array in like.values())
        return up + own * (accepted > 0), down + own

    def deliver(self, delivery: Delivery) -> tuple[int, int]:
        """Deliver nothing: without the other parties' features the model is of no use to one."""
        return 0, 0

    def _let_go(self, node: int, reply: Message, problem: str) -> None:
        """Decide when a party that failed is asked again."""
        if LACKS in problem:
            return  # another one did not come
        self._state(node).failures += 1
        if NO_ALIGNMENT in problem:
            self._alignments.pop(node, None)
        else:
            self._failed(node, reply if reply.has_error() else error_reply(CLIENT_RAISED, problem, reply))

    def _align(self, nodes: list[int]) -> bool:
        """Find whom all parties know; return whether they are aligned."""
        new = [node for node in nodes if node not in self._alignments]
        if not new:
            return True
        sides = {node: Side(self._ids) for node in new}  # a secret for each: two of them together learn no more
        name, _ = self._task("torch")
        questions = []
        for node, side in sides.items():
            content = to_bytes({"points": side.hidden()})
            letter = wire.Letter({"action": "align", "task": name}, content)
            questions.append(Message(letter.record(), node, "query", ttl=self._patience))
        for message, reply in self._exchange(questions, self._patience):
            node = message.metadata.dst_node_id
            try:
                letter = wire.read(reply)
                arrays = letter.weights()
                if not {"again", "own"} <= set(arrays):
                    raise RefusedError("hidden ids were expected")
                found = in_common(sides[node], arrays["again"], arrays["own"])
                self._alignments[node] = str(letter.facts.get("alignment")), found
            except EdgekitError as error:
                self._on_notice(f"{self._state(node).name} cannot be aligned: {wire.one_line(error)}")
                self._stumbled(node)
        if any(node not in self._alignments for node in nodes):
            return False
        rows, _ = known_to_all([self._alignments[node][1] for node in nodes])
        if not len(rows):
            raise TrainingError("no id that has a label is known to all parties")
        self._on_notice(f"{len(rows)} of {len(self._ids)} ids are known to all parties: these are trained on")
        return True

    @property
    def _patience(self) -> float:
        return QUESTION_SECONDS + SECONDS_AN_ID * len(self._ids)

    def _took(self, node: int, found: dict[str, Any] | EdgekitError) -> bool:
        """Write down what a node told, and which party it is."""
        if not super()._took(node, found):
            return False
        if not (isinstance(found, Mapping) and found.get("holds")):
            return True
        name = found.get("party")
        other = next((o for o in self._ready if o != node and self._party_of.get(o) == name), None)
        if name not in self._names:
            return super()._took(node, RefusedError(f"it is none of the parties {', '.join(self._names)}"))
        if other is not None:
            return super()._took(node, RefusedError(f"{self._state(other).name} is the party {name} already"))
        self._party_of[node] = str(name)
        return True
