"""q-FedAvg: clients with larger losses count more, so that accuracy is spread evenly (Li et al. 2020, algorithm 2)."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from edgekit.algorithms.base import Algorithm, Client, Half, State, facts_of
from edgekit.asks import WEIGHTS, Aggregate, Ask, Bundles, Score, Train, Update
from edgekit.section import Section

STEP, CURVATURE = "step", "curvature"


class QFedAvgSettings(Section):
    """The method's own."""

    q: Annotated[float, Field(ge=0, le=20)] = 1.0
    """How much larger losses count; 0 is the plain mean over clients."""


class QFedAvg(Algorithm):
    """A client sends F^q (w - w_i) and lr h_i, where F is its loss of w; the model moves by sum(steps) / sum(lr h).

    h_i = q F^(q-1) |w - w_i|^2 / lr^2 + F^q / lr bounds the curvature; lr, the clients' step size, is 1 / L. Both are
    sent times lr, which cancels, since small numbers can be sent.
    """

    Settings: ClassVar[type[Section]] = QFedAvgSettings
    settings: QFedAvgSettings
    bundles = (STEP, CURVATURE)
    moves = (STEP,)
    losses = True

    def local(self, ask: Ask, client: Client) -> Half:
        """Measure the model on what the client trains on, and train."""
        before, q, rate = ask.bundles[WEIGHTS], self.settings.q, ask.settings.learning_rate
        scored = yield Score(before)
        loss = max(scored.loss, 1e-10)
        trained = yield Train(before, ask.settings)
        moved = {name: w - trained.arrays[name] for name, w in before.items()}
        squared = sum(float(np.vdot(one, one)) for one in moved.values())
        curvature = q * loss ** (q - 1) * squared / rate + loss**q
        step = {name: (loss**q * one).astype(before[name].dtype) for name, one in moved.items()}
        return Update({STEP: step, CURVATURE: {"h": np.array([curvature], np.float32)}}, facts=facts_of(trained))

    def expects(self, ask: Ask) -> Bundles:
        """Expect a step of the weights' shapes, and one number."""
        return {STEP: ask.bundles[WEIGHTS], CURVATURE: {"h": np.zeros(1, np.float32)}}

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Move the model."""
        h = float(got.bundles[CURVATURE]["h"][0])
        if not h > 0:  # of honest clients it is
            return state
        weights = {
            name: (w - got.bundles[STEP][name] / h).astype(w.dtype) for name, w in state.bundles[WEIGHTS].items()
        }
        return State({WEIGHTS: weights}, state.facts)
