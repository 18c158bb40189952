"""FedMD: clients share answers on public examples, not weights; each has a network of its own (Li & Wang 2019)."""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from edgekit.algorithms.base import MODULE, Algorithm, Client, Half, State, facts_of
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Aggregate, Ask, Bundles, Predict, Request, Score, Scored, Train, Update, mean_of
from edgekit.errors import ModelError, TrainingError
from edgekit.local_settings import LocalSettings
from edgekit.models.settings import Model
from edgekit.section import Count, Positive, Section

if TYPE_CHECKING:
    from torch import nn

PUBLIC, CONSENSUS, FIRST, SCORES, OWN = "public", "consensus", "first", "scores", "own"
"""Bundles: the examples, what all answer together, and a network's first weights; of an update, its answers; what a
client keeps."""
DIGEST, KNOWN = "digest", "known"
"""Whether there is a consensus yet; and the clients that have their network."""


class FedMDSettings(Section):
    """The method's own."""

    networks: list[str] = []
    """Networks of the zoo that clients have, by turns; none gives all the run's own."""
    passes: Count = 2
    """Over the public examples, when the consensus is digested."""
    learning_rate: Positive = 0.05
    """Of these."""
    batch_size: Count = 16
    """Of these."""


class FedMD(Algorithm):
    """Each client keeps its network; in a round it learns the consensus, then trains on its own examples, then answers.

    What travels are the public examples (the server's own, `data.calibration_examples`) and scores; weights but once,
    to a client that has none yet. The run's network, at the server, learns the consensus too: it is the one that is
    measured and delivered.
    """

    Settings: ClassVar[type[Section]] = FedMDSettings
    settings: FedMDSettings
    reads = "each"  # whose answer came has its network
    bundles = (SCORES,)
    keeps = True
    phases = False  # it would change at the server, not at the clients
    statistics = False
    needs_public = True
    trainings = 2
    needs_torch = "FedMD teaches by others' answers, which a training graph cannot: it"

    @property
    def modules(self) -> Mapping[str, Model]:  # type: ignore[override]
        """The clients' networks, by name."""
        return {name: Model(name=name) for name in self.settings.networks}

    def prepare(
        self,
        model: Model,
        shape: Sequence[int],
        build: "Callable[[Model], nn.Module]",
        *,
        released: bool,
        seed: int,
    ) -> None:
        """Make the clients' networks, for their first weights.

        Raises:
            ModelError: one cannot be built for these examples, or keeps running statistics.
        """
        from edgekit.models import batch_norms

        self._first: dict[str, Weights] = {}
        for name, section in self.modules.items():
            network = build(section)
            if norms := batch_norms(network):
                raise ModelError(
                    f"federation.arguments.networks: {name} keeps statistics ({norms[0]}), which do not travel"
                )
            learnt = [(key, p) for key, p in network.named_parameters() if p.requires_grad]
            self._first[name] = {key: p.detach().cpu().numpy().copy() for key, p in learnt}

    def begin(self, weights: Weights, learnt: frozenset[str]) -> State:
        """Begin without a consensus."""
        assert self.public is not None
        nothing = np.zeros((len(self.public), self.outputs), np.float32)
        own = {} if self._first else {FIRST: weights}  # all have the run's network
        return State({WEIGHTS: weights, CONSENSUS: {SCORES: nothing}, **own}, {DIGEST: False, KNOWN: []})

    def ask(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Send the examples and the consensus; name each client's network, and send it to those who have none yet."""
        assert self.public is not None
        bundles = {PUBLIC: {"x": self.public}, CONSENSUS: state.bundles[CONSENSUS]}
        digest, known = bool(state.facts.get(DIGEST, False)), set(state.facts.get(KNOWN, ()))
        firsts = self._first or {"": state.bundles[FIRST]}
        told = {name: Ask(bundles, {MODULE: name, DIGEST: digest}) for name in firsts}
        begun = {name: Ask({**bundles, FIRST: first}, told[name].config) for name, first in firsts.items()}
        names = list(firsts)
        return {client: (told if client in known else begun)[names[client % len(names)]] for client in clients}

    def local(self, ask: Ask, client: Client) -> Half:
        """Digest, revisit one's own examples, answer."""
        module, x, told = str(ask.config.get(MODULE, "")), ask.bundles[PUBLIC]["x"], ask.bundles[CONSENSUS][SCORES]
        own = _own(ask, client)
        if ask.config.get(DIGEST):
            own = (yield Train(own, self._how, module=module, taught=(x, told))).arrays
        trained = yield Train(own, ask.settings, module=module)
        client.state[OWN] = trained.arrays
        scores = yield Predict(trained.arrays, x, module)
        return Update({SCORES: {SCORES: np.asarray(scores, np.float32)}}, facts=facts_of(trained))

    def evaluate(self, ask: Ask, client: Client) -> Generator[Request, Any, Scored]:
        """Measure the client's own network."""
        module = str(ask.config.get(MODULE, ""))
        scored: Scored = yield Score(_own(ask, client), module)
        return scored

    def expects(self, ask: Ask) -> Bundles:
        """Return that an answer is like the consensus."""
        return {SCORES: ask.bundles[CONSENSUS]}

    def merge(self, state: State, got: Aggregate, number: int) -> Generator[Request, Any, State]:
        """Take the mean for the consensus; teach it to the run's network."""
        assert self.public is not None
        assert got.updates is not None
        told = mean_of(list(got.updates.values()))[0][SCORES][SCORES]
        known = sorted({*state.facts.get(KNOWN, ()), *got.updates})
        student = yield Train(state.bundles[WEIGHTS], self._how, taught=(self.public, told))
        metrics = {**got.facts, "distil_loss": float(student.loss or 0.0)}
        bundles = {**state.bundles, WEIGHTS: student.arrays, CONSENSUS: {SCORES: told}}
        return State(bundles, {DIGEST: True, KNOWN: known, "metrics": metrics})

    @property
    def _how(self) -> LocalSettings:
        own = self.settings
        return LocalSettings(epochs=own.passes, batch_size=own.batch_size, learning_rate=own.learning_rate)


def _own(ask: Ask, client: Client) -> Weights:
    """Return the client's network: what it was sent, when it has none yet.

    Raises:
        TrainingError: it lost the one it had.
    """
    own = client.state.get(OWN) or ask.bundles.get(FIRST)
    if own is None:
        raise TrainingError("this client does not have its network any more, which it was sent before")
    return own
