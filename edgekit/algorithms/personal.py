"""Personal layers stay with their client, the others are averaged (Arivazhagan et al. 2019, algorithms 1 and 2)."""

from collections.abc import Generator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from edgekit.algorithms.base import Client, Half, State, facts_of, with_mu
from edgekit.algorithms.fedavg import FedAvg
from edgekit.arrays import Weights, is_of, problem_with
from edgekit.asks import BUFFERS, WEIGHTS, Aggregate, Ask, Bundles, Request, Score, Scored, Train, Update
from edgekit.errors import ExperimentError, nearest
from edgekit.section import Section

OWN, OWN_BUFFERS = "own", "own-buffers"


class PersonalSettings(Section):
    """The method's own."""

    layers: Annotated[list[str], Field(min_length=1)]
    """Names of layers or arrays that stay with their client; `*` stands for anything."""


class Personal(FedAvg):
    """Federated averaging of all but the personal layers, which a client begins with as they were drawn."""

    Settings: ClassVar[type[Section]] = PersonalSettings
    settings: PersonalSettings
    keeps = True

    @property
    def patterns(self) -> Sequence[str]:
        """Names of what stays."""
        return self.settings.layers

    def begin(self, weights: Weights, learnt: frozenset[str]) -> State:
        """See that there are such layers.

        Raises:
            ExperimentError: there are none, or nothing is left to share.
        """
        for pattern in self.patterns:
            if not any(is_of(name, [pattern]) for name in weights):
                layers = sorted({name.rpartition(".")[0] or name for name in weights})
                hint = nearest(pattern, layers)
                raise ExperimentError(f"federation.arguments.layers: no layer is called {pattern!r}; {hint}")
        if all(self._stays(name) for name in weights):
            raise ExperimentError("federation.arguments.layers: every layer would stay with its client: leave some out")
        return State({WEIGHTS: weights})

    def ask(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Send all weights: a client that comes for the first time needs its personal layers too."""
        return dict.fromkeys(clients, Ask({WEIGHTS: state.bundles[WEIGHTS]}))

    def local(self, ask: Ask, client: Client) -> Half:
        """Train all layers, and send what is shared."""
        trained = yield Train(self._joined(ask, client), with_mu(ask), buffers=self._buffers(ask, client))
        client.state[OWN_BUFFERS] = {name: held for name, held in trained.buffers.items() if self._stays(name)}
        client.state[OWN] = {name: array for name, array in trained.arrays.items() if self._stays(name)}
        shared = {name: array for name, array in trained.arrays.items() if not self._stays(name)}
        return Update({WEIGHTS: shared}, trained.examples, facts_of(trained))

    def evaluate(self, ask: Ask, client: Client) -> Generator[Request, Any, Scored]:
        """Measure the shared layers together with the client's own."""
        scored: Scored = yield Score(self._joined(ask, client), buffers=self._buffers(ask, client))
        return scored

    def expects(self, ask: Ask) -> Bundles:
        """Expect what is shared."""
        return {WEIGHTS: {name: w for name, w in ask.bundles[WEIGHTS].items() if not self._stays(name)}}

    def shares(self, name: str) -> bool:
        """Whether a statistic is of a shared layer."""
        return not self._stays(name)

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Average what is shared."""
        return State({WEIGHTS: {**state.bundles[WEIGHTS], **got.bundles[WEIGHTS]}}, state.facts)

    def _joined(self, ask: Ask, client: Client) -> Weights:
        weights = ask.bundles[WEIGHTS]
        # Clients once kept statistics and frozen weights among their own layers.
        own = {name: array for name, array in client.state.get(OWN, {}).items() if name in weights}
        fits = not problem_with(own, {name: w for name, w in weights.items() if self._stays(name)})
        return {**weights, **own} if fits else weights

    def _buffers(self, ask: Ask, client: Client) -> Weights:
        """Return running statistics, of which those of personal layers are the client's own."""
        sent = ask.bundles.get(BUFFERS, {})
        own = client.state.get(OWN_BUFFERS) or {n: a for n, a in client.state.get(OWN, {}).items() if n in sent}
        fits = not problem_with(own, {name: held for name, held in sent.items() if self._stays(name)})
        return {**sent, **own} if fits else sent

    def _stays(self, name: str) -> bool:
        return is_of(name, self.patterns)
