"""Parties of a real fleet: nodes that hold different features of the same people, aligned and trained together."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from edgekit import wire
from edgekit.algorithms.base import Algorithm, with_mu
from edgekit.algorithms.parties.party import rng_of
from edgekit.arrays import Weights, to_bytes
from edgekit.asks import WEIGHTS, Ask, Reply, Scored, Update, problem_with_update
from edgekit.clients.node.delivery import Delivery
from edgekit.data import batches
from edgekit.data.vertical import VerticalDataset
from edgekit.errors import EdgekitError, RefusedError, TrainingError
from edgekit.flower import CLIENT_RAISED, NODE_NOT_ALIGNED
from edgekit.flower.parcel import error_reply
from edgekit.privacy.intersection import Side, in_common, known_to_all
from edgekit.server.engines.base import Draw, Exchanged, Fold
from edgekit.server.engines.fleet.engine import WAITING_NOTICE_SECONDS, pack
from edgekit.server.engines.fleet.exchange import QUESTION_SECONDS, Exchange
from edgekit.server.engines.fleet.nodes import NodeState
from edgekit.server.engines.fleet.party_host import PartyHost
from edgekit.server.engines.fleet.presence import Presence
from edgekit.server.engines.fleet.tasks import Network, Tasks, facts_of
from edgekit.server.settings import Sections

MOST_IDS = 2_000_000
"""Of a party: the coordinator needs minutes for so many."""
SECONDS_AN_ID = 3e-3
"""What a slow board takes for an id of its own and one of the coordinator's: so much longer it has to answer."""


class PartyEngine:
    """The parties, each a node that knows by its owner which party it is. All take part in each round.

    Args:
        host: the coordinator's side.
        dataset: its labels.
        members: gives the ids of the nodes that have joined and not left.
        grid: Flower's.
        experiment: the experiment.
        algorithm: the method, whose clients train plainly.
        sign: signs what nodes shall trust.
        path: `nodes.json` of the run.
        on_notice: called with a line for people.
    """

    repeatable = False
    folds = False
    keeps_model = "it needs the features of all parties"
    """Why the model is not delivered to nodes."""

    def __init__(
        self,
        host: PartyHost,
        dataset: VerticalDataset,
        members: Callable[[], set[int]],
        *,
        grid: Grid,
        experiment: Sections,
        algorithm: Algorithm,
        sign: Callable[[bytes], bytes],
        path: Path,
        on_notice: Callable[[str], None],
    ) -> None:
        self.trainer = f"a real fleet of {len(host.like)} parties that hold different features"
        self.algorithm = algorithm
        self._host, self._ids, self._labels = host, dataset.ids, dataset.labels
        self._experiment, self._on_notice = experiment, on_notice
        facts = facts_of(experiment, algorithm, dataset, {}, None, vertical=host.facts)
        self.tasks = Tasks(facts, Network({}, _no_graph))
        self._exchange = Exchange(grid, on_notice)
        self.presence = Presence(self._exchange, self.tasks, ("torch",), "", sign, path, on_notice, admit=self._admit)
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

    def conditions(self, clients: Sequence[int]) -> None:
        """Return nothing: all parties take part in each round."""

    def choose(self, number: int, draw: Draw) -> list[int]:
        """Wait until all parties are there and aligned; return their nodes."""
        told: list[str] = []
        since = 0.0
        while True:
            there = {self._party_of[node]: node for node in self.presence.there() if node in self._party_of}
            missing = [name for name in self._names if name not in there]
            if not missing and self._align(found := [there[name] for name in self._names]):
                self._order = found
                return list(found)
            if missing and (missing != told or time.monotonic() - since > WAITING_NOTICE_SECONDS):
                told, since = missing, time.monotonic()
                self._on_notice(f"round {number} waits for {', '.join(missing)}")
            time.sleep(self.presence.pause())

    def exchange(self, asks: Mapping[int, Ask], fold: Fold | None = None) -> Exchanged:
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

    def measure(self, asks: Mapping[int, Ask]) -> Mapping[int, Scored]:
        """Measure nothing: without the other parties' features nobody can."""
        return {}

    def name_of(self, client: int) -> str:
        """Return what people call a node."""
        return self.presence.state(client).name

    def is_everyone(self, cohort: Sequence[int]) -> bool:
        """Nobody knows who will join later."""
        return False

    def examples(self) -> int | None:
        """Return how many people there are labels of."""
        return len(self._ids)

    def close(self) -> None:
        """End nothing: devices go on by themselves."""

    def deliver(self, delivery: Delivery, network: str | None = None) -> tuple[int, int]:
        """Deliver nothing: without the other parties' features the model is of no use to one."""
        return 0, 0

    def watch(self, number: int, weights: Weights) -> None:
        """Watch nothing: parties give no statistics."""

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
        sent = pack(own_asks, self.tasks, self.presence.state, seconds, more)
        first: list[int] = []

        def heard(message: Message, reply: Message) -> None:
            node = message.metadata.dst_node_id
            if not first and (reply.has_error() or not self._host.has_finished(self._order.index(node))):
                first.append(node)
                self._host.release()  # without this party no step is made: the others need not wait

        try:
            exchanged = self._exchange.send(sent, seconds, heard)
            late = [self._order[place] for place in self._host.late()]
        finally:
            ended, whole = self._host.end()
        problems: dict[int, str] = {}
        told = Update({})
        for message, reply in exchanged:
            node = message.metadata.dst_node_id
            state, place = self.presence.state(node), self._order.index(node)
            state.bytes_up += ended[place].bytes_up
            state.bytes_down += ended[place].bytes_down
            try:
                said = wire.read(reply)
                told = wire.update_of(said)
                if node in first or not ended[place].finished:
                    raise RefusedError("it sent an update before its stream had ended")
                if problem := problem_with_update(told, {WEIGHTS: self._host.like[place]}):
                    raise RefusedError(problem)
                whole |= told.bundles[WEIGHTS]
                state.last_seen = time.time()
                state.bytes_up += len(said.content)
            except RefusedError as error:
                problems[node] = wire.one_line(error)
        if problems:
            at_fault = {node for node in problems if ended[self._order.index(node)].finished}
            at_fault.update(first or (node for node in late if node in problems))
            return self._failures(exchanged, problems, at_fault or set(problems))
        for node in self._order:
            self.presence.state(node).party = self._party_of[node]
            self.presence.trained(node)
        self._misaligned.clear()
        self.presence.save()
        update = replace(told, bundles={WEIGHTS: {name: whole[name] for name in weights}})
        return [Reply(node, update) for node in asks]

    def _failures(
        self, exchanged: list[tuple[Message, Message]], problems: dict[int, str], at_fault: set[int]
    ) -> list[Reply]:
        """Let those rest who are at fault; return why there is no update of anybody."""
        blamed = ", ".join(f"{self.presence.state(node).name}: {problems[node]}" for node in sorted(at_fault))
        for message, reply in exchanged:
            node = message.metadata.dst_node_id
            anew = reply.has_error() and reply.error.code == NODE_NOT_ALIGNED
            if anew:
                self._alignments.pop(node, None)
            if node not in at_fault:
                continue
            if anew and node not in self._misaligned:  # it was started anew: that happens, but not again and again
                self._misaligned.add(node)
                self.presence.state(node).failures += 1
                continue
            self.presence.failed(
                node, reply if reply.has_error() else error_reply(CLIENT_RAISED, problems[node], message)
            )
            if not self.presence.state(node).party:
                self._dismiss(node)
        self.presence.save()
        nodes = [message.metadata.dst_node_id for message, _ in exchanged]
        return [Reply(node, None, f"it needs all parties; {blamed}") for node in nodes]

    def _dismiss(self, node: int) -> None:
        """Let another come in a node's place that has not been a party in any round."""
        self.presence.ready.discard(node)
        self._party_of.pop(node, None)
        self._alignments.pop(node, None)

    def _align(self, nodes: list[int]) -> bool:
        """Find whom all parties know; return whether they are aligned."""
        new = [node for node in nodes if node not in self._alignments]
        if not new:
            return True
        sides = {node: Side(self._ids) for node in new}  # a secret for each: two of them together learn no more
        name, _ = self.tasks.of("torch")
        asked = []
        for node, side in sides.items():
            facts = {"action": "align", "task": name, **self._scales[self._party_of[node]]}
            said = wire.Message(facts, to_bytes({"points": side.hidden()}))
            asked.append(Message(said.record(), node, "query", ttl=self._patience))
        for message, reply in self._exchange.send(asked, self._patience):
            node = message.metadata.dst_node_id
            try:
                self._alignments[node] = _aligned(sides[node], wire.read(reply))
            except EdgekitError as error:
                self._on_notice(f"{self.presence.state(node).name} cannot be aligned: {wire.one_line(error)}")
                self._dismiss(node)
                self.presence.stumbled(node)
        if any(node not in self._alignments for node in nodes):
            return False
        rows, _ = known_to_all([self._alignments[node][1] for node in nodes])
        if not len(rows):
            self._on_notice("nobody of whom there is a label is known to all parties: are these the right tables?")
            for node in nodes:
                self._alignments.pop(node)
                self.presence.stumbled(node)
            return False
        self._on_notice(f"{len(rows)} of {len(self._ids)} ids are known to all parties: these are trained on")
        return True

    @property
    def _patience(self) -> float:
        return max(QUESTION_SECONDS + SECONDS_AN_ID * len(self._ids), self._experiment.serve.deadline_seconds)

    def _admit(self, state: NodeState, told: Mapping[str, Any]) -> str:
        """Write down which party a node is, in a run always the same; return what speaks against it, "" if nothing."""
        name = str(told.get("party"))
        others = [other for other in self.presence.nodes.values() if other.node != state.node]
        members = self._members()
        before = next((other for other in others if other.party == name and other.node in members), None)
        ready = self.presence.ready
        now = next((o for o in others if o.node in ready and self._party_of.get(o.node) == name), None)
        if name not in self._names:
            return f"it is none of the parties {', '.join(self._names)}"
        if before is not None:
            return f"{before.name} is the party {name}: remove it first (edgekit devices remove {before.name})"
        if now is not None:
            return f"{now.name} is the party {name} already"
        self._party_of[state.node] = name
        return ""


def _no_graph() -> bytes:
    raise RefusedError("parties with features of the same people need torch")


def _aligned(side: Side, said: wire.Message) -> tuple[str, dict[int, int]]:
    """Return an alignment's name, and at which of a party's places the coordinator's rows are.

    Raises:
        RefusedError: the answer cannot be read, or there is nobody in common.
    """
    arrays = said.weights()
    if not {"again", "own"} <= set(arrays):
        raise RefusedError("hidden ids were expected")
    if arrays["own"].size > 32 * MOST_IDS:
        raise RefusedError(f"it has more than {MOST_IDS} ids")
    found = in_common(side, arrays["again"], arrays["own"])
    if not found:
        raise RefusedError("it knows nobody of whom there is a label: is this the right table?")
    return str(said.facts.get("alignment")), found
