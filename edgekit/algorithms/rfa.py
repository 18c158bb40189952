"""RFA: the geometric median instead of the mean, by smoothed Weiszfeld steps (Pillutla et al. 2022, algorithm 2)."""

from typing import Annotated, ClassVar

from pydantic import Field

from edgekit.algorithms.base import State
from edgekit.algorithms.fedavg import FedAvg
from edgekit.algorithms.robust import changes, distances, moved, summed, weights_of
from edgekit.asks import WEIGHTS, Aggregate
from edgekit.section import Positive, Section


class RFASettings(Section):
    """The method's own."""

    iterations: Annotated[int, Field(ge=1, le=1000)] = 4
    """Weiszfeld steps from the mean on."""
    smoothing: Positive = 1e-6
    """Nu: least distance that a client is reckoned to have."""


class RFA(FedAvg):
    """The point with the least sum of weighted distances; up to half of the weight may be wrong."""

    Settings: ClassVar[type[Section]] = RFASettings
    settings: RFASettings
    reads = "each"
    stands = 0.5

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Take Weiszfeld steps from the mean: each client counts by its weight over its distance."""
        each, alphas = changes(state, got), weights_of(got)
        point = summed(each, alphas)
        for _ in range(self.settings.iterations):
            far = distances(each, point)
            betas = [alpha / max(self.settings.smoothing, one) for alpha, one in zip(alphas, far, strict=True)]
            point = summed(each, [beta / sum(betas) for beta in betas])
        return State({WEIGHTS: moved(state, point)}, state.facts)
