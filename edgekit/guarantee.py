"""What privacy is planned, charged and said to be, as plain data: every room may read it, none computes it here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Literal

from edgekit.errors import PrivacyError

Adjacency = Literal["add-or-remove-one", "replace-one", "replace-by-zero"]
"""Which data sets a guarantee calls neighbours: with one unit more or less; with one in another's place, where who
takes part is seen; or with a blank in one's place, where only their number is."""


@dataclass(frozen=True)
class Schedule:
    """What a mechanism plans for.

    Attributes:
        rounds: planned.
        cohort_rate: chance of a client to be in a round, as far as privacy may count on it.
        epochs: local passes.
        bundles: names of what clients send.
        method: whose they are, for messages.
        displaces: whether a client that joins takes another's place in a round, as in cohorts of a fixed size.
    """

    rounds: int
    cohort_rate: float
    epochs: int
    bundles: tuple[str, ...]
    method: str = "the method"
    displaces: bool = False


@dataclass(frozen=True)
class Plan:
    """What each round charges, and what all of them spend.

    Attributes:
        unit: whose data one step protects, `example` or `client`.
        noise: who adds the noise, `server` or `client`.
        target_epsilon: from the experiment.
        delta: from the experiment.
        accountant: name of the accountant of every epsilon here.
        clip: l2 bound on one unit's contribution.
        sample_rate: chance of a unit to be in a step, as the accountant may count on it.
        steps: mechanism steps a round.
        rounds: planned rounds.
        noise_multiplier: standard deviation of the noise in units of the sensitivity.
        epsilon: what all rounds spend.
        adjacency: which data sets are neighbours.
        sensitivity: how far one unit can move what is released.
        bounds: of unit client, how far one may move each bundle that it sends: the first by `clip`.
    """

    unit: str
    noise: str
    target_epsilon: float
    delta: float
    accountant: str
    clip: float
    sample_rate: float
    steps: int
    rounds: int
    noise_multiplier: float
    epsilon: float
    adjacency: Adjacency
    sensitivity: float
    bounds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Charge:
    """A use of data, mostly one round's.

    Attributes:
        round: the round; the first of them, where noise is drawn for a whole run together.
        unit: `example` or `client`.
        noise: `server` or `client`.
        noise_multiplier: of the Gaussian mechanism.
        sample_rate: Poisson rate of a unit in a step.
        steps: mechanism steps.
        clients: whose data is charged; None is everybody's.
        draw: names the random numbers, so that a round repeated with the same ones, which releases nothing new, is
            told from one with fresh numbers, which does.
        plan: names what it was planned with, over which a device counts together; "" of none.
    """

    round: int
    unit: str
    noise: str
    noise_multiplier: float
    sample_rate: float
    steps: int
    clients: tuple[int, ...] | None
    draw: str
    plan: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be counted.

        Raises:
            PrivacyError: a number is out of range.
        """
        fits = isfinite(self.noise_multiplier) and self.noise_multiplier > 0
        if not (fits and 0 < self.sample_rate <= 1 and self.steps >= 1):
            raise PrivacyError(f"this is not a charge that can be counted: {self}")


@dataclass(frozen=True)
class Statement:
    """A guarantee in words, or that there is none; `edgekit.privacy.statement` makes sentences with figures of it.

    Attributes:
        whose: data is protected, such as `one example`; "" of none.
        by: who adds the noise.
        neighbours: the claim's beginning, such as `Adding or removing any single training example changes the
            probability of any outcome`.
        holds: more on what is covered, a sentence each.
        open: what is not covered, likewise.
        owners: what the owner of a device is told; `{guarantee}` stands for the guarantee with its figures.
    """

    whose: str
    by: str
    neighbours: str
    holds: tuple[str, ...]
    open: tuple[str, ...]
    owners: str


UNPROTECTED = Statement(
    whose="",
    by="",
    neighbours="",
    holds=(),
    open=("Nothing is protected; set privacy.unit to example or client.",),
    owners="Updates are not private: whoever runs the coordinator may learn of single examples from them",
)
