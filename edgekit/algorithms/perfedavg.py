"""Per-FedAvg: a model from which one step makes each client's own (Fallah et al. 2020, algorithm 1, first-order)."""

import dataclasses
from collections.abc import Generator
from typing import Annotated, Any, ClassVar

from pydantic import Field

from edgekit.algorithms.base import Client, Half, facts_of
from edgekit.algorithms.fedavg import FedAvg
from edgekit.arrays import problem_with
from edgekit.asks import WEIGHTS, Ask, Request, Score, Scored, Train, Update
from edgekit.section import Positive, Section

OWN = "own"


class PerFedAvgSettings(Section):
    """The method's own."""

    steps: Annotated[int, Field(ge=1, le=400)] = 10
    """Of each client in a round: each takes two batches."""
    own_rate: Positive = 0.05
    """Alpha: size of the step that makes a client's own model; `training.learning_rate` is beta, of the common one."""


class PerFedAvg(FedAvg):
    """A client's step: one of alpha on a batch, there the gradient on another batch, which beta times moves the model.

    Second derivatives are left out (their FO variant). A client's own model is the one step from what it was sent
    last, on a batch of its own; by that it measures.
    """

    Settings: ClassVar[type[Section]] = PerFedAvgSettings
    settings: PerFedAvgSettings
    keeps = True
    plain_sgd = True
    trainings = 2
    statistics = False  # those of one step are not another's

    def local(self, ask: Ask, client: Client) -> Half:
        """Take the steps; keep the first one's own model."""
        model = ask.bundles[WEIGHTS]
        beta = dataclasses.replace(ask.settings, most_steps=1, momentum=0.0)
        alpha = dataclasses.replace(beta, learning_rate=self.settings.own_rate)
        facts: dict[str, Any] = {}
        examples = 1
        for step in range(self._count(ask)):
            own = yield Train(model, alpha)
            if not step:
                client.state[OWN], facts, examples = dict(own.arrays), facts_of(own), own.examples
            moved = yield Train(own.arrays, beta)
            model = {name: w + (moved.arrays[name] - own.arrays[name]) for name, w in model.items()}
        return Update({WEIGHTS: model}, examples, facts)

    def batches(self, ask: Ask) -> int | None:
        """Return that each step takes two batches."""
        return 2 * self._count(ask)

    def _count(self, ask: Ask) -> int:
        """Return the steps of a round, or as many as a device can make in time (`devices.fit_work`)."""
        most = ask.settings.most_steps
        return min(self.settings.steps, max(1, most // 2)) if most else self.settings.steps

    def evaluate(self, ask: Ask, client: Client) -> Generator[Request, Any, Scored]:
        """Measure the client's own model."""
        weights, own = ask.bundles[WEIGHTS], client.state.get(OWN, {})
        scored: Scored = yield Score(weights if problem_with(own, weights) else own)
        return scored
