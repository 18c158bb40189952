"""The nodes of a real fleet, through Flower's grid: who is there, what they train, what they are sent."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from edgekit import wire
from edgekit.algorithms.base import Algorithm, with_mu
from edgekit.arrays import Weights, to_bytes
from edgekit.asks import WEIGHTS, Ask, Bundles, Reply, Scored, Update, problem_with_update
from edgekit.clients.node.delivery import Delivery
from edgekit.clients.node.task import NO_TASK, MethodFacts, Planned, Task, TaskFacts, name_of
from edgekit.data import FederatedDataset
from edgekit.errors import EdgekitError, RefusedError
from edgekit.experiment import Experiment
from edgekit.flower import CLIENT_DECLINED, CLIENT_RAISED
from edgekit.flower.fleet import error_reply
from edgekit.privacy import Plan
from edgekit.server.engines.base import Draw, Exchanged
from edgekit.server.engines.fleet.drift import DriftWatch
from edgekit.server.engines.fleet.nodes import NodeState, load_nodes, save_nodes
from edgekit.server.engines.fleet.streams import SplitHost
from edgekit.server.split_stream import Ended

FASTEST_POLL, SLOWEST_POLL = 0.03, 0.25
QUESTION_SECONDS = 120.0
"""How long nodes may take to answer a question: loading a task takes a while on a slow board."""
GRACE_SECONDS = 5.0
"""How long a round that could begin waits for nodes that have just come."""
REST_SECONDS = 30.0
"""A node whose owner does not want it to train now is not asked again before."""
FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 1.0, 600.0
"""A node that failed is left alone for a while, twice as long each time in a row."""
MINIMUM_SECONDS = 1.0
"""That a node has for a round, however late it is."""
WAITING_NOTICE_SECONDS = 60.0
KINDS = ("torch", "litert", "phone", "gateway")
WITHOUT_TORCH = ("litert", "phone", "gateway")
"""Kinds that are given the training graph."""
GATEWAY_SECONDS = 3.0
"""How often gateways are told how the federation gets on."""


class FleetEngine:
    """The nodes that are connected to the SuperLink.

    Args:
        grid: Flower's.
        experiment: the experiment.
        algorithm: the method.
        dataset: the coordinator's own: shape, classes and data settings.
        parameters: shapes of the network's arrays.
        privacy: the statement for people.
        training_graph: makes the training graph for nodes without torch; called when the first of them comes.
        sign: signs what nodes shall trust.
        path: `nodes.json` of the run.
        on_notice: called with a line for people.
        split: the split server, where the network is cut; None where it is not.
        run_id: of this run, whoever has the same experiment.
    """

    repeatable = False

    def __init__(
        self,
        grid: Grid,
        experiment: Experiment,
        algorithm: Algorithm,
        dataset: FederatedDataset,
        parameters: dict[str, tuple[int, ...]],
        plan: Plan | None,
        privacy: str,
        training_graph: Callable[[], bytes],
        sign: Callable[[bytes], bytes],
        path: Path,
        on_notice: Callable[[str], None],
        split: SplitHost | None = None,
        run_id: str = "",
    ) -> None:
        self.trainer = "nodes of a real fleet"
        self.algorithm = algorithm
        self._split = split
        # Phones train plainly alone, and take no part in split learning yet.
        self._kinds: Sequence[str] = KINDS if split is None and algorithm.plain else ("torch", "litert")
        if split is not None:
            self.trainer += f", split learning, cut behind {split.facts.cuts[0]}"
            parameters = {name: array.shape for name, array in split.device_like.items()}
        self._grid, self._experiment, self._sign, self._path = grid, experiment, sign, path
        self._training_graph, self._on_notice = training_graph, on_notice
        self.nodes: dict[int, NodeState] = load_nodes(path)
        self.drift = DriftWatch(path.with_name("drift.jsonl"), on_notice)
        self._ready: set[int] = set()
        self._resting: dict[int, float] = {}
        self._stumbles: dict[int, int] = {}
        self._places: dict[int, int] = {}
        """Of the nodes in a round of split learning."""
        self._waited: dict[int, float] = {}
        """Seconds until a node's last answer."""
        self._asked: dict[str, tuple[Message, float]] = {}
        """Questions to newcomers that are not answered yet, by message, and when they were sent."""
        self._tasks: dict[bool, tuple[str, bytes]] = {}
        """Name and content of the task, without and with the training graph."""
        self.progress: dict[str, Any] = {}
        """What gateways show to people."""
        settings = experiment.serve
        planned = None
        if plan is not None and plan.noise == "client":
            reports = experiment.federation.rounds // settings.statistics_every if settings.statistics_every else 0
            planned = Planned(
                noise_multiplier=plan.noise_multiplier,
                sample_rate=plan.sample_rate,
                steps=plan.steps * plan.rounds,
                reports=reports,
                reports_noise=settings.statistics_noise,
                delta=plan.delta,
            )
        self._facts = TaskFacts(
            run=experiment.name,
            run_id=run_id,
            seed=experiment.seed,
            model=experiment.model,
            data=experiment.data,
            shape=dataset.shape,
            classes=dataset.classes,
            parameters=parameters,
            privacy=privacy,
            planned=planned,
            counts=planned is None,
            split=split.facts if split is not None else None,
            method=None if algorithm.plain else _method(experiment),
        )

    # What the loop asks for (see Engine).

    def choose(self, number: int, draw: Draw) -> list[int]:
        """Wait until enough nodes are there and hold the task; return the drawn ones."""
        told = 0.0
        wanted = self._experiment.serve.nodes
        while True:
            there = self._there()
            if len(there) >= wanted and not self._expects_newcomers():
                return sorted(there[place] for place in draw(len(there)))
            if len(there) < wanted and (not told or time.monotonic() - told > WAITING_NOTICE_SECONDS):
                told = time.monotonic()
                self._on_notice(f"round {number} waits for nodes: {len(there)} of {wanted} are there")
            time.sleep(self._pause())

    def exchange(self, asks: Mapping[int, Ask]) -> Exchanged:
        """Send a round's asks; return the replies, a failure for each node that gave no update in time."""
        if not asks:
            return Exchanged([], 0, 0)
        down = sum(ask.nbytes for ask in asks.values())
        released = True
        if self._split is None:
            exchanged = self._exchange(self._packed_all(asks), self._experiment.serve.deadline_seconds)
        else:
            exchanged, released = self._exchange_with_streams(self._split, asks)
        replies = []
        for message, reply in exchanged:
            node = message.metadata.dst_node_id
            state = self._state(node)
            update: Update | None = None
            if not reply.has_error():
                try:
                    update = self._read(reply, asks[node])
                except RefusedError as error:
                    reply = error_reply(CLIENT_RAISED, str(error), message)
            if update is None:
                state.failures += 1
                self._failed(node, reply)
                replies.append(Reply(node, None, reply.error.reason or "no reason given"))
            else:
                state.rounds += 1
                state.seconds = round(state.seconds + self._waited.get(node, 0.0), 3)
                self._stumbles.pop(node, None)
                replies.append(Reply(node, update))
        answered = [reply.update for reply in replies if reply.update is not None]
        up = sum(update.nbytes for update in answered)
        if self._split is not None:
            own = sum(array.nbytes for array in self._split.device_like.values())
            up, down = self._split.take_traffic()
            up, down = up + own * len(answered), down + own * len(asks)
            self._split.forget()
        self.save()
        return Exchanged(replies, up, down, again=not answered, released=released)

    def measure(self, asks: Mapping[int, Ask]) -> Mapping[int, Scored]:
        """Return how good models are on what nodes hold back; pages of phones are not asked."""
        own = {node: ask for node, ask in asks.items() if self._state(node).kind in ("torch", "litert")}
        seconds = self._experiment.serve.deadline_seconds
        scores = {}
        for message, reply in self._exchange(self._packed_all(own, kind="evaluate"), seconds):
            node = message.metadata.dst_node_id
            try:
                scores[node] = wire.score_of(wire.read(reply))
            except RefusedError as error:
                self._on_notice(f"{self._state(node).name} measures nothing: {wire.one_line(error)}")
        return scores

    def name_of(self, client: int) -> str:
        """Return what people call a node."""
        return self._state(client).name

    def is_everyone(self, cohort: Sequence[int]) -> bool:
        """Nobody knows who will join later."""
        return False

    def examples(self) -> int | None:
        """Return how many examples the nodes that hold the task own; None if one does not say."""
        counts = [self.nodes[node].examples for node in self._ready]
        return None if not counts or min(counts) < 0 else sum(counts)

    # What nodes are sent beside rounds.

    def deliver(self, delivery: Delivery) -> tuple[int, int]:
        """Send a model to all nodes that are there and have an older one; return (took it, were asked)."""
        wanted = {"run": delivery.run, "version": delivery.version}
        asked = [
            node
            for node in self._grid.get_node_ids()
            if node in self._ready and self.nodes[node].model != wanted and not self._rests(node)
        ]
        if not asked:
            return 0, 0
        content = delivery.to_bytes()
        question = wire.Letter({"action": "deliver", "signature": self._sign(content)}, content)
        took = 0
        for node, found in self._ask(asked, question):
            state = self._state(node)
            if isinstance(found, EdgekitError) or found.get("problem"):
                problem = wire.one_line(found if isinstance(found, EdgekitError) else found["problem"])
                self._stumbled(node)
                self._on_notice(f"{state.name} keeps its old model: {problem}")
            else:
                state.model = _model_of(found)
                took += 1
        self.save()
        return took, len(asked)

    def watch(self, number: int, weights: Weights) -> None:
        """Ask nodes that share them for noised statistics of their inputs, and look for drift."""
        noise = self._experiment.serve.statistics_noise
        asked = [node for node in self._grid.get_node_ids() if node in self._ready and self.nodes[node].statistics]
        sums = []
        content = to_bytes(weights)
        for kind in sorted({self.nodes[node].kind for node in asked}):
            name, _ = self._task(kind)
            facts = {"action": "statistics", "noise": noise, "task": name}
            chosen = [node for node in asked if self.nodes[node].kind == kind]
            for node, found in self._ask(chosen, wire.Letter(facts, content)):
                if isinstance(found, EdgekitError):
                    self._on_notice(f"{self._state(node).name} gave no statistics: {wire.one_line(found)}")
                else:
                    sums.append(found.get("sum"))
        self.drift.add(number, sums, noise)

    def greet(self) -> None:
        """Give the task to nodes that are there and have not got it yet, and hear those that were asked before."""
        self._there()

    def save(self) -> None:
        """Write `nodes.json`, for people and `edgekit devices status`."""
        save_nodes(self._path, self.nodes.values())

    # How.

    def _there(self) -> list[int]:
        """Return the nodes that are online, hold the task and have nothing against it; greet those that are new."""
        online = sorted(self._grid.get_node_ids())
        self._hear()
        self._ready.intersection_update(online)
        asked = {message.metadata.dst_node_id for message, _ in self._asked.values()}
        new = [n for n in online if n not in self._ready and n not in asked and not self._rests(n)]
        if new:
            for kind in sorted({self._state(node).kind for node in new} & set(self._kinds)):
                self._task_or_problem(kind)  # after a restart: nodes that were here before hold it already
            facts = {"action": "prepare", "tasks": self._names_of_tasks()}
            gateways = [node for node in new if self._state(node).kind == "gateway"]
            self._send(gateways, wire.Letter({**facts, "progress": self._progress(online)}))
            self._send([node for node in new if node not in gateways], wire.Letter(facts))
        return [node for node in online if node in self._ready and not self._rests(node)]

    def _send(self, nodes: list[int], question: wire.Letter) -> None:
        """Ask nodes without waiting: one that does not answer must not hold up the others."""
        if not nodes:
            return
        sent = _questions(nodes, question)
        for name, message in zip(self._grid.push_messages(sent), sent, strict=True):
            if name:
                self._asked[name] = message, time.monotonic()

    def _hear(self) -> None:
        """Take the answers of nodes that were greeted, and give the task to those that lack it."""
        if not self._asked:
            return
        heard = {reply.metadata.reply_to_message_id: reply for reply in self._pulled(list(self._asked))}
        lacking: dict[str, list[int]] = {}
        for name, (message, since) in list(self._asked.items()):
            node = message.metadata.dst_node_id
            if name in heard:
                found = self._answer(_checked(heard[name], message), node)
            elif time.monotonic() - since > QUESTION_SECONDS:
                found = RefusedError(f"no answer within {QUESTION_SECONDS:g} s")
            else:
                continue
            del self._asked[name]
            if not self._took(node, found):
                self._wait_with(node)
            elif isinstance(found, dict) and found.get("holds"):
                if self.nodes[node].kind == "gateway":
                    self._rest(node, GATEWAY_SECONDS)
                elif problem := self._task_or_problem(self.nodes[node].kind):  # whatever it says
                    self._took(node, RefusedError(problem))
                    self._stumbled(node)
                else:
                    self._ready.add(node)
            else:
                lacking.setdefault(self.nodes[node].kind, []).append(node)
        for kind, chosen in lacking.items():
            if problem := self._task_or_problem(kind):
                for node in chosen:
                    self._took(node, RefusedError(problem))
                    self._stumbled(node)
                continue
            _, content = self._task(kind)
            self._send(chosen, wire.Letter({"action": "install", "signature": self._sign(content)}, content))
        if heard:
            self.save()

    def _expects_newcomers(self) -> bool:
        """Whether a node was greeted so lately that a round waits for it."""
        return any(
            time.monotonic() - since < GRACE_SECONDS and self._state(message.metadata.dst_node_id).kind != "gateway"
            for message, since in self._asked.values()
        )

    def _pause(self) -> float:
        return FASTEST_POLL if self._asked and self._expects_newcomers() else SLOWEST_POLL

    def _took(self, node: int, found: dict[str, Any] | EdgekitError) -> bool:
        """Write down what a node told; return whether it can go on."""
        state = self._state(node)
        if isinstance(found, EdgekitError):
            found = {"problem": str(found)}
        problem = wire.one_line(found.get("problem", ""))
        for name in ("name", "version"):
            if isinstance(found.get(name), str):
                setattr(state, name, wire.one_line(found[name])[:64])
        if "kind" in found and found["kind"] not in self._kinds:
            kind = str(found["kind"])[:20]
            found, problem = {}, f"this run has nothing for nodes of kind {kind!r}"
            if kind in KINDS and not self.algorithm.plain:
                name = self._experiment.federation.method
                problem = f"phones train plainly, but clients of {name} do more than that: it needs edgekit join"
        state.kind = found.get("kind", state.kind)
        count = found.get("examples")
        if isinstance(count, int) and not isinstance(count, bool) and -1 <= count < wire.MOST_EXAMPLES:
            state.examples = count
        counted = self._facts.counts and state.kind != "gateway"
        if counted and found.get("holds") and state.examples < 1 and not problem:
            problem = "it does not say how many examples it has, which noise by the server needs to know"
        if isinstance(found.get("model"), dict):
            state.model = _model_of(found["model"])
        state.statistics = found.get("statistics") is True
        state.facts = _numbers(found) or state.facts
        if problem and problem != state.problem:
            self._on_notice(f"{state.name} cannot take part: {problem}")
        state.problem = problem
        return not problem

    def _task(self, kind: str) -> tuple[str, bytes]:
        """Return the task for a kind of node: (name, content)."""
        with_graph = kind in WITHOUT_TORCH
        if with_graph not in self._tasks:
            content = Task(self._facts, self._training_graph() if with_graph else None).to_bytes()
            self._tasks[with_graph] = (name_of(content), content)
        return self._tasks[with_graph]

    def _task_or_problem(self, kind: str) -> str:
        """Make a kind's task; return what is wrong with it, "" if nothing. It must not end the run for the others."""
        try:
            self._task(kind)
        except EdgekitError as error:
            return f"there is no task for nodes of its kind: {error}"
        return ""

    def _names_of_tasks(self) -> dict[str, str]:
        """Return the name of each kind's task, as far as somebody needed it already."""
        made = {kind: self._tasks.get(kind in WITHOUT_TORCH) for kind in self._kinds}
        return {kind: task[0] for kind, task in made.items() if task is not None}

    def _progress(self, online: list[int]) -> dict[str, Any]:
        """Return what gateways show: how the rounds went, and who is here, by kind."""
        there = [self._state(node).kind for node in online]
        return {**self.progress, "here": {kind: there.count(kind) for kind in KINDS[:-1]}}

    def _exchange_with_streams(
        self, split: SplitHost, asks: Mapping[int, Ask]
    ) -> tuple[list[tuple[Message, Message]], bool]:
        """Send a round's asks and serve the streams that they begin.

        One node after the other, each has its share of the time that is left.

        Returns:
            (message, reply) for each, and whether anybody sent anything.
        """
        nodes = sorted(asks)
        first = asks[nodes[0]]
        weights = first.bundles[WEIGHTS]
        own = {node: replace(ask, bundles={WEIGHTS: split.own(weights)}) for node, ask in asks.items()}
        end = time.monotonic() + self._experiment.serve.deadline_seconds
        tokens = split.begin([self._state(node).examples for node in nodes], weights, with_mu(first))
        exchanged: list[tuple[Message, Message]] = []
        ended: dict[int, Ended] = {}
        groups = [[place] for place in range(len(nodes))] if split.sequential else [list(range(len(nodes)))]
        try:
            for number, group in enumerate(groups):
                seconds = max(MINIMUM_SECONDS, (end - time.monotonic()) / (len(groups) - number))
                more = {
                    nodes[place]: {"split": {"port": split.port, "token": tokens[place], "seconds": seconds}}
                    for place in group
                }
                exchanged += self._exchange(self._packed_all({node: own[node] for node in more}, more), seconds)
                ended |= split.end(group)
        finally:
            split.end_round()
        places = {node: place for place, node in enumerate(nodes)}
        found = []
        for message, reply in exchanged:
            node = message.metadata.dst_node_id
            state, place = self._state(node), places[node]
            state.bytes_up += ended[place].bytes_up
            state.bytes_down += ended[place].bytes_down
            if not (reply.has_error() or ended[place].finished):
                reply = error_reply(CLIENT_RAISED, "it sent an update before its stream had ended", message)
            found.append((message, reply))
        self._places = places
        return found, any(one.asks for one in ended.values())

    def _packed_all(
        self,
        asks: Mapping[int, Ask],
        more: Mapping[int, Mapping[str, Any]] = MappingProxyType({}),
        kind: str = "train",
    ) -> list[Message]:
        """Return asks as they travel; what several are asked alike is written once."""
        written: dict[int, bytes] = {}
        sent = []
        for node, ask in asks.items():
            facts, content = wire.asking(ask, written.get(id(ask.bundles)))
            written[id(ask.bundles)] = content
            self._state(node).bytes_down += len(content)
            facts |= {"task": self._task(self.nodes[node].kind)[0], **more.get(node, {})}
            ttl = self._experiment.serve.deadline_seconds
            sent.append(Message(wire.Letter(facts, content).record(), node, kind, ttl=ttl))
        return sent

    def _read(self, reply: Message, ask: Ask) -> Update:
        """Return a node's update.

        Raises:
            RefusedError: it cannot be read, or does not fit what was asked.
        """
        node = reply.metadata.src_node_id
        try:
            letter = wire.read(reply)
            update = wire.update_of(letter)
        except RefusedError as error:
            raise RefusedError(f"its reply cannot be read: {wire.one_line(error)}") from None
        expected: Bundles = self.algorithm.expects(ask)
        if self._split is not None:
            expected = {WEIGHTS: self._split.device_like}
        if problem := problem_with_update(update, expected):
            raise RefusedError(problem)
        if self._split is not None:
            whole = self._split.whole(self._places[node], dict(update.bundles[WEIGHTS]), ask.bundles[WEIGHTS])
            update = replace(update, bundles={WEIGHTS: whole})
        state = self._state(node)
        state.facts = _numbers(letter.facts.get("device")) or state.facts
        state.last_seen = time.time()
        state.bytes_up += len(letter.content)
        return update

    def _ask(self, nodes: list[int], question: wire.Letter) -> list[tuple[int, dict[str, Any] | EdgekitError]]:
        """Ask nodes; return each one's answer, or why there is none."""
        exchanged = self._exchange(_questions(nodes, question), QUESTION_SECONDS)
        asked = [(message.metadata.dst_node_id, reply) for message, reply in exchanged]
        return [(node, self._answer(reply, node)) for node, reply in asked]

    def _answer(self, reply: Message, node: int) -> dict[str, Any] | EdgekitError:
        """Return what a node answers, or why it gave no answer."""
        try:
            found = dict(wire.read(reply).facts)
        except RefusedError as error:
            return error
        self._state(node).last_seen = time.time()
        return found

    def _exchange(
        self,
        messages: list[Message],
        seconds: float,
        heard: Callable[[Message, Message], None] = lambda message, reply: None,
    ) -> list[tuple[Message, Message]]:
        """Send messages, and wait for the replies: (message, reply) in the order of the nodes, errors among them.

        `heard` is called with each (message, reply) as it comes.

        Flower's own `send_and_receive` looks every three seconds; this one looks often at first.
        """
        if not messages:
            return []
        messages = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        ids = list(self._grid.push_messages(messages))
        waiting = {name: message for name, message in zip(ids, messages, strict=True) if name}
        replies: dict[int, Message] = {}
        begun, pause = time.monotonic(), FASTEST_POLL
        end = begun + seconds
        while waiting and time.monotonic() < end:
            for reply in self._pulled(list(waiting)):
                message = waiting.pop(reply.metadata.reply_to_message_id, None)
                if message is not None:
                    node = message.metadata.dst_node_id
                    replies[node], self._waited[node] = _checked(reply, message), time.monotonic() - begun
                    heard(message, replies[node])
            if waiting:
                time.sleep(min(pause, max(0.0, end - time.monotonic())))
                pause = min(1.2 * pause, SLOWEST_POLL)
        late = f"no answer within {seconds:g} s"
        return [
            (message, replies.get(message.metadata.dst_node_id) or error_reply(CLIENT_RAISED, late, message))
            for message in messages
        ]

    def _pulled(self, names: list[str]) -> list[Message]:
        """Return the replies that came; one that Flower cannot decode must not cost the others."""
        try:
            return list(self._grid.pull_messages(names))
        except Exception as error:  # its decoders raise many kinds
            if len(names) == 1:
                self._on_notice(f"a reply cannot be decoded: {wire.one_line(error)}")
                return []
            return [reply for name in names for reply in self._pulled([name])]

    def _state(self, node: int) -> NodeState:
        return self.nodes.setdefault(node, NodeState(node))

    def _rest(self, node: int, seconds: float) -> None:
        self._resting[node] = time.monotonic() + seconds

    def _wait_with(self, node: int) -> None:
        """Let a node rest that does not take part now: a gateway is only told how things are, a phone's person may
        start it at any time."""
        kind = self._state(node).kind
        if kind == "gateway":
            self._rest(node, GATEWAY_SECONDS)
        elif kind == "phone":
            self._rest(node, REST_SECONDS)
        else:
            self._stumbled(node)

    def _stumbled(self, node: int) -> None:
        """Let a node that failed rest, ever longer while it goes on failing."""
        self._stumbles[node] = self._stumbles.get(node, 0) + 1
        self._rest(node, min(FIRST_REST_SECONDS * 2 ** (self._stumbles[node] - 1), LONGEST_REST_SECONDS))

    def _failed(self, node: int, reply: Message) -> None:
        """Decide when a node whose reply is an error is asked again."""
        if reply.error.code == CLIENT_DECLINED:
            self._rest(node, REST_SECONDS)
        elif NO_TASK in (reply.error.reason or ""):
            self._ready.discard(node)
        else:
            self._stumbled(node)

    def _rests(self, node: int) -> bool:
        return self._resting.get(node, 0.0) > time.monotonic()


def _method(experiment: Experiment) -> MethodFacts:
    """Return what nodes need to know of a method whose clients do more than train plainly."""
    federation = experiment.federation
    return MethodFacts(
        algorithm="" if federation.strategy else federation.method,
        strategy=federation.strategy,
        arguments=federation.arguments,
    )


def _questions(nodes: list[int], question: wire.Letter) -> list[Message]:
    record = question.record()
    return [Message(record, node, "query", ttl=QUESTION_SECONDS) for node in nodes]


def _checked(reply: Message, message: Message) -> Message:
    """Return a reply as from the node that was asked: the SuperLink answers for nodes that are gone."""
    if reply.has_error():
        reason = wire.one_line(reply.error.reason or "no reason given")
        return error_reply(reply.error.code, reason, message)
    if reply.metadata.src_node_id != message.metadata.dst_node_id:
        return error_reply(CLIENT_RAISED, "another node answered in its name: not taken", message)
    return reply


def _model_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return which model a node says that it has: what fits of it, since it is written down."""
    run, version = found.get("run"), found.get("version")
    taken: dict[str, Any] = {"run": wire.one_line(run)} if isinstance(run, str) else {}
    return taken | ({"version": version} if isinstance(version, int) and not isinstance(version, bool) else {})


def _numbers(found: Any) -> dict[str, Any]:
    """Return the facts of a device that fit."""
    if not isinstance(found, dict):
        return {}
    taken: dict[str, Any] = {}
    for name, most in (("battery", 100.0), ("load", 1e4), ("temperature", 1e3)):
        value = found.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= most:
            taken[name] = value
    if isinstance(found.get("charging"), bool):
        taken["charging"] = found["charging"]
    return taken
