"""Centred clipping: changes clipped around the last round's mean change (Karimireddy et al. 2021, algorithm 2)."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from edgekit.algorithms.base import State
from edgekit.algorithms.fedavg import FedAvg
from edgekit.algorithms.robust import changes, distances, moved, summed
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Aggregate
from edgekit.section import Section

CENTRE = "centre"


class CentredClippingSettings(Section):
    """The method's own."""

    radius: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Tau: how far from the centre a change counts in full; 0 is the clients' median distance in each step."""
    iterations: Annotated[int, Field(ge=1, le=100)] = 3
    """Steps of the centre a round."""


class CentredClipping(FedAvg):
    """The centre v becomes v + mean of (change - v), each clipped to the radius; all clients count the same."""

    Settings: ClassVar[type[Section]] = CentredClippingSettings
    settings: CentredClippingSettings
    reads = "each"
    stands = 0.5

    def begin(self, weights: Weights, learnt: frozenset[str]) -> State:
        """Begin with a centre of zero."""
        return State({WEIGHTS: weights, CENTRE: {name: np.zeros_like(w) for name, w in weights.items()}})

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Move the centre, and the model by it."""
        each, centre = changes(state, got), state.bundles[CENTRE]
        for _ in range(self.settings.iterations):
            far = distances(each, centre)
            radius = self.settings.radius or float(np.median(far))
            shares = [min(1.0, radius / one if one else 1.0) / len(each) for one in far]
            towards = summed(each, shares)
            centre = {name: towards[name] + v * (1 - sum(shares)) for name, v in centre.items()}
        kept = {name: v.astype(state.bundles[CENTRE][name].dtype) for name, v in centre.items()}
        return State({WEIGHTS: moved(state, centre), CENTRE: kept}, state.facts)
