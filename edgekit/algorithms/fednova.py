"""FedNova: clients that make unequal numbers of steps count by direction (Wang et al. 2020, equations 7 and 8)."""

import numpy as np

from edgekit.algorithms.base import Algorithm, Client, Half, State, facts_of, step_weight, with_mu
from edgekit.asks import WEIGHTS, Aggregate, Ask, Bundles, Train, Update

DIRECTION, NORMALISER = "direction", "normaliser"


class FedNova(Algorithm):
    """A client sends d_i, its change over the l1 norm a_i of its steps' weights; the model moves by mean(a) mean(d).

    The normaliser a_i is a bundle of its own: what travels is bounded and counted where updates are protected.
    """

    bundles = (DIRECTION, NORMALISER)
    moves = (DIRECTION,)
    plain_sgd = True

    def local(self, ask: Ask, client: Client) -> Half:
        """Train, and send the direction."""
        before = ask.bundles[WEIGHTS]
        trained = yield Train(before, with_mu(ask))
        scale = step_weight(trained.steps, ask.settings.momentum)
        direction = {name: (array - before[name]) / array.dtype.type(scale) for name, array in trained.arrays.items()}
        normaliser = {"a": np.array([scale], np.float32)}
        return Update({DIRECTION: direction, NORMALISER: normaliser}, trained.examples, facts_of(trained))

    def expects(self, ask: Ask) -> Bundles:
        """Expect a direction of the weights' shapes, and one number."""
        return {DIRECTION: ask.bundles[WEIGHTS], NORMALISER: {"a": np.zeros(1, np.float32)}}

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Move the model by the mean direction, as far as clients went on average."""
        far = max(0.0, float(got.bundles[NORMALISER]["a"][0]))  # noise may have made it negative
        weights = {
            name: (w + far * got.bundles[DIRECTION][name]).astype(w.dtype) for name, w in state.bundles[WEIGHTS].items()
        }
        return State({WEIGHTS: weights}, state.facts)
