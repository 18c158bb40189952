"""The nodes of a real fleet, as the loop sees them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from edgekit import compact, wire
from edgekit.algorithms.base import MODULE, Algorithm, answer_like
from edgekit.algorithms.slices import Sliced
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Ask, Bundles, Reply, Scored, Update, problem_with_update
from edgekit.clients.node.delivery import Delivery
from edgekit.data import FederatedDataset
from edgekit.errors import ExperimentError, RefusedError
from edgekit.flower import CLIENT_RAISED
from edgekit.flower.parcel import error_reply
from edgekit.privacy import Plan
from edgekit.server.engines.base import Conditions, Draw, Exchanged, Fold
from edgekit.server.engines.fleet import delivery as deliveries
from edgekit.server.engines.fleet.drift import DriftWatch
from edgekit.server.engines.fleet.exchange import Exchange
from edgekit.server.engines.fleet.nodes import NodeState, numbers_of
from edgekit.server.engines.fleet.presence import Presence
from edgekit.server.engines.fleet.streams import SplitHost, stream
from edgekit.server.engines.fleet.tasks import KINDS, Network, Tasks, facts_of
from edgekit.server.settings import Sections
from edgekit.transforms import chain

WAITING_NOTICE_SECONDS = 60.0


class FleetEngine:
    """The nodes that are connected to the SuperLink.

    Args:
        grid: Flower's.
        experiment: the experiment.
        algorithm: the method.
        dataset: the coordinator's own: shape, classes and data settings.
        network: that nodes train.
        plan: of privacy.
        sign: signs what nodes shall trust.
        path: `nodes.json` of the run.
        on_notice: called with a line for people.
        host: of an interactive method, the server's side of the streams; None of others.
        run_id: of this run, whoever has the same experiment.
        others: networks that nodes train instead, by the names that the method gives them.
    """

    repeatable = False
    folds = False
    keeps_model = ""
    """Why the model is not delivered to nodes."""

    def __init__(
        self,
        grid: Grid,
        experiment: Sections,
        algorithm: Algorithm,
        dataset: FederatedDataset,
        network: Network,
        plan: Plan | None,
        sign: Callable[[bytes], bytes],
        path: Path,
        on_notice: Callable[[str], None],
        host: SplitHost | None = None,
        run_id: str = "",
        others: Mapping[str, Network] = MappingProxyType({}),
    ) -> None:
        self.trainer = "nodes of a real fleet"
        self.algorithm = algorithm
        if algorithm.unequal and not isinstance(algorithm, Sliced):
            raise ExperimentError(
                f"{experiment.federation.method} draws each client's network in each round, but a node has one: use "
                "edgekit run"
            )
        self._host, self._experiment, self._sign, self._on_notice = host, experiment, sign, on_notice
        parameters = network.parameters
        if host is not None:
            self.trainer += f", {host.trainer}"
            parameters = {name: array.shape for name, array in host.device_like.items()}
        transforms = chain.make(experiment.federation.transforms)
        self._compacts = any(one.compacts for one in transforms)
        plain = algorithm.plain and not any(one.on_clients for one in transforms)
        kinds: tuple[str, ...] = KINDS if plain else ("torch", "litert")
        method, otherwise = experiment.federation.method, ""
        if key := experiment.training.needs_torch:
            kinds, plain, otherwise = ("torch",), False, f"training.{key} needs nodes with torch"
        elif key := algorithm.needs_torch:
            kinds, plain, otherwise = ("torch",), False, f"{key} needs nodes with torch"
        elif algorithm.unequal:
            kinds, otherwise = ("torch", "litert"), f"pages train one network for all: {method} needs edgekit join"
        elif key := experiment.training.beyond_sgd:
            kinds, otherwise = ("torch", "litert"), f"pages take steps of SGD: training.{key} needs edgekit join"
        elif experiment.training.augment:
            kinds, otherwise = ("torch", "litert"), "pages do not augment: training.augment needs edgekit join"
        elif (aim := dataset.objective.name) != "cross-entropy":
            kinds, otherwise = ("torch", "litert"), f"pages learn classes alone: {aim} needs edgekit join"
        elif not plain and not algorithm.interactive:
            otherwise = f"phones train plainly, but clients of {method} do more than that: it needs edgekit join"
        facts = facts_of(
            experiment,
            algorithm,
            dataset,
            parameters,
            plan,
            run_id=run_id,
            split=None if host is None else host.facts,
            compression=network.compression,
        )
        self.tasks = Tasks(facts, network, others)
        self._exchange = Exchange(grid, on_notice)
        self.presence = Presence(
            self._exchange, self.tasks, kinds, otherwise, sign, path, on_notice, assign=self._assigned
        )
        self.drift = DriftWatch(path.with_name("drift.jsonl"), on_notice)

    def choose(self, number: int, draw: Draw) -> list[int]:
        """Wait until enough nodes are there and hold the task; return the drawn ones."""
        told = 0.0
        wanted = self._experiment.serve.nodes
        while True:
            there = self.presence.there()
            if len(there) >= wanted and not self.presence.expects_newcomers():
                return sorted(draw(there))
            if len(there) < wanted and (not told or time.monotonic() - told > WAITING_NOTICE_SECONDS):
                told = time.monotonic()
                self._on_notice(f"round {number} waits for nodes: {len(there)} of {wanted} are ready")
            time.sleep(self.presence.pause())

    def conditions(self, clients: Sequence[int]) -> Conditions:
        """Return what nodes' owners let be told of batteries, and how long rounds took nodes so far."""
        nodes = [self.presence.state(client) for client in clients]
        unknown = np.full(len(nodes), np.nan)
        battery = np.array([float(node.facts.get("battery", 100.0)) / 100 for node in nodes])
        seconds = [node.seconds / node.rounds if node.rounds else np.nan for node in nodes]
        return Conditions(
            battery=battery,
            charging=np.array([bool(node.facts.get("charging", True)) for node in nodes]),
            metered=np.zeros(len(nodes), bool),  # owners keep nodes off metered networks themselves: `--only unmetered`
            seconds=np.array(seconds, np.float64),
            joules=unknown,
            battery_joules=unknown,
            deadline=self._experiment.serve.deadline_seconds,
        )

    def exchange(self, asks: Mapping[int, Ask], fold: Fold | None = None) -> Exchanged:
        """Send a round's asks; return the replies, a failure for each node that gave no update in time."""
        if not asks:
            return Exchanged([], 0, 0)
        released = True
        if self._host is None:
            exchanged = self.send(asks, self._experiment.serve.deadline_seconds)
        else:
            seconds = self._experiment.serve.deadline_seconds
            exchanged, released = stream(self._host, asks, seconds, self.presence.state, self.send)
        replies = []
        for message, reply in exchanged:
            node = message.metadata.dst_node_id
            update: Update | None = None
            if not reply.has_error():
                try:
                    update = self._read(reply, asks[node])
                except RefusedError as error:
                    reply = error_reply(CLIENT_RAISED, str(error), message)
            if update is None:
                self.presence.failed(node, reply)
                replies.append(Reply(node, None, reply.error.reason or "no reason given"))
            else:
                self.presence.trained(node)
                replies.append(Reply(node, update))
        answered = [reply for reply in replies if reply.update is not None]
        up = compact.bytes_of(replies, asks, compact=self._compacts)
        down = sum(ask.nbytes for ask in asks.values())
        if self._host is not None:
            up, down = self._host.take_traffic()
            up, down = up + self._host.own_bytes * len(answered), down + self._host.own_bytes * len(asks)
            self._host.forget()
        self.presence.save()
        return Exchanged(replies, up, down, again=not answered, released=released)

    def measure(self, asks: Mapping[int, Ask]) -> Mapping[int, Scored]:
        """Return how good models are on what nodes hold back; pages of phones are not asked."""
        own = {node: ask for node, ask in asks.items() if self.presence.state(node).kind in ("torch", "litert")}
        scores = {}
        for message, reply in self.send(own, self._experiment.serve.deadline_seconds, kind="evaluate"):
            node = message.metadata.dst_node_id
            try:
                scores[node] = wire.score_of(wire.read(reply))
            except RefusedError as error:
                self._on_notice(f"{self.name_of(node)} measures nothing: {wire.one_line(error)}")
        return scores

    def name_of(self, client: int) -> str:
        """Return what people call a node."""
        return self.presence.state(client).name

    def is_everyone(self, cohort: Sequence[int]) -> bool:
        """Nobody knows who will join later."""
        return False

    def examples(self) -> int | None:
        """Return how many examples the nodes that hold the task own; None if one does not say."""
        counts = [self.presence.nodes[node].examples for node in self.presence.ready]
        return None if not counts or min(counts) < 0 else sum(counts)

    def close(self) -> None:
        """End nothing: devices go on by themselves."""

    def deliver(self, delivery: Delivery, network: str | None = None) -> tuple[int, int]:
        """Send a model to all nodes that are there and have an older one; return (took it, were asked).

        Args:
            delivery: the model.
            network: of nodes that train this one alone; None is of all.
        """
        return deliveries.deliver(delivery, self._exchange, self.presence, self._sign, self._on_notice, network)

    def _assigned(self, state: NodeState) -> str:
        if not isinstance(self.algorithm, Sliced):
            return ""
        return self.algorithm.assign(state.node, state.facts, state.network)

    def watch(self, number: int, weights: Weights) -> None:
        """Ask nodes that share them for noised statistics of their inputs, and look for drift."""
        noise = self._experiment.serve.statistics_noise
        deliveries.watch(number, weights, noise, self._exchange, self.presence, self.tasks, self.drift, self._on_notice)

    def send(
        self,
        asks: Mapping[int, Ask],
        seconds: float,
        more: Mapping[int, Mapping[str, Any]] = MappingProxyType({}),
        kind: str = "train",
    ) -> list[tuple[Message, Message]]:
        """Send asks to nodes, and wait for the replies: (message, reply) in the order of the nodes.

        Args:
            asks: by node.
            seconds: to wait.
            more: further facts, by node.
            kind: of the messages.
        """
        ttl = self._experiment.serve.deadline_seconds
        return self._exchange.send(pack(asks, self.tasks, self.presence.state, ttl, more, kind), seconds)

    def _read(self, reply: Message, ask: Ask) -> Update:
        """Return a node's update.

        Raises:
            RefusedError: it cannot be read, or does not fit what was asked.
        """
        node = reply.metadata.src_node_id
        expected: Bundles = answer_like(self.algorithm, ask)
        if self._host is not None:
            expected = {WEIGHTS: self._host.device_like}
        try:
            said = wire.read(reply)
            update = wire.update_of(said, expected, ask.bundles)
        except RefusedError as error:
            raise RefusedError(f"its reply cannot be read: {wire.one_line(error)}") from None
        if problem := problem_with_update(update, expected):
            raise RefusedError(problem)
        if self._host is not None:
            whole = self._host.whole(node, dict(update.bundles[WEIGHTS]), ask.bundles[WEIGHTS])
            update = replace(update, bundles={WEIGHTS: whole})
        state = self.presence.state(node)
        if state.examples > 0:
            update = replace(update, weight=min(update.weight, float(state.examples)))
        state.facts = numbers_of(said.facts.get("device")) or state.facts
        state.last_seen = time.time()
        state.bytes_up += len(said.content)
        return update


def pack(
    asks: Mapping[int, Ask],
    tasks: Tasks,
    state: Callable[[int], NodeState],
    ttl: float,
    more: Mapping[int, Mapping[str, Any]],
    kind: str = "train",
) -> list[Message]:
    """Return asks as they travel; what several are asked alike is written once."""
    written: dict[int, bytes] = {}
    sent = []
    for node, ask in asks.items():
        known = state(node)
        # A node trains the network of its task, whatever it is called here.
        own = {key: told for key, told in ask.config.items() if key != MODULE} if known.network else ask.config
        facts, content = wire.asking(replace(ask, config=own), written.get(id(ask.bundles)))
        written[id(ask.bundles)] = content
        known.bytes_down += len(content)
        facts |= {"task": tasks.of(known.kind, known.network or "")[0], **more.get(node, {})}
        sent.append(Message(wire.Message(facts, content).record(), node, kind, ttl=ttl))
    return sent
