"""IFCA: a model a cluster of clients; each joins the one that is best on its data (Ghosh et al. 2020, algorithm 1)."""

from collections.abc import Generator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from edgekit.algorithms.base import Algorithm, Client, Half, State, facts_of
from edgekit.arrays import Array, Weights
from edgekit.asks import WEIGHTS, Aggregate, Ask, Bundles, Request, Score, Scored, Train, Update
from edgekit.errors import TrainingError
from edgekit.randomness import generator
from edgekit.section import Section

CHANGE, MEMBERS, OWN = "change", "members", "cluster"


class IFCASettings(Section):
    """The method's own."""

    clusters: Annotated[int, Field(ge=2, le=16)] = 2
    """Models."""
    seed: int = 0
    """Of the first weights of all but one."""


class IFCA(Algorithm):
    """Each client is sent all models, trains the one of the least loss on its own examples, and sends the change.

    The first model begins as the network was made, the others with weights drawn anew, of each array's own spread. The
    run's global model is that of the largest cluster; clients are measured by their own.
    """

    Settings: ClassVar[type[Section]] = IFCASettings
    settings: IFCASettings
    reads = "each"
    bundles = (CHANGE, MEMBERS)
    moves = (CHANGE,)
    statistics = False
    losses = True
    keeps = True

    def begin(self, weights: Weights, learnt: frozenset[str]) -> State:
        """Draw the other models."""
        models = {WEIGHTS: weights}
        for place in range(1, self.settings.clusters):
            rng = generator(self.settings.seed, "ifca", place)
            models[_name(place)] = {
                name: rng.normal(0.0, float(w.std()), w.shape).astype(w.dtype) if w.std() else w.copy()
                for name, w in weights.items()
            }
        return State(models, {"largest": 0})

    def ask(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Send all models."""
        return dict.fromkeys(clients, Ask(state.bundles))

    def local(self, ask: Ask, client: Client) -> Half:
        """Choose, and train."""
        losses = []
        for place in range(self.settings.clusters):
            scored = yield Score(self._model(ask, place))
            losses.append(scored.loss)
        own = int(np.argmin(losses))
        before = self._model(ask, own)
        trained = yield Train(before, ask.settings)
        client.state[OWN] = {"place": np.array([own], np.int64)}
        change = {name: trained.arrays[name] - w for name, w in before.items()}
        return Update({CHANGE: change, MEMBERS: {"place": self._marked(own)}}, trained.examples, facts_of(trained))

    def evaluate(self, ask: Ask, client: Client) -> Generator[Request, Any, Scored]:
        """Measure the model of the client's cluster."""
        held = client.state.get(OWN, {}).get("place", np.zeros(1, np.int64))
        scored: Scored = yield Score(self._model(ask, min(int(held[0]), self.settings.clusters - 1)))
        return scored

    def expects(self, ask: Ask) -> Bundles:
        """Expect a change of the weights' shapes, and whose it is."""
        return {CHANGE: ask.bundles[WEIGHTS], MEMBERS: {"place": self._marked(0)}}

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Move each model by the mean change of its cluster."""
        assert got.updates is not None
        models, largest = dict(state.bundles), np.zeros(self.settings.clusters)
        for place in range(self.settings.clusters):
            name = _name(place)
            own = [one for one in got.updates.values() if int(np.argmax(one.bundles[MEMBERS]["place"])) == place]
            total = sum(one.weight for one in own)
            largest[place] = total
            if own:
                models[name] = {
                    key: (w + sum(one.bundles[CHANGE][key] * (one.weight / total) for one in own)).astype(w.dtype)
                    for key, w in models[name].items()
                }
        facts = {"largest": int(largest.argmax()), "metrics": {f"cluster-{i}": float(n) for i, n in enumerate(largest)}}
        return State(models, facts)

    def model(self, state: State) -> Weights:
        """Return the model of the cluster that had most examples last."""
        place = int(state.facts.get("largest", 0))
        return state.bundles[_name(place)]

    def _model(self, ask: Ask, place: int) -> Weights:
        name = _name(place)
        if name not in ask.bundles:
            raise TrainingError(f"the round has no model of cluster {place}")
        return ask.bundles[name]

    def _marked(self, place: int) -> Array:
        return np.asarray(np.arange(self.settings.clusters) == place, np.float32)


def _name(place: int) -> str:
    return f"cluster-{place}" if place else WEIGHTS
