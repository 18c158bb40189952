"""What mechanisms of Gaussian noise share: the solved plan, and what clients send in several bundles."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Bundles
from edgekit.errors import ExperimentError
from edgekit.guarantee import Adjacency, Plan, Schedule
from edgekit.local_settings import LocalSettings
from edgekit.privacy.accounting import epsilon, solve_noise_multiplier
from edgekit.privacy.settings import Privacy
from edgekit.transforms.base import Mechanism

TRUSTED = "The server is trusted: it sees the clients' clipped contributions before it adds the noise."
FOR_ALL_OUTPUT = (
    "It holds for everything that leaves the server: every round's global model, the final model, and all files made "
    "from it."
)
FOR_MESSAGES = "It holds against the server too: each client's messages are protected before they leave it."
NOT_CLIENTS = "A client's data as a whole: a client with many similar examples is protected less than one example."
PUBLIC_COHORT = "Who takes part, and how many examples each client has, is taken as public."


class GaussianMechanism(Mechanism):
    """A mechanism that adds Gaussian noise, in Poisson-subsampled steps or none.

    Args:
        settings: the [privacy] section; unit must not be `none`.
    """

    def __init__(self, settings: Privacy) -> None:
        super().__init__(settings)
        self.privacy = settings

    def solved(
        self,
        schedule: Schedule,
        *,
        rate: float,
        steps: int,
        adjacency: Adjacency,
        sensitivity: float,
        bounds: Mapping[str, float] = MappingProxyType({}),
    ) -> Plan:
        """Return the plan whose noise meets the target; arguments as of `Plan`.

        Raises:
            PrivacyError: the target cannot be reached.
        """
        own = self.privacy
        noise = solve_noise_multiplier(own.epsilon, own.delta, rate, steps * schedule.rounds, own.accountant)
        self.planned = Plan(
            unit=own.unit,
            noise=own.noise,
            target_epsilon=own.epsilon,
            delta=own.delta,
            accountant=own.accountant,
            clip=own.clip,
            sample_rate=rate,
            steps=steps,
            rounds=schedule.rounds,
            noise_multiplier=noise,
            epsilon=epsilon([(noise, rate, steps * schedule.rounds)], own.delta, own.accountant),
            adjacency=adjacency,
            sensitivity=sensitivity,
            bounds=dict(bounds),
        )
        return self.planned

    def of_examples(self, settings: LocalSettings) -> LocalSettings:
        """Return a round's instructions with what protects examples in steps of their own."""
        plan = self.plan_made
        return replace(
            settings,
            steps=plan.steps,
            clip=plan.clip,
            sample_rate=self.privacy.sample_rate,
            noise_multiplier=plan.noise_multiplier,
            expected_examples=self.privacy.expected_examples,
        )

    @property
    def adjacency_of_examples(self) -> Adjacency:
        """Which data sets are neighbours: where means are taken by true numbers, these are public."""
        return "add-or-remove-one" if self.privacy.expected_examples else "replace-by-zero"

    @property
    def neighbours_of_examples(self) -> str:
        """The claim's beginning."""
        if self.privacy.expected_examples:
            return "Adding or removing any single training example changes the probability of any outcome"
        return (
            "Replacing any single training example by a blank one (the numbers of examples are public) changes the "
            "probability of any outcome"
        )

    @property
    def public_of_examples(self) -> str:
        """What is taken as public."""
        return "Who takes part is taken as public." if self.privacy.expected_examples else PUBLIC_COHORT

    def batches(self, schedule: Schedule) -> int:
        """Return how many Poisson batches make up the local passes."""
        return max(1, round(schedule.epochs / self.privacy.sample_rate))


def bounds_of(settings: Privacy, schedule: Schedule) -> dict[str, float]:
    """Return how far one client may move each bundle that it sends.

    Raises:
        ExperimentError: one has no bound, or there is a bound of none.
    """
    first, *others = schedule.bundles
    for bundle in others:
        if bundle not in settings.clips:
            raise ExperimentError(
                f"federation.algorithm {schedule.method} sends {bundle} beside {first}: say in privacy.clips.{bundle} "
                f"how far one client may move it, as privacy.clip says of {first}"
            )
    if unknown := sorted(set(settings.clips) - set(others)):
        raise ExperimentError(f"privacy.clips.{unknown[0]}: {schedule.method} sends no {unknown[0]} beside {first}")
    return {first: settings.clip, **{bundle: settings.clips[bundle] for bundle in others}}


def stepped(start: Weights | None, step: float, total: Weights, like: Weights) -> Weights:
    """Return start + step * total, in the types of `like`; a start of None is zero."""
    return {
        name: np.asarray((0 if start is None else start[name]) + step * total[name], array.dtype)
        for name, array in like.items()
    }


def start_of(bundle: str, weights: Weights, like: Bundles) -> Weights | None:
    """Return what a bundle's values are changes of: for the weights those that clients began with."""
    return {name: weights[name] for name in like[bundle]} if bundle == WEIGHTS else None
