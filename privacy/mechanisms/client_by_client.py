"""All data of one client is protected, and the client adds the noise to its bounded update.

The client's half of user-level privacy (McMahan et al. 2018, section 2), without a server that is trusted.
"""

from dataclasses import replace

from edgekit.asks import Ask, State
from edgekit.guarantee import Plan, Schedule, Statement
from edgekit.privacy.mechanisms.base import FOR_MESSAGES, PUBLIC_COHORT, GaussianMechanism, bounds_of


class ClientByClient(GaussianMechanism):
    """Unit client, noise by the client."""

    def plan(self, schedule: Schedule) -> Plan:
        """Count each round in full, since the server sees who sent what."""
        return self.solved(
            schedule,
            rate=1.0,
            steps=1,
            adjacency="replace-one",
            sensitivity=sensitivity(self.privacy.clip),
            bounds=bounds_of(self.privacy, schedule),
        )

    def prepare(self, ask: Ask, state: State) -> Ask:
        """Ask for bounded updates with noise."""
        plan = self.plan_made
        bounds = plan.bounds if len(plan.bounds) > 1 else {}
        noise = plan.noise_multiplier * plan.sensitivity
        settings = replace(ask.settings, update_clip=plan.clip, update_noise=noise, update_bounds=bounds)
        return replace(ask, settings=settings)

    def statement(self) -> Statement:
        """Return the guarantee in words."""
        return Statement(
            whose="everything that one client owns",
            by="client",
            neighbours="Replacing all data of any single client by any other changes the probability of what it sends",
            holds=(FOR_MESSAGES,),
            open=(PUBLIC_COHORT,),
            owners="This device adds the noise itself: {guarantee} for everything on this device against everybody, "
            "the coordinator too",
        )


def sensitivity(clip: float) -> float:
    """Return how far one client can move what it sends.

    It hides its whole update from a server that knows it takes part: there, any update may stand for any other, which
    moves it by twice the bound.
    """
    return 2 * clip
