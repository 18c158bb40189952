"""The plan: how much noise meets the target over all rounds, settled before training starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgekit.experiment import Privacy
from edgekit.privacy.accounting import epsilon, solve_noise_multiplier


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
        split: whether the network is cut between devices and server.
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
    split: bool = False
    bounds: Mapping[str, float] = field(default_factory=dict)

    @property
    def adjacency(self) -> str:
        """Which data sets the guarantee calls neighbours: `add-or-remove-one`, or `replace-one` where who takes part is
        seen, so that a unit can only be another."""
        seen = self.noise == "client" and (self.unit == "client" or self.split)
        return "replace-one" if seen else "add-or-remove-one"

    @property
    def sensitivity(self) -> float:
        """How far one unit can move what is released."""
        return sensitivity(self.unit, self.noise, self.clip)


def sensitivity(unit: str, noise: str, clip: float) -> float:
    """Return how far one unit can move what is released.

    Adding or removing an example or a client moves a clipped sum by `clip`. A client that adds its own noise hides its
    whole update from a server that knows it takes part: there, any update may replace any other, which moves it by
    twice the bound.

    Args:
        unit: `example` or `client`.
        noise: who adds it, `server` or `client`.
        clip: l2 bound on one unit's contribution.
    """
    return 2 * clip if (unit, noise) == ("client", "client") else clip


def make_plan(
    settings: Privacy, rounds: int, cohort_rate: float, epochs: int, split_releases: int | None = None
) -> Plan:
    """Solve the noise multiplier for the target epsilon.

    The sample rate that each case may count on:
        unit example, noise by the server: one Poisson batch of examples a round, `privacy.sample_rate`. Which clients
            are in the cohort is not counted: sampling clients and then examples is not Poisson sampling of examples.
        unit example, noise by the client: `epochs / sample_rate` Poisson batches in each round; a client is planned
            for as if it took part in every round.
        unit client, noise by the server: clients join a round independently with `cohort_rate`.
        unit client, noise by the client: 1, since the server sees who sent what.
        split learning, noise by the server: `epochs / sample_rate` Poisson batches in each round, as seen by those who
            get the network's weights; devices and server add noise to their own parts.
        split learning, noise by the client: 1, since the server sees what is made of each example, in each epoch.

    Args:
        settings: the [privacy] section; unit must not be `none`.
        rounds: planned rounds.
        cohort_rate: chance of a client to be in a round's cohort.
        epochs: local passes (unit example, noise by the client, or split learning).
        split_releases: of split learning, how often an example takes part in something noised in an epoch.

    Raises:
        PrivacyError: the target cannot be reached.
    """
    steps = 1
    if split_releases is not None and settings.noise == "client":
        rate, steps = 1.0, epochs * split_releases
    elif settings.unit == "example":
        rate = settings.sample_rate
        if settings.noise == "client" or split_releases is not None:
            steps = max(1, round(epochs / rate))
    else:
        rate = cohort_rate if settings.noise == "server" else 1.0
    noise_multiplier = solve_noise_multiplier(
        settings.epsilon, settings.delta, rate, steps * rounds, settings.accountant
    )
    return Plan(
        unit=settings.unit,
        noise=settings.noise,
        target_epsilon=settings.epsilon,
        delta=settings.delta,
        accountant=settings.accountant,
        clip=settings.clip,
        sample_rate=rate,
        steps=steps,
        rounds=rounds,
        noise_multiplier=noise_multiplier,
        epsilon=epsilon([(noise_multiplier, rate, steps * rounds)], settings.delta, settings.accountant),
        split=split_releases is not None,
    )
