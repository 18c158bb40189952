"""Who takes part in a round. A selector says how it samples: that, and nothing else, is what privacy may count on."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from edgekit.errors import ExperimentError, TrainingError
from edgekit.registry import SELECTORS

READS = ("rounds", "losses", "devices")
"""What selectors may look at: in which rounds clients took part, what training loss they told, how devices are."""


@dataclass(frozen=True)
class Sampling:
    """How a selector samples clients.

    Attributes:
        kind: `poisson`, where each joins independently with the same chance, as amplification by subsampling needs
            (Abadi et al. 2016, section 3.1); `fixed`, where so many join.
        rate: chance of a client to be in a round.
    """

    kind: Literal["poisson", "fixed"]
    rate: float

    @property
    def amplifies(self) -> float:
        """The rate that privacy may count on: 1 where the sampling has no such proof here."""
        return self.rate if self.kind == "poisson" else 1.0


class Selector(Protocol):
    """Draws cohorts.

    One that looks at clients says at what: `reads` names `rounds`, `losses` or `devices`, and `choose` is given a fifth
    argument, `Candidates` (`edgekit.server.loop.candidates`).
    """

    def sampling(self, cohort: int, clients: int) -> Sampling:
        """Return how clients are sampled, of whom `cohort` shall take part on average."""

    def choose(self, cohort: float, clients: int, number: int, rng: np.random.Generator) -> list[int]:
        """Return a round's cohort: places out of `clients`.

        Args:
            cohort: how many shall take part, on average where that varies.
            clients: that are there.
            number: of the round, from 1.
            rng: random numbers of this round, the same when it is run again.
        """


class Uniform:
    """So many clients, each set of them as likely as any other."""

    def sampling(self, cohort: int, clients: int) -> Sampling:
        """Return a fixed size."""
        return Sampling("fixed", cohort / clients)

    def choose(self, cohort: float, clients: int, number: int, rng: np.random.Generator) -> list[int]:
        """Draw without putting back."""
        if cohort == 0 or cohort >= clients:
            return list(range(clients))
        return _drawn(int(cohort), clients, rng)


class Poisson:
    """Each client joins independently with the chance cohort / clients; a cohort's size varies, and may be 0."""

    def sampling(self, cohort: int, clients: int) -> Sampling:
        """Return the chance."""
        return Sampling("poisson", cohort / clients)

    def choose(self, cohort: float, clients: int, number: int, rng: np.random.Generator) -> list[int]:
        """Draw the size, then who: the same distribution as one coin a client, without touching a million of them."""
        if cohort == 0 or cohort >= clients:
            return list(range(clients))
        return _drawn(int(rng.binomial(clients, cohort / clients)), clients, rng)


class RoundRobin:
    """One after the other, so that nobody takes part again before all others did."""

    def sampling(self, cohort: int, clients: int) -> Sampling:
        """Return a fixed size, of which nothing is left to chance."""
        return Sampling("fixed", cohort / clients)

    def choose(self, cohort: float, clients: int, number: int, rng: np.random.Generator) -> list[int]:
        """Go on where the round before ended; of a fleet whose clients come and go, by those that are there."""
        if cohort == 0 or cohort >= clients:
            return list(range(clients))
        size = int(cohort)
        first = (number - 1) * size
        return sorted((first + place) % clients for place in range(size))


def size_of(cohort: float, clients: int) -> int:
    """Return a cohort as a whole number: all of 0 or of more than there are, else at least one."""
    return clients if cohort == 0 or cohort >= clients else max(1, int(cohort))


def _drawn(size: int, clients: int, rng: np.random.Generator) -> list[int]:
    """Return so many clients, each at most once."""
    return sorted(int(client) for client in rng.choice(clients, size, replace=False))


def make(name: str) -> Selector:
    """Make the selector of a name or an import path.

    Raises:
        ExperimentError: there is none, or it is no selector.
    """
    loaded = SELECTORS.load(name)
    if not (isinstance(loaded, type) and all(callable(getattr(loaded, one, None)) for one in ("sampling", "choose"))):
        raise ExperimentError(f"federation.selector {name!r} is no selector's class: it needs `sampling` and `choose`")
    try:
        selector: Selector = loaded()
    except Exception as error:  # it may be the user's own
        raise ExperimentError(f"federation.selector {name} cannot be made: {type(error).__name__}: {error}") from None
    return selector


def reads_of(selector: object) -> tuple[str, ...]:
    """Return what a selector looks at.

    Raises:
        ExperimentError: it says something else.
    """
    reads = getattr(selector, "reads", ())
    if not isinstance(reads, tuple) or not set(reads) <= set(READS):
        raise ExperimentError(f"federation.selector {type(selector).__name__}: reads may name {', '.join(READS)}")
    return reads


def checked(chosen: object, clients: int) -> list[int]:
    """Return a cohort, if it is one.

    Raises:
        TrainingError: it is not, by whose fault is said.
    """
    if not isinstance(chosen, list) or not all(isinstance(one, int) and 0 <= one < clients for one in chosen):
        raise TrainingError(f"the selector gave no list of places below {clients}: {str(chosen)[:60]}")
    if len(set(chosen)) < len(chosen):
        raise TrainingError("the selector chose a client twice")
    return sorted(chosen)
