"""FedDyn: a regulariser that moves along makes clients' optima those of all (Acar et al. 2021, algorithm 1)."""

import dataclasses
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from edgekit.algorithms.base import Algorithm, Client, Half, State, facts_of
from edgekit.arrays import Weights, problem_with
from edgekit.asks import WEIGHTS, Aggregate, Ask, Train, Update
from edgekit.section import Section

GRADIENT, PULL = "gradient", "server-pull"


class FedDynSettings(Section):
    """The method's own."""

    alpha: Annotated[float, Field(gt=0, le=100)] = 0.05
    """Weight of the regulariser; the paper takes 0.1, 0.01 or 0.001, by the data."""


class FedDyn(Algorithm):
    """Each client keeps the gradient g_i at its last model, the server h, the sum of the ways that clients went.

    A client's steps go along the loss's gradient - g_i + alpha (w - w_t), and g_i becomes g_i - alpha (w_i - w_t). The
    server's h becomes h - alpha (share of clients) mean(w_i - w_t), and the model mean(w_i) - h / alpha.
    """

    Settings: ClassVar[type[Section]] = FedDynSettings
    settings: FedDynSettings
    drifts = True
    proximal = True
    keeps = True

    def begin(self, weights: Weights, learnt: frozenset[str]) -> State:
        """Begin with h of zero."""
        return State({WEIGHTS: weights, PULL: {name: np.zeros_like(w) for name, w in weights.items()}})

    def local(self, ask: Ask, client: Client) -> Half:
        """Train with the regulariser; remember the gradient that this leaves."""
        before, alpha = ask.bundles[WEIGHTS], np.float32(self.settings.alpha)
        own = client.state.get(GRADIENT, {})
        if problem_with(own, before):  # none yet, or of another network
            own = {name: np.zeros_like(w) for name, w in before.items()}
        settings = dataclasses.replace(ask.settings, proximal_mu=float(alpha))
        trained = yield Train(before, settings, drift={name: -g for name, g in own.items()})
        client.state[GRADIENT] = {
            name: (g - alpha * (trained.arrays[name] - before[name])).astype(g.dtype) for name, g in own.items()
        }
        return Update({WEIGHTS: trained.arrays}, facts=facts_of(trained))

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Take the mean of the weights, less h / alpha."""
        before, share, mean = state.bundles[WEIGHTS], got.count / got.clients, got.bundles[WEIGHTS]
        moved = {name: (mean[name] - w) * share for name, w in before.items()}  # of -h / alpha
        pull = {name: (p + moved[name]).astype(p.dtype) for name, p in state.bundles[PULL].items()}
        weights = {name: (mean[name] + pull[name]).astype(w.dtype) for name, w in before.items()}
        return State({WEIGHTS: weights, PULL: pull}, state.facts)
