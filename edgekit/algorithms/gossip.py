"""Gossip: everybody has a model, trains it, and averages it with a neighbour's, drawn anew in each round.

Decentralised SGD (Lian et al. 2017, algorithm 1) with the mixing of randomised gossip in pairs (Boyd et al. 2006). The
coordinator passes models on, and measures the mean of those that came; it sees each of them, and so does the neighbour.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from edgekit.algorithms.base import Algorithm, Client, Half, State, plain_update
from edgekit.arrays import Weights, problem_with
from edgekit.asks import WEIGHTS, Aggregate, Ask, Request, Score, Scored, Train, mean_of
from edgekit.errors import TrainingError
from edgekit.models.settings import Model
from edgekit.randomness import generator
from edgekit.section import Section

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any

    from torch import nn

OWN, PEER, START, KNOWN = "own", "peer", "start", "known"
"""What a member keeps; bundles of an ask: the neighbour's model, the first one; and who has a model."""


class Gossip(Algorithm):
    """A member's next model is trained from the mean of its own and its neighbour's; the run's is the mean of those who
    answered, by their numbers of examples."""

    Settings: ClassVar[type[Section]] = Section
    reads = "each"
    keeps = True
    relays = True
    statistics = False

    def prepare(
        self,
        model: Model,
        shape: Sequence[int],
        build: "Callable[[Model], nn.Module]",
        *,
        released: bool,
        seed: int,
    ) -> None:
        """Take the seed, by which neighbours are drawn."""
        self._seed = seed

    def begin(self, weights: Weights, learnt: frozenset[str]) -> State:
        """Begin with one model for all."""
        return State({WEIGHTS: weights, START: weights}, {KNOWN: []})

    def ask(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Pass models on; send the first one to whoever has none, and to who is left over, for its shapes."""
        known, asks = set(state.facts[KNOWN]), {}
        for client in clients:
            peer = state.bundles.get(f"to-{client}")
            alone = peer is None or client not in known
            asks[client] = Ask({**({} if peer is None else {PEER: peer}), **({START: _first(state)} if alone else {})})
        return asks

    def expects(self, ask: Ask) -> Mapping[str, Weights]:
        """Return that a model is like any other that was sent."""
        return {WEIGHTS: ask.bundles[PEER if PEER in ask.bundles else START]}

    def local(self, ask: Ask, client: Client) -> Half:
        """Average, train, send."""
        own = client.state.get(OWN) or ask.bundles.get(START)
        if own is None:
            raise TrainingError("this member does not have its model any more, which it had before")
        peer = ask.bundles.get(PEER, {})
        if not problem_with(peer, own):
            own = {name: ((w + peer[name]) / 2).astype(w.dtype) for name, w in own.items()}
        trained = yield Train(own, ask.settings)
        client.state[OWN] = dict(trained.arrays)
        return plain_update(trained)

    def evaluate(self, ask: Ask, client: Client) -> "Generator[Request, Any, Scored]":
        """Measure the member's own model."""
        scored: Scored = yield Score(client.state.get(OWN) or ask.bundles[START])
        return scored

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Draw pairs among those who answered; who is left over keeps to itself."""
        assert got.updates is not None
        there = sorted(got.updates)
        order = [there[place] for place in generator(self._seed, "gossip", number).permutation(len(there))]
        pairs = list(zip(order[::2], order[1::2], strict=False))
        partner = {**dict(pairs), **{b: a for a, b in pairs}}
        passed = {f"to-{client}": got.updates[other].bundles[WEIGHTS] for client, other in partner.items()}
        mean = mean_of(list(got.updates.values()))[0][WEIGHTS]
        known = sorted({*state.facts[KNOWN], *there})
        return State({WEIGHTS: mean, START: _first(state), **passed}, {KNOWN: known, "metrics": dict(got.facts)})


def _first(state: State) -> Weights:
    return state.bundles[START]
