"""The server's half of a round: what the updates become for the method, and the method makes of them."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from edgekit.algorithms.base import checked, checked_asks
from edgekit.arrays import Weights, problem_with
from edgekit.asks import (
    BUFFERS,
    Ask,
    Bundles,
    Scored,
    State,
    Update,
    own_bundles,
)
from edgekit.errors import TrainingError
from edgekit.local_settings import LocalSettings
from edgekit.server.loop.metrics import rounded_all
from edgekit.server.loop.reading import Reading
from edgekit.server.loop.server_trainer import ServerTrainer
from edgekit.transforms.base import Round
from edgekit.transforms.chain import Chain, Draw

T = TypeVar("T")


class Merging:
    """A method with the transforms that its updates go through; what fails there says whose fault it is.

    Args:
        reading: reads replies for the method.
        chain: the transforms.
        cohort: clients that take part in a round, on average.
        clients: that there are.
        examples: returns how many examples all have together.
        draw: gives the server's random numbers.
        settings: gives a round's instructions to clients, for a server that trains as they do.
        trainer: answers what the method's merge asks for.
    """

    def __init__(
        self,
        reading: Reading,
        chain: Chain,
        *,
        cohort: int,
        clients: int,
        examples: Callable[[], int],
        draw: Draw,
        settings: Callable[[int], LocalSettings],
        trainer: ServerTrainer,
    ) -> None:
        self.reading, self._algorithm, self._chain = reading, reading.algorithm, chain
        self._cohort, self._clients, self._examples, self._draw = cohort, clients, examples, draw
        self._trainer, self._settings = trainer, settings

    @property
    def folds(self) -> bool:
        """Whether the mean of a round's updates will do for all that look at them."""
        return self._chain.reads_means(self._algorithm.reads)

    def begin(self, weights: Weights, learnt: frozenset[str]) -> State:
        """Return the method's state before the first round."""
        return self.reading.tried(0, "could not begin", lambda: checked(self._algorithm.begin(weights, learnt)))

    def asks(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Return what each client of a round is asked."""
        ask = self._algorithm.ask
        return self.reading.tried(
            number, "could not configure the round", lambda: checked_asks(ask(state, clients, number), clients)
        )

    def prepared(self, ask: Ask, states: Sequence[State]) -> Ask:
        """Return an ask as the transforms leave it."""
        return self.reading.tried(ask.round, "could not configure the round", lambda: self._chain.prepare(ask, states))

    def states(self, like: Bundles, number: int) -> list[State]:
        """Return what the transforms remember before their first round."""
        return self.reading.tried(
            number, "has a transform that could not begin", lambda: [checked(one) for one in self._chain.begin(like)]
        )

    def merged(
        self,
        before: State,
        states: Sequence[State],
        number: int,
        updates: Mapping[int, Update],
        like: Bundles,
        weights: Weights,
        count: int | None = None,
    ) -> tuple[State, Sequence[State], Mapping[str, Any]]:
        """Let the method make the next state of what it may see; return it, the transforms' and the round's metrics.

        Args:
            before: the method's state.
            states: the transforms'.
            number: of the round.
            updates: valid ones, by client.
            like: arrays such as each has.
            weights: that clients began with.
            count: how many clients' updates these are; None is one each.
        """
        round_ = Round(number, weights, like, self._cohort, self._clients, self._examples)
        algorithm, received = self._algorithm, self._chain.received
        got, after_all = self.reading.tried(
            number,
            "has a transform that failed at the server",
            lambda: received(updates, states, round_, self._draw, algorithm.reads, count),
        )
        if got is None:
            return before, [checked(one) for one in after_all], {}

        def merge() -> tuple[State, Any, dict[str, Any]]:
            made = algorithm.merge(before, replace(got, settings=self._settings(number)), number)
            after = checked(self._trainer.driven(made, number) if isinstance(made, Generator) else made)
            return after, dict(algorithm.model(after)), rounded_all(after.facts.get("metrics", got.facts))

        after, model, metrics = self.reading.tried(number, "could not aggregate the updates", merge)
        if problem := problem_with(model, algorithm.model(before)):
            told = f"{self.reading.method} gave unusable weights ({problem}): lower the learning rate"
            raise TrainingError(f"round {number}: {told}")
        return after, [checked(one) for one in after_all], metrics

    def scored(
        self,
        number: int,
        state: State,
        clients: Sequence[int],
        measure: Callable[[Mapping[int, Ask]], Mapping[int, Scored]],
    ) -> tuple[Mapping[int, Scored], Mapping[str, Any]]:
        """Ask clients how good the model is on what they hold back; return that, and the method's metrics."""
        ask, tell = self._algorithm.ask_scores, self._algorithm.tell_scores
        asks = self.reading.tried(number, "could not configure the round", lambda: ask(state, clients, number))
        scores = measure(asks)
        if not scores:
            return scores, {}
        problem = "could not aggregate the clients' scores"
        return scores, self.reading.tried(number, problem, lambda: rounded_all(tell(scores, number)))


def without_buffers(updates: Mapping[int, Update]) -> tuple[dict[int, Update], Weights]:
    """Return updates without running statistics, which no method sees, and the plain mean of these by weight.

    Taken in double precision; counts of batches are rounded. {} where there are none.
    """
    kept: dict[int, Update] = {}
    means: dict[str, tuple[Any, Any]] = {}
    total = sum(update.weight for update in updates.values())
    for client, update in updates.items():
        kept[client] = replace(update, bundles=own_bundles(update.bundles))
        for name, array in update.bundles.get(BUFFERS, {}).items():
            share = array.astype(np.float64) * (update.weight / total)
            means[name] = (means[name][0] + share, array.dtype) if name in means else (share, array.dtype)
    return kept, {name: _as(mean, dtype) for name, (mean, dtype) in means.items()}


def _as(mean: Any, dtype: Any) -> Any:
    return np.asarray(mean if np.issubdtype(dtype, np.floating) else np.rint(mean), dtype)


def moved_on(average: Weights, averaged: int, weights: Weights) -> Weights:
    """Return the running mean of `averaged` global models, of which `weights` is the newest."""
    old = average or weights
    return {name: np.asarray(old[name] + (w - old[name]) / averaged, w.dtype) for name, w in weights.items()}
