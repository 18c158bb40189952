"""Ditto: beside the global model each client trains one of its own, pulled to it (Li et al. 2021, algorithm 1)."""

import dataclasses
from collections.abc import Generator
from typing import Annotated, Any, ClassVar

from pydantic import Field

from edgekit.algorithms.base import Client, Half, plain_update
from edgekit.algorithms.fedavg import FedAvg
from edgekit.arrays import Weights, problem_with
from edgekit.asks import BUFFERS, WEIGHTS, Ask, Request, Score, Scored, Train
from edgekit.section import Section

OWN, OWN_BUFFERS = "own", "own-buffers"


class DittoSettings(Section):
    """The method's own."""

    pull: Annotated[float, Field(ge=0, le=100)] = 0.1
    """Lambda: weight of the distance from the global model; 0 is a client by itself."""


class Ditto(FedAvg):
    """Federated averaging; a client's own model never leaves it, and is what it is measured by."""

    Settings: ClassVar[type[Section]] = DittoSettings
    settings: DittoSettings
    keeps = True
    proximal = True
    trainings = 2

    def local(self, ask: Ask, client: Client) -> Half:
        """Train the own model, then the global one, which is sent."""
        settings = dataclasses.replace(ask.settings, proximal_mu=self.settings.pull)
        weights, buffers = self._own(ask, client)
        own = yield Train(weights, settings, anchor=ask.bundles[WEIGHTS], buffers=buffers)
        client.state[OWN] = dict(own.arrays)
        client.state[OWN_BUFFERS] = dict(own.buffers)
        trained = yield Train(ask.bundles[WEIGHTS], ask.settings)
        return plain_update(trained)

    def evaluate(self, ask: Ask, client: Client) -> Generator[Request, Any, Scored]:
        """Measure the client's own model."""
        weights, buffers = self._own(ask, client)
        scored: Scored = yield Score(weights, buffers=buffers)
        return scored

    def _own(self, ask: Ask, client: Client) -> tuple[Weights, Weights | None]:
        """Return the client's own model; the global one of a client that comes for the first time."""
        weights, sent = ask.bundles[WEIGHTS], ask.bundles.get(BUFFERS)
        own, statistics = client.state.get(OWN, {}), client.state.get(OWN_BUFFERS, {})
        if problem_with(own, weights) or problem_with(statistics, sent or {}):
            return weights, sent
        return own, statistics if sent is not None else None
