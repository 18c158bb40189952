"""FedBuff: asynchronous; a step is taken whenever a buffer of updates is full (Nguyen et al. 2022, algorithm 1)."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from edgekit.algorithms.base import Algorithm, Client, Half, State, facts_of
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Aggregate, Ask, Bundles, Train, Update
from edgekit.section import Positive, Section

DELTA, STALENESS = "delta", "staleness"


class FedBuffSettings(Section):
    """The method's own."""

    buffer: Annotated[int, Field(ge=1, le=100_000)] = 10
    """Updates of which a step is made; `federation.cohort` is how many clients train at once."""
    server_learning_rate: Positive = 1.0
    """Times the mean of the updates that a step is."""
    most_stale: Annotated[int, Field(ge=1, le=1000)] = 20
    """Steps that the model may have made since a client began; an older update is left out."""


class FedBuff(Algorithm):
    """Clients train at their own pace, each from the model as it was when it began.

    The model moves by the mean of a buffer's changes, each times 1 / sqrt(1 + staleness): the steps that the model has
    made since the client began.
    """

    Settings: ClassVar[type[Section]] = FedBuffSettings
    settings: FedBuffSettings
    bundles = (DELTA,)
    phases = False  # what is under way is of the network as it was

    @property
    def buffer(self) -> int:
        """Updates of which a step is made."""
        return self.settings.buffer

    def local(self, ask: Ask, client: Client) -> Half:
        """Train; send the change."""
        before = ask.bundles[WEIGHTS]
        trained = yield Train(before, ask.settings)
        return Update({DELTA: {name: trained.arrays[name] - w for name, w in before.items()}}, facts=facts_of(trained))

    def expects(self, ask: Ask) -> Bundles:
        """Return that changes are like weights."""
        return {DELTA: ask.bundles[WEIGHTS]}

    def whole(self, update: Update, ask: Ask, weights: Weights) -> Update:
        """Return an update that counts the less, the older it is."""
        stale = update.facts.get(STALENESS, 0)
        scale = np.float32((1 + (float(stale) if isinstance(stale, int | float) else 0.0)) ** -0.5)
        changes = {name: (d * scale).astype(d.dtype) for name, d in update.bundles[DELTA].items()}
        return Update({**update.bundles, DELTA: changes}, update.weight, update.facts)

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Take the step."""
        rate = np.float32(self.settings.server_learning_rate)
        moved = {
            name: (w + rate * got.bundles[DELTA][name]).astype(w.dtype) for name, w in state.bundles[WEIGHTS].items()
        }
        return State({**state.bundles, WEIGHTS: moved}, state.facts)
