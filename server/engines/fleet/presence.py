"""Who is there, holds the task and may be asked: nodes come, go, stumble and rest."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Message

from edgekit import wire
from edgekit.enrolment import version_problem
from edgekit.errors import EdgekitError, RefusedError
from edgekit.flower import CLIENT_DECLINED, NODE_LACKS_TASK
from edgekit.server.engines.fleet.exchange import (
    FASTEST_POLL,
    QUESTION_SECONDS,
    SLOWEST_POLL,
    Exchange,
    answer_of,
    checked,
    questions,
)
from edgekit.server.engines.fleet.nodes import NodeState, load_nodes, model_of, numbers_of, save_nodes
from edgekit.server.engines.fleet.tasks import KINDS, Tasks
from edgekit.version import __version__

GRACE_SECONDS = 5.0
"""How long a round that could begin waits for nodes that have just come."""
REST_SECONDS = 30.0
"""A node whose owner does not want it to train now is not asked again before."""
FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 1.0, 600.0
"""A node that failed is left alone for a while, twice as long each time in a row."""
GATEWAY_SECONDS = 3.0
"""How often gateways are told how the federation gets on."""
Admit = Callable[[NodeState, Mapping[str, Any]], str]
"""Says why a node cannot take part, of what it told; "" if it can."""
Assign = Callable[[NodeState], str]
"""Gives the name of the network that a node trains."""


class Presence:
    """The nodes of a run.

    Args:
        exchange: to ask them.
        tasks: what they are given.
        kinds: of nodes that take part.
        otherwise: what nodes of other kinds are told.
        sign: signs what nodes shall trust.
        path: `nodes.json` of the run.
        on_notice: called with a line for people.
        admit: has the last word on a node that holds the task.
        assign: says which network a node trains.

    Attributes:
        nodes: what is known of each, by id.
        ready: those that hold the task.
        progress: what gateways show to people.
    """

    def __init__(
        self,
        exchange: Exchange,
        tasks: Tasks,
        kinds: Sequence[str],
        otherwise: str,
        sign: Callable[[bytes], bytes],
        path: Path,
        on_notice: Callable[[str], None],
        admit: Admit = lambda state, told: "",
        assign: Assign = lambda state: "",
    ) -> None:
        self._exchange, self._tasks, self._kinds, self._otherwise = exchange, tasks, kinds, otherwise
        self._sign, self._path, self._on_notice, self._admit = sign, path, on_notice, admit
        self._assign = assign
        self.nodes: dict[int, NodeState] = load_nodes(path, on_notice)
        self.ready: set[int] = set()
        self.progress: dict[str, Any] = {}
        self._resting: dict[int, float] = {}
        self._stumbles: dict[int, int] = {}
        self._asked: dict[str, tuple[Message, float, str]] = {}
        """Questions to newcomers that are not answered yet, by message, when they were sent, and of which network."""
        for state in self.nodes.values():
            if state.network is not None:
                assign(state)

    def there(self) -> list[int]:
        """Return the nodes that are online, hold the task and have nothing against it; greet those that are new."""
        online = self._exchange.online()
        self._hear()
        self.ready.intersection_update(online)
        asked = {message.metadata.dst_node_id for message, *_ in self._asked.values()}
        new = [n for n in online if n not in self.ready and n not in asked and not self.rests(n)]
        if new:
            known = {(self.state(node).kind, self.state(node).network or "") for node in new}
            for kind, network in sorted(known):
                if kind in self._kinds:
                    self._tasks.problem(kind, network)  # after a restart: nodes that were here before hold it already
            facts = {"action": "prepare", "version": __version__, "tasks": self._tasks.names(self._kinds)}
            gateways = [node for node in new if self.state(node).kind == "gateway"]
            self._send(gateways, wire.Message({**facts, "progress": self._progress(online)}))
            for network in sorted({network for _, network in known}):
                own = [n for n in new if n not in gateways and (self.state(n).network or "") == network]
                names = self._tasks.names(self._kinds, network)
                self._send(own, wire.Message({**facts, "tasks": names}), network)
        return [node for node in online if node in self.ready and not self.rests(node)]

    def expects_newcomers(self) -> bool:
        """Whether a node was greeted so lately that a round waits for it."""
        return any(
            time.monotonic() - since < GRACE_SECONDS and self.state(message.metadata.dst_node_id).kind != "gateway"
            for message, since, _ in self._asked.values()
        )

    def pause(self) -> float:
        """Return for how long to wait before looking again."""
        return FASTEST_POLL if self._asked and self.expects_newcomers() else SLOWEST_POLL

    def state(self, node: int) -> NodeState:
        """Return what is known of a node."""
        return self.nodes.setdefault(node, NodeState(node))

    def save(self) -> None:
        """Write `nodes.json`, for people and `edgekit devices status`."""
        save_nodes(self._path, self.nodes.values())

    def trained(self, node: int) -> None:
        """Write down that a node's update was taken."""
        state = self.state(node)
        state.rounds += 1
        state.seconds = round(state.seconds + self._exchange.waited.get(node, 0.0), 3)
        self._stumbles.pop(node, None)

    def failed(self, node: int, reply: Message) -> None:
        """Write down that a node gave no update, and decide when it is asked again."""
        self.state(node).failures += 1
        if reply.error.code == CLIENT_DECLINED:
            self.rest(node, REST_SECONDS)
        elif reply.error.code == NODE_LACKS_TASK:
            self.ready.discard(node)
        else:
            self.stumbled(node)

    def stumbled(self, node: int) -> None:
        """Let a node that failed rest, ever longer while it goes on failing."""
        self._stumbles[node] = self._stumbles.get(node, 0) + 1
        self.rest(node, min(FIRST_REST_SECONDS * 2 ** (self._stumbles[node] - 1), LONGEST_REST_SECONDS))

    def rest(self, node: int, seconds: float) -> None:
        """Leave a node alone for a while."""
        self._resting[node] = time.monotonic() + seconds

    def rests(self, node: int) -> bool:
        """Whether a node is left alone."""
        return self._resting.get(node, 0.0) > time.monotonic()

    def _send(self, nodes: list[int], question: wire.Message, network: str = "") -> None:
        """Ask nodes without waiting: one that does not answer must not hold up the others."""
        if nodes:
            sent = self._exchange.push(questions(nodes, question))
            self._asked |= {name: (message, time.monotonic(), network) for name, message in sent.items()}

    def _hear(self) -> None:
        """Take the answers of nodes that were greeted, and give the task to those that lack it."""
        if not self._asked:
            return
        heard = {reply.metadata.reply_to_message_id: reply for reply in self._exchange.pull(list(self._asked))}
        lacking: dict[tuple[str, str], list[int]] = {}
        for name, (message, since, asked_of) in list(self._asked.items()):
            node = message.metadata.dst_node_id
            found: dict[str, Any] | EdgekitError
            if name in heard:
                found = answer_of(checked(heard[name], message))
                if isinstance(found, dict):
                    self.state(node).last_seen = time.time()
            elif time.monotonic() - since > QUESTION_SECONDS:
                found = RefusedError(f"no answer within {QUESTION_SECONDS:g} s")
            else:
                continue
            del self._asked[name]
            if not self._took(node, found):
                self._wait_with(node)
            elif isinstance(found, dict) and found.get("holds") and asked_of == self._network_of(node):
                if self.nodes[node].kind == "gateway":
                    self.rest(node, GATEWAY_SECONDS)
                elif problem := self._tasks.problem(self.nodes[node].kind, asked_of):  # whatever it says
                    self._took(node, RefusedError(problem))
                    self.stumbled(node)
                else:
                    self.ready.add(node)
            else:
                lacking.setdefault((self.nodes[node].kind, self._network_of(node)), []).append(node)
        for (kind, network), chosen in lacking.items():
            if problem := self._tasks.problem(kind, network):
                for node in chosen:
                    self._took(node, RefusedError(problem))
                    self.stumbled(node)
                continue
            _, content = self._tasks.of(kind, network)
            question = wire.Message({"action": "install", "signature": self._sign(content)}, content)
            self._send(chosen, question, network)
        if heard:
            self.save()

    def _network_of(self, node: int) -> str:
        return self.nodes[node].network or ""

    def _took(self, node: int, found: dict[str, Any] | EdgekitError) -> bool:
        """Write down what a node told; return whether it can go on."""
        state = self.state(node)
        if isinstance(found, EdgekitError):
            found = {"problem": str(found)}
        problem = wire.one_line(found.get("problem", ""))
        for name in ("name", "version"):
            if isinstance(found.get(name), str):
                setattr(state, name, wire.one_line(found[name])[:64])
        if "kind" in found and found["kind"] not in self._kinds:
            kind = str(found["kind"])[:20]
            unknown = f"this run has nothing for nodes of kind {kind!r}"
            found, problem = {}, self._otherwise if self._otherwise and kind in KINDS else unknown
        if found.get("version") is not None and (other := version_problem(found["version"], "this node")):
            found, problem = {}, other
        state.kind = found.get("kind", state.kind)
        count = found.get("examples")
        if isinstance(count, int) and not isinstance(count, bool) and -1 <= count < wire.MOST_EXAMPLES:
            # What is told first counts: nobody makes himself heavier later.
            state.examples = count if state.examples < 1 else min(count, state.examples)
        counted = self._tasks.facts.counts and state.kind != "gateway"
        if counted and found.get("holds") and state.examples < 1 and not problem:
            problem = "it does not say how many examples it has, which noise by the server needs to know"
        if isinstance(found.get("model"), dict):
            state.model = model_of(found["model"])
        state.statistics = found.get("statistics") is True
        state.facts = numbers_of(found) or state.facts
        if not problem and state.kind in ("torch", "litert"):
            state.network = self._assign(state)
        if not problem and found.get("holds"):
            problem = self._admit(state, found)
        if problem and problem != state.problem:
            self._on_notice(f"{state.name} cannot take part: {problem}")
        state.problem = problem
        return not problem

    def _wait_with(self, node: int) -> None:
        """Let a node rest that does not take part now: a gateway is only told how things are, a phone's person may
        start it at any time."""
        kind = self.state(node).kind
        if kind == "gateway":
            self.rest(node, GATEWAY_SECONDS)
        elif kind == "phone":
            self.rest(node, REST_SECONDS)
        else:
            self.stumbled(node)

    def _progress(self, online: list[int]) -> dict[str, Any]:
        """Return what gateways show: how the rounds went, and who is here, by kind."""
        there = [self.state(node).kind for node in online]
        return {**self.progress, "here": {kind: there.count(kind) for kind in KINDS[:-1]}}
