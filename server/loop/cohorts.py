"""Who takes part in a round: draws cohorts by a selector, among those who are there."""

from collections.abc import Mapping, Sequence

from edgekit.arrays import Weights
from edgekit.asks import Update
from edgekit.errors import ExperimentError
from edgekit.randomness import generator
from edgekit.server.engines.base import Engine
from edgekit.server.loop import selection
from edgekit.server.loop.candidates import History
from edgekit.server.loop.charging import Charging
from edgekit.server.loop.selection import reads_of
from edgekit.server.settings import Sections
from edgekit.transforms.base import Mechanism


class Cohorts:
    """Draws each round's cohort.

    Args:
        experiment: the experiment.
        mechanism: of its privacy; None without.
        charging: privacy's count.
        clients: that there are.

    Attributes:
        size: clients a round, as wanted.
        history: what clients told so far, where the selector looks at that.
    """

    def __init__(self, experiment: Sections, mechanism: Mechanism | None, charging: Charging, clients: int) -> None:
        federation = experiment.federation
        self._selector = selection.make(federation.selector or (mechanism.selector if mechanism else "uniform"))
        self._name, self._reads = federation.selector, reads_of(self._selector)
        self._seed, self._charging, self._clients = experiment.seed, charging, clients
        self._times = experiment.devices.over_selection
        self.size = federation.cohort or clients
        self.history = History()

    @property
    def reads_each(self) -> bool:
        """Whether single updates are looked at."""
        return bool({"losses", "rounds"} & set(self._reads))

    def check(self, engine: Engine, *, losses: bool) -> None:
        """See that an engine tells what the selector looks at.

        Args:
            engine: the engine.
            losses: whether clients tell how well they trained.

        Raises:
            ExperimentError: it does not.
        """
        if self._reads == ("devices",) and engine.conditions(()) is None:
            raise ExperimentError(
                f"federation.selector {self._name!r} goes by devices: give the clients some, as in [devices] "
                'population = {"raspberry-pi-4" = 10}'
            )
        if "losses" in self._reads and not losses:
            raise ExperimentError(
                f"federation.selector {self._name!r} goes by the clients' training losses, which this method's clients "
                "do not tell: use another"
            )

    def draw(self, engine: Engine, number: int, attempt: int) -> list[int]:
        """Draw the cohort of a round, which may be tried again."""
        hidden = self._charging.hides_cohort
        if hidden:  # a round that is run again asks the same, who were charged for it
            rng = generator(self._charging.seed, "cohort", number)
        else:  # others than those who did not answer
            rng = generator(self._seed, "cohort", number, *((attempt,) if attempt else ()))

        def drawn(clients: Sequence[int], wanted: int | None = None) -> list[int]:
            # Of a fleet not everyone is there: clients join with their chance, or as many as wanted do.
            count = len(clients)
            size = self.size * self._times if wanted is None else wanted
            cohort = size / self._clients * count if hidden else min(int(size + 0.5), count)
            if self._reads:
                about = self.history.of(clients, engine.conditions(clients) if "devices" in self._reads else None)
                chosen = self._selector.choose(cohort, count, number, rng, about)  # type: ignore[call-arg]
            else:
                chosen = self._selector.choose(cohort, count, number, rng)
            return [clients[place] for place in selection.checked(chosen, count)]

        return engine.choose(number, drawn)

    def note(self, number: int, cohort: Sequence[int], updates: Mapping[int, Update]) -> None:
        """Write down a round's cohort and updates, where the selector looks at what came of them."""
        if self.reads_each:
            self.history.note(number, cohort, updates)

    def state(self) -> Weights:
        """Return what a checkpoint keeps."""
        return self.history.state() if self.reads_each else {}
