"""Norm bounding: no client moves the mean by more than a bound (Sun et al. 2019, section 5)."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from edgekit.algorithms.base import State
from edgekit.algorithms.fedavg import FedAvg
from edgekit.algorithms.robust import changes, moved, summed, weights_of
from edgekit.arrays import total_norm
from edgekit.asks import WEIGHTS, Aggregate
from edgekit.section import Section


class NormBoundingSettings(Section):
    """The method's own."""

    bound: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Largest l2 norm of a change; 0 is the clients' median in each round."""


class NormBounding(FedAvg):
    """The mean by weight of changes that are scaled down to the bound."""

    Settings: ClassVar[type[Section]] = NormBoundingSettings
    settings: NormBoundingSettings
    reads = "each"

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Scale, and average."""
        each = changes(state, got)
        norms = [total_norm(one.values()) for one in each]
        bound = self.settings.bound or float(np.median(norms))
        factors = [min(1.0, bound / norm) if norm else 1.0 for norm in norms]
        shares = [alpha * factor for alpha, factor in zip(weights_of(got), factors, strict=True)]
        return State({WEIGHTS: moved(state, summed(each, shares))}, state.facts)
