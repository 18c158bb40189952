"""A method of ours as a strategy of a stock Flower app; its clients are of `edgekit.clients.flower_app`."""

import logging
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from edgekit import wire
from edgekit.algorithms.base import Algorithm, answer_like, made
from edgekit.asks import WEIGHTS, Aggregate, State, Update, mean_of, problem_with_update
from edgekit.errors import EdgekitError, ExperimentError, TrainingError
from edgekit.flower import to_record
from edgekit.local_settings import LocalSettings
from edgekit.randomness import generator

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
WAIT_SECONDS = 0.2
"""Between two looks for nodes."""
log = logging.getLogger(__name__)


def strategy_of(
    method: str | Algorithm,
    settings: LocalSettings | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    fraction: float = 1.0,
    least: int = 2,
    seed: int = 0,
) -> Strategy:
    """Return a strategy for Flower's `ServerApp` that runs one of our methods.

    Args:
        method: its name, an import path, or itself.
        settings: how clients train.
        arguments: the method's own, as `federation.arguments` has them.
        fraction: share of the nodes that take part in a round.
        least: nodes that a round waits for.
        seed: of who does.

    Raises:
        ExperimentError: there is none, or it needs what only edgekit's own loop has.
    """
    algorithm = made(method, arguments or {}, released=False) if isinstance(method, str) else method
    settings = settings or LocalSettings()
    if algorithm.interactive or algorithm.unequal or algorithm.modules:
        raise ExperimentError(f"{method} has clients do what only edgekit's own loop can ask: edgekit run")
    if type(algorithm).prepare is not Algorithm.prepare:
        raise ExperimentError(f"{method} looks at the network first, for which Flower has no place: edgekit run")
    if settings.protects:
        raise ExperimentError("a Flower app counts no privacy: use edgekit run, which does")
    if not 0 < fraction <= 1:
        raise ExperimentError(f"fraction is {fraction:g}; it must be above 0, and 1 at most")
    if least < 1:
        raise ExperimentError(f"least is {least}; it must be 1 at the least")
    return MethodStrategy(algorithm, settings, fraction, least, seed)


class MethodStrategy(Strategy):
    """A method, as Flower's server drives it; arguments as of `strategy_of`."""

    def __init__(self, algorithm: Algorithm, settings: LocalSettings, fraction: float, least: int, seed: int) -> None:
        self._algorithm, self._settings = algorithm, settings
        self._fraction, self._least, self._seed = fraction, least, seed
        self._state: State | None = None
        self._asks: dict[int, Any] = {}
        self._nodes = 0

    def summary(self) -> None:
        """Log what it is."""
        log.info("%s of edgekit, %s", type(self._algorithm).__name__, self._settings)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask a round's nodes."""
        while len(nodes := sorted(grid.get_node_ids())) < self._least:
            time.sleep(WAIT_SECONDS)
        self._nodes = len(nodes)
        if self._state is None or server_round == 1:
            weights = {name: array.numpy() for name, array in arrays.items()}
            if moving := [name for name in weights if name.rpartition(".")[2] in STATISTICS]:
                raise ExperimentError(
                    f"{moving[0]!r} is a running statistic, for which a Flower app has no place: use a norm by "
                    "example, such as GroupNorm"
                )
            self._state = self._algorithm.begin(weights, frozenset(weights))
        count = max(1, round(self._fraction * len(nodes)))
        drawn = generator(self._seed, "cohort", server_round).choice(len(nodes), count, replace=False)
        cohort = sorted(nodes[place] for place in drawn)
        asks = self._algorithm.ask(self._state, cohort, server_round)
        self._asks = {node: replace(ask, settings=self._settings, round=server_round) for node, ask in asks.items()}
        written: dict[int, Any] = {}
        messages = []
        for node, ask in self._asks.items():
            key = id(asks[node])
            if key not in written:
                written[key] = wire.Message(*wire.asking(ask)).record()
            messages.append(Message(written[key], node, MessageType.TRAIN))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Let the method make the next model of the replies that fit.

        Raises:
            TrainingError: none fits, or the method's server trains too, for which Flower has no place.
        """
        assert self._state is not None
        updates: dict[int, Update] = {}
        problem: object = "nobody answered"
        algorithm, before = self._algorithm, self._state.bundles[WEIGHTS]
        for reply in sorted(replies, key=lambda one: one.metadata.src_node_id):
            node = reply.metadata.src_node_id
            try:
                ask = self._asks[node]
                update = wire.update_of(wire.read(reply))
                if unfit := problem_with_update(update, answer_like(algorithm, ask)):
                    raise TrainingError(unfit)
            except (KeyError, EdgekitError) as error:
                problem = error
                log.warning("round %d: node %d left out: %s", server_round, node, error)
                continue
            updates[node] = algorithm.whole(update, ask, before)
        if not updates:
            raise TrainingError(f"round {server_round}: no update of a node can be taken; the last: {problem}")
        bundles, facts = mean_of(list(updates.values()))
        each = updates if algorithm.reads == "each" else None
        got = Aggregate(bundles, facts, len(updates), self._nodes, each, self._settings)
        merged = algorithm.merge(self._state, got, server_round)
        if isinstance(merged, Generator):
            raise TrainingError(f"{type(algorithm).__name__} has the server train, which edgekit run can do")
        self._state = merged
        return to_record(algorithm.model(merged)), MetricRecord(dict(facts))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nobody: `Strategy.start` takes an `evaluate_fn` of the server's."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing."""
        return None
