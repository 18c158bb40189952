"""All data of one client is protected, and the server adds the noise: DP-FedAvg (McMahan et al. 2018)."""

from dataclasses import replace

import numpy as np

from edgekit.asks import Aggregate, Ask, State
from edgekit.guarantee import Plan, Schedule, Statement
from edgekit.privacy import gaussian
from edgekit.privacy.mechanisms.base import FOR_ALL_OUTPUT, TRUSTED, GaussianMechanism, bounds_of, start_of, stepped
from edgekit.transforms.base import Round


class ClientByServer(GaussianMechanism):
    """Unit client, noise by the server."""

    needs = "each"
    gives = "sum"
    selector = "poisson"

    @property
    def hides_cohort(self) -> bool:
        """Whether who takes part is drawn as the count relies on."""
        return self.plan_made.sample_rate < 1

    def plan(self, schedule: Schedule) -> Plan:
        """Count that clients join a round independently with the cohort's rate.

        Where a client that joins takes another's place, two updates change: that is not bounded, one that becomes zero
        is.
        """
        return self.solved(
            schedule,
            rate=schedule.cohort_rate,
            steps=1,
            adjacency="replace-by-zero" if schedule.displaces else "add-or-remove-one",
            sensitivity=self.privacy.clip,
            bounds=bounds_of(self.privacy, schedule),
        )

    def prepare(self, ask: Ask, state: State) -> Ask:
        """Ask for bounded updates."""
        plan = self.plan_made
        bounds = plan.bounds if len(plan.bounds) > 1 else {}
        return replace(ask, settings=replace(ask.settings, update_clip=plan.clip, update_bounds=bounds))

    def on_aggregate(
        self, got: Aggregate, state: State, round_: Round, rng: np.random.Generator
    ) -> tuple[Aggregate, State]:
        """Return `w + (sum + noise) / expected`, of updates that are clipped here, whatever clients did.

        Of several bundles each is clipped by its own bound; in units of the bounds an update's joint norm is then at
        most the root of their number, and so much larger is the noise (their theorem 1, with one estimator over all).
        The divisor is the expected cohort: dividing by the drawn one would tell its size. With no updates the result is
        pure noise, as the guarantee demands.
        """
        plan, found = self.plan_made, {}
        for bundle, like in round_.like.items():
            start = start_of(bundle, round_.weights, round_.like)
            changes = [update.bundles[bundle] for update in (got.updates or {}).values()]
            if start is not None:
                changes = [{name: array - start[name] for name, array in one.items()} for one in changes]
            bound = plan.bounds[bundle]
            sums = gaussian.total([gaussian.clip(one, bound) for one in changes], like)
            noised = gaussian.add_noise(sums, plan.noise_multiplier * bound * len(plan.bounds) ** 0.5, rng)
            found[bundle] = stepped(start, 1.0 / round_.cohort, noised, like)
        return Aggregate(found, {}, round_.cohort, round_.clients), state

    def statement(self) -> Statement:
        """Return the guarantee in words."""
        return Statement(
            whose="everything that one client owns",
            by="server",
            neighbours="Replacing all data of any single client by a blank, of which no update comes (how many clients "
            "there are is public), changes the probability of any outcome"
            if self.planned is not None and self.planned.adjacency == "replace-by-zero"
            else "Adding or removing all data of any single client changes the probability of any outcome",
            holds=(FOR_ALL_OUTPUT,),
            open=(
                TRUSTED,
                "Who takes part in which round must stay secret, since the count relies on it: metrics.jsonl and the "
                "messages of a run show each round's cohort; keep them with the data.",
            ),
            owners="The coordinator adds the noise: {guarantee} for everything on this device against who sees the "
            "model; who runs the coordinator sees this device's own updates",
        )
