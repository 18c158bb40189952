"""Parties of a real fleet: nodes that hold different features of the same people, aligned and trained together."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Message

from edgekit import wire
from edgekit.algorithms.base import with_mu
from edgekit.arrays import Weights, to_bytes
from edgekit.asks import WEIGHTS, Ask, LocalSettings, Reply, Update, problem_with_update
from edgekit.clients import batches
from edgekit.clients.node.delivery import Delivery
from edgekit.clients.node.party import NO_ALIGNMENT
from edgekit.clients.node.task import PartyFacts, VerticalFacts
from edgekit.clients.split.party import rng_of
from edgekit.data.federated import Integers
from edgekit.data.vertical import VerticalDataset
from edgekit.errors import EdgekitError, RefusedError, TrainingError
from edgekit.experiment import Split
from edgekit.flower import CLIENT_RAISED
from edgekit.flower.fleet import error_reply
from edgekit.models.vertical import VerticalNetwork
from edgekit.privacy.intersection import Side, in_common, known_to_all
from edgekit.server.engines.base import Draw, Exchanged
from edgekit.server.engines.fleet.engine import QUESTION_SECONDS, WAITING_NOTICE_SECONDS, FleetEngine
from edgekit.server.split_stream import Ended, Keys, SplitService, listen
from edgekit.server.vertical import VerticalServer

MOST_IDS = 2_000_000
"""Of a party: the coordinator needs minutes for so many."""
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


class PartyEngine(FleetEngine):
    """The parties, each a node that knows by its owner which party it is. All take part in each round.

    Args:
        host: the coordinator's side.
        dataset: its labels.
        members: gives the ids of the nodes that have joined and not left.
        arguments: further ones of `FleetEngine`, by name.
    """

    def __init__(
        self, host: PartyHost, dataset: VerticalDataset, members: Callable[[], set[int]], **arguments: Any
    ) -> None:
        super().__init__(dataset=dataset, parameters={}, plan=None, **arguments)
        self.trainer = f"a real fleet of {len(host.like)} parties that hold different features"
        self._kinds = ("torch",)
        self._facts = self._facts.model_copy(update={"vertical": host.facts, "counts": False})
        self._host, self._ids, self._labels = host, dataset.ids, dataset.labels
        self._names = [party.name for party in host.facts.parties]
        self._scales = {
            table.name: {
                "columns": list(table.columns),
                "mean": list(table.scale.mean) if table.scale else [],
                "std": list(table.scale.std) if table.scale else [],
            }
            for table in dataset.parties
        }
        self._party_of: dict[int, str] = {}
        self._members = members
        self._misaligned: set[int] = set()
        """Nodes that were not aligned when a round began, since the last round that all finished."""
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

    def exchange(self, asks: Mapping[int, Ask]) -> Exchanged:
        """Train a round with all parties; each reply is the whole network, or says why there is none."""
        ordered = [node for node in self._order if node in asks]
        if not ordered:
            return Exchanged([], 0, 0)
        if len(ordered) < len(self._order):
            raise TrainingError("all parties take part in each round: leave federation.cohort at 0")
        replies = self._trained({node: asks[node] for node in ordered})
        up, down = self._host.take_traffic()
        own = sum(array.nbytes for like in self._host.like for array in like.values())
        answered = any(reply.update is not None for reply in replies)
        return Exchanged(replies, up + own * answered, down + own, again=not answered)

    def _trained(self, asks: Mapping[int, Ask]) -> list[Reply]:
        ask = asks[self._order[0]]
        weights, settings, number = ask.bundles[WEIGHTS], with_mu(ask), ask.round
        rows, places = known_to_all([self._alignments[node][1] for node in self._order])
        # In an order that is new each round: that of the coordinator's table may tell of its labels.
        order = np.random.default_rng(secrets.randbits(128)).permutation(len(rows))
        steps = batches.draw(len(rows), settings, rng_of(self._experiment.seed, number))
        own = self._labels[rows[order]]
        tokens = self._host.begin(weights, settings, self._experiment.seed + number, [own[step] for step in steps])
        seconds = self._experiment.serve.deadline_seconds
        own_asks, more = {}, {}
        for place, node in enumerate(self._order):
            more[node] = {
                "split": {"port": self._host.port, "token": tokens[place], "seconds": seconds},
                "alignment": self._alignments[node][0],
                "places": places[place][order].astype("<i8").tobytes(),
            }
            own_asks[node] = replace(ask, bundles={WEIGHTS: {name: weights[name] for name in self._host.like[place]}})
        sent = self._packed_all(own_asks, more)
        first: list[int] = []

        def heard(message: Message, reply: Message) -> None:
            node = message.metadata.dst_node_id
            if not first and (reply.has_error() or not self._host.has_finished(self._order.index(node))):
                first.append(node)
                self._host.release()  # without this party no step is made: the others need not wait

        try:
            exchanged = self._exchange(sent, seconds, heard)
            late = [self._order[place] for place in self._host.late()]
        finally:
            ended, whole = self._host.end()
        problems: dict[int, str] = {}
        told = Update({})
        for message, reply in exchanged:
            node = message.metadata.dst_node_id
            state, place = self._state(node), self._order.index(node)
            state.bytes_up += ended[place].bytes_up
            state.bytes_down += ended[place].bytes_down
            try:
                letter = wire.read(reply)
                told = wire.update_of(letter)
                if node in first or not ended[place].finished:
                    raise RefusedError("it sent an update before its stream had ended")
                if problem := problem_with_update(told, {WEIGHTS: self._host.like[place]}):
                    raise RefusedError(problem)
                whole |= told.bundles[WEIGHTS]
                state.last_seen = time.time()
                state.bytes_up += len(letter.content)
            except RefusedError as error:
                problems[node] = wire.one_line(error)
        if problems:
            at_fault = {node for node in problems if ended[self._order.index(node)].finished}
            at_fault.update(first or (node for node in late if node in problems))
            return self._failures(exchanged, problems, at_fault or set(problems))
        for node in self._order:
            state = self._state(node)
            state.rounds, state.party = state.rounds + 1, self._party_of[node]
            state.seconds = round(state.seconds + self._waited.get(node, 0.0), 3)
            self._stumbles.pop(node, None)
        self._misaligned.clear()
        self.save()
        update = replace(told, bundles={WEIGHTS: {name: whole[name] for name in weights}})
        return [Reply(node, update) for node in asks]

    def _failures(
        self, exchanged: list[tuple[Message, Message]], problems: dict[int, str], at_fault: set[int]
    ) -> list[Reply]:
        """Let those rest who are at fault; return why there is no update of anybody."""
        blamed = ", ".join(f"{self._state(node).name}: {problems[node]}" for node in sorted(at_fault))
        for message, reply in exchanged:
            node = message.metadata.dst_node_id
            anew = NO_ALIGNMENT in problems.get(node, "")
            if anew:
                self._alignments.pop(node, None)
            if node not in at_fault:
                continue
            self._state(node).failures += 1
            if anew and node not in self._misaligned:  # it was started anew: that happens, but not again and again
                self._misaligned.add(node)
                continue
            self._failed(node, reply if reply.has_error() else error_reply(CLIENT_RAISED, problems[node], message))
            if not self._state(node).party:
                self._dismiss(node)
        self.save()
        nodes = [message.metadata.dst_node_id for message, _ in exchanged]
        return [Reply(node, None, f"it needs all parties; {blamed}") for node in nodes]

    def _dismiss(self, node: int) -> None:
        """Let another come in a node's place that has not been a party in any round."""
        self._ready.discard(node)
        self._party_of.pop(node, None)
        self._alignments.pop(node, None)

    def deliver(self, delivery: Delivery) -> tuple[int, int]:
        """Deliver nothing: without the other parties' features the model is of no use to one."""
        return 0, 0

    def _align(self, nodes: list[int]) -> bool:
        """Find whom all parties know; return whether they are aligned."""
        new = [node for node in nodes if node not in self._alignments]
        if not new:
            return True
        sides = {node: Side(self._ids) for node in new}  # a secret for each: two of them together learn no more
        name, _ = self._task("torch")
        questions = []
        for node, side in sides.items():
            facts = {"action": "align", "task": name, **self._scales[self._party_of[node]]}
            letter = wire.Letter(facts, to_bytes({"points": side.hidden()}))
            questions.append(Message(letter.record(), node, "query", ttl=self._patience))
        for message, reply in self._exchange(questions, self._patience):
            node = message.metadata.dst_node_id
            try:
                self._alignments[node] = _aligned(sides[node], wire.read(reply))
            except EdgekitError as error:
                self._on_notice(f"{self._state(node).name} cannot be aligned: {wire.one_line(error)}")
                self._dismiss(node)
                self._stumbled(node)
        if any(node not in self._alignments for node in nodes):
            return False
        rows, _ = known_to_all([self._alignments[node][1] for node in nodes])
        if not len(rows):
            self._on_notice("nobody of whom there is a label is known to all parties: are these the right tables?")
            for node in nodes:
                self._alignments.pop(node)
                self._stumbled(node)
            return False
        self._on_notice(f"{len(rows)} of {len(self._ids)} ids are known to all parties: these are trained on")
        return True

    @property
    def _patience(self) -> float:
        return max(QUESTION_SECONDS + SECONDS_AN_ID * len(self._ids), self._experiment.serve.deadline_seconds)

    def _took(self, node: int, found: dict[str, Any] | EdgekitError) -> bool:
        """Write down what a node told, and which party it is: in a run that is always the same node."""
        if not super()._took(node, found):
            return False
        if not (isinstance(found, Mapping) and found.get("holds")):
            return True
        name = str(found.get("party"))
        others = [state for state in self.nodes.values() if state.node != node]
        members = self._members()
        before = next((state for state in others if state.party == name and state.node in members), None)
        now = next(
            (state for state in others if state.node in self._ready and self._party_of[state.node] == name), None
        )
        if name not in self._names:
            return super()._took(node, RefusedError(f"it is none of the parties {', '.join(self._names)}"))
        if before is not None:
            problem = f"{before.name} is the party {name}: remove it first (edgekit devices remove {before.name})"
            return super()._took(node, RefusedError(problem))
        if now is not None:
            return super()._took(node, RefusedError(f"{now.name} is the party {name} already"))
        self._party_of[node] = name
        return True


def _aligned(side: Side, letter: wire.Letter) -> tuple[str, dict[int, int]]:
    """Return an alignment's name, and at which of a party's places the coordinator's rows are.

    Raises:
        RefusedError: the answer cannot be read, or there is nobody in common.
    """
    arrays = letter.weights()
    if not {"again", "own"} <= set(arrays):
        raise RefusedError("hidden ids were expected")
    if arrays["own"].size > 32 * MOST_IDS:
        raise RefusedError(f"it has more than {MOST_IDS} ids")
    found = in_common(side, arrays["again"], arrays["own"])
    if not found:
        raise RefusedError("it knows nobody of whom there is a label: is this the right table?")
    return str(letter.facts.get("alignment")), found
