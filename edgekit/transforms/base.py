"""What a transform is, and a mechanism: a transform that privacy counts. Both know bundles alone, no method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from edgekit.arrays import Weights
from edgekit.asks import Aggregate, Ask, Bundles, Client, State, Update
from edgekit.guarantee import Charge, Plan, Schedule, Statement
from edgekit.section import Section

Seen = Literal["sum", "each"]
"""What is seen of a round's updates: their weighted mean alone, or each by itself."""


@dataclass(frozen=True)
class Round:
    """A round, as transforms see it.

    Attributes:
        number: from 1.
        weights: that clients began with.
        like: arrays of the shapes that each update has.
        cohort: clients that take part on average.
        clients: that there are.
        examples: returns how many examples all clients have together.
    """

    number: int
    weights: Weights
    like: Bundles
    cohort: int
    clients: int
    examples: Callable[[], int]


class Transform:
    """What happens to updates on their way; this one leaves them as they are.

    On a client it comes before privacy's own bounds and noise, at the server after them, in the opposite order.

    Args:
        settings: of the experiment, of the class's own `Settings`.

    Attributes:
        Settings: the transform's keys in the experiment's `arguments` of it.
        needs: what it looks at of a round's updates at the server.
        gives: what is seen of them behind it.
        keeps: whether clients keep something for it between rounds.
        compacts: whether what it leaves travels in less than whole arrays: most numbers as they were, or all on a grid.
    """

    Settings: ClassVar[type[Section]] = Section
    needs: Seen = "sum"
    gives: Seen = "sum"
    keeps: bool = False
    compacts: bool = False

    @property
    def passed(self) -> float:
        """The share of an update's bytes that it lets through, about, for who reckons before they are there."""
        return 1.0

    def __init__(self, settings: Section | None = None) -> None:
        self.settings = settings or self.Settings()

    @property
    def on_clients(self) -> bool:
        """Whether clients have a part in it."""
        return type(self).on_update is not Transform.on_update

    @property
    def at_server(self) -> bool:
        """Whether the server has a part in it."""
        return type(self).on_aggregate is not Transform.on_aggregate

    def begin(self, like: Bundles) -> State:
        """Return what the server remembers before the first round; it is kept in checkpoints.

        Args:
            like: arrays of the shapes that updates have.
        """
        return State({})

    def prepare(self, ask: Ask, state: State) -> Ask:
        """Return what a client is asked instead."""
        return ask

    def on_update(self, update: Update, ask: Ask, client: Client, rng: np.random.Generator) -> Update:
        """Return what leaves a client instead, in the same form.

        Args:
            update: what its half of the method gave.
            ask: what it was asked.
            client: with `state` of the transform's own, to be changed in place.
            rng: random numbers, the same when the round is run again.
        """
        return update

    def on_aggregate(
        self, got: Aggregate, state: State, round_: Round, rng: np.random.Generator
    ) -> tuple[Aggregate, State]:
        """Return what goes on to the method instead, and what the server remembers.

        Args:
            got: single updates where it `needs` each, else their mean.
            state: remembered before.
            round_: of these updates.
            rng: random numbers, the same when the round is run again.
        """
        return got, state


class Method(Protocol):
    """What a mechanism asks about a federated method."""

    proximal: bool
    bundles: tuple[str, ...]

    @property
    def plain(self) -> bool:
        """Whether its clients train plainly."""


class Mechanism(Transform):
    """A transform that privacy counts: it fixes selection, noise and accounting together.

    What clients do for it travels as `LocalSettings`, which `prepare` fills in, so that devices without its code do it
    and reckon themselves what it costs.

    Args:
        settings: the [privacy] section.

    Attributes:
        planned: what `plan` gave.
        selector: who takes part where the experiment does not say.
    """

    selector: str = "uniform"

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.planned: Plan | None = None

    @property
    def plan_made(self) -> Plan:
        """The plan."""
        assert self.planned is not None
        return self.planned

    @property
    def hides_cohort(self) -> bool:
        """Whether the guarantee rests on nobody knowing who takes part: then a round is charged to everybody."""
        return False

    def check(self, method: Method, which: str, transforms: Sequence[Transform]) -> None:
        """See that it goes with a method.

        Args:
            method: the method.
            which: its name, for messages.
            transforms: the experiment's.

        Raises:
            ExperimentError: it does not; the message tells what would.
        """

    def plan(self, schedule: Schedule) -> Plan:
        """Return how much noise meets the target over all rounds, settled before training starts.

        Raises:
            PrivacyError: the target cannot be reached.
            ExperimentError: a bundle has no bound.
        """
        raise NotImplementedError

    def charges(self, number: int, clients: tuple[int, ...] | None, draw: str) -> list[Charge]:
        """Return what a round uses, to be written down before it happens.

        A mechanism whose noise is drawn for the whole run together gives the same charge in each round: it is counted
        once.

        Args:
            number: of the round.
            clients: whose data it uses; None is everybody's.
            draw: names the random numbers.
        """
        plan = self.plan_made
        return [
            Charge(number, plan.unit, plan.noise, plan.noise_multiplier, plan.sample_rate, plan.steps, clients, draw)
        ]

    def noise_key(self, number: int) -> tuple[Any, ...]:
        """Return what names a round's noise at the server, beside the run's secret number.

        Noise of another scale is other noise: the same at two scales could be taken off by subtraction.
        """
        plan = self.plan_made
        return ("server noise", f"{plan.noise_multiplier!r} {plan.clip!r}", number)

    def statement(self) -> Statement:
        """Return the guarantee in words."""
        raise NotImplementedError
