"""SCAFFOLD: control variates take the clients' drift out (Karimireddy et al. 2020, algorithm 1, option II)."""

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.algorithms.base import Algorithm, Client, Half, State, facts_of, step_weight
from edgekit.arrays import problem_with
from edgekit.asks import WEIGHTS, Aggregate, Ask, Bundles, Train, Update
from edgekit.errors import TrainingError

CONTROL = "control"


class Scaffold(Algorithm):
    """Each client keeps a control variate c_i, the server their mean c; a client's steps go along g - c_i + c."""

    bundles = (WEIGHTS, CONTROL)
    moves = (WEIGHTS,)
    drifts = True
    keeps = True
    plain_sgd = True

    def begin(self, weights: dict[str, np.ndarray], learnt: frozenset[str]) -> State:
        """Begin with controls of zero."""
        return State({WEIGHTS: weights, CONTROL: {name: np.zeros_like(w) for name, w in weights.items()}})

    def ask(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Send the weights and the server's control."""
        return dict.fromkeys(clients, Ask(state.bundles))

    def local(self, ask: Ask, client: Client) -> Half:
        """Train with the drift c - c_i; the new c_i is the mean gradient along the way (algorithm 1, line 12, ii)."""
        before, control = ask.bundles[WEIGHTS], ask.bundles[CONTROL]
        if problem := problem_with(control, before):
            raise TrainingError(f"the server's control is not of this network: {problem}")
        own = client.state.get(CONTROL, {})
        if problem_with(own, control):  # none yet, or of another network
            own = {name: np.zeros_like(c) for name, c in control.items()}
        trained = yield Train(before, ask.settings, drift={name: c - own[name] for name, c in control.items()})
        scale = np.float32(1 / (step_weight(trained.steps, ask.settings.momentum) * ask.settings.learning_rate))
        # c_i+ - c_i = -c + (x - y_i) / (K lr)
        change = {name: (before[name] - trained.arrays[name]) * scale - c for name, c in control.items()}
        client.state[CONTROL] = {name: own[name] + change[name] for name in control}
        return Update({WEIGHTS: trained.arrays, CONTROL: change}, facts=facts_of(trained))

    def expects(self, ask: Ask) -> Bundles:
        """Expect new weights, and the change of the client's control."""
        return ask.bundles

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Take the mean of the weights; move c by the mean change times the share of clients that took part."""
        share = got.count / got.clients
        control = {
            name: (c + share * got.bundles[CONTROL][name]).astype(c.dtype) for name, c in state.bundles[CONTROL].items()
        }
        return State({WEIGHTS: got.bundles[WEIGHTS], CONTROL: control}, state.facts)
