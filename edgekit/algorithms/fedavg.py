"""Federated averaging (McMahan et al. 2017, algorithm 1)."""

from edgekit.algorithms.base import Algorithm, State
from edgekit.asks import WEIGHTS, Aggregate


class FedAvg(Algorithm):
    """The new model is the mean of the clients' weights, by their numbers of examples."""

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Take the mean for the new weights."""
        return State({**state.bundles, WEIGHTS: got.bundles[WEIGHTS]}, state.facts)
