"""One example is protected, and the server adds the noise: DP-SGD across clients (Abadi et al. 2016, algorithm 1).

In a round each client sends the sum of the clipped gradients of one Poisson batch; the server adds them up, adds noise,
and makes one step.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgekit.asks import Aggregate, Ask, State
from edgekit.errors import ExperimentError
from edgekit.guarantee import Plan, Schedule, Statement
from edgekit.privacy import gaussian
from edgekit.privacy.mechanisms.base import (
    FOR_ALL_OUTPUT,
    NOT_CLIENTS,
    TRUSTED,
    GaussianMechanism,
    start_of,
    stepped,
)
from edgekit.transforms.base import Method, Round, Transform


class ExampleByServer(GaussianMechanism):
    """Unit example, noise by the server."""

    needs = "each"
    gives = "sum"

    def check(self, method: Method, which: str, transforms: Sequence[Transform]) -> None:
        """Refuse what has no meaning in a round of a single gradient step."""
        if method.proximal:
            raise ExperimentError(
                f"{which} has no effect here: with unit example and noise by the server a round is a single gradient "
                "step, taken at the global weights"
            )
        if not method.plain or any(one.on_clients for one in transforms):
            what = which if not method.plain else "a transform"
            raise ExperimentError(
                f"{what} has a client half of its own, but with unit example and noise by the server a round is a "
                "single gradient step: use privacy.noise = 'client', or privacy.unit = 'client'"
            )

    def plan(self, schedule: Schedule) -> Plan:
        """Count one Poisson batch of examples a round.

        Which clients are in the cohort is not counted: sampling clients and then examples is not Poisson sampling of
        examples.
        """
        rate, clip = self.privacy.sample_rate, self.privacy.clip
        return self.solved(schedule, rate=rate, steps=1, adjacency=self.adjacency_of_examples, sensitivity=clip)

    def prepare(self, ask: Ask, state: State) -> Ask:
        """Ask for the clipped sum of one batch."""
        return replace(ask, settings=replace(self.of_examples(ask.settings), work="clipped-sum"))

    def on_aggregate(
        self, got: Aggregate, state: State, round_: Round, rng: np.random.Generator
    ) -> tuple[Aggregate, State]:
        """Return the weights after `w - learning_rate * (sum + noise) / expected`.

        The divisor is the expected batch, fixed beforehand: dividing by the drawn one would tell its size. It is of the
        true number of examples, unless the experiment names a public one. With no updates the result is pure noise, as
        the guarantee demands.
        """
        plan = self.plan_made
        public = self.privacy.expected_examples
        examples = public * round_.clients if public else round_.examples()
        expected = plan.sample_rate * examples * round_.cohort / round_.clients
        found = {}
        for bundle, like in round_.like.items():
            start = start_of(bundle, round_.weights, round_.like)
            sums = gaussian.total([update.bundles[bundle] for update in (got.updates or {}).values()], like)
            noised = gaussian.add_noise(sums, plan.noise_multiplier * plan.sensitivity, rng)
            found[bundle] = stepped(start, -self.privacy.learning_rate / expected, noised, like)
        return Aggregate(found, {}, round_.cohort, round_.clients), state

    def statement(self) -> Statement:
        """Return the guarantee in words."""
        return Statement(
            whose="one example",
            by="server",
            neighbours=self.neighbours_of_examples,
            holds=(FOR_ALL_OUTPUT,),
            open=(TRUSTED, NOT_CLIENTS, self.public_of_examples),
            owners="The coordinator adds the noise: {guarantee} for one example against who sees the model; who runs "
            "the coordinator sees this device's own updates",
        )
