"""One example is protected, and its client adds the noise in each of its steps: DP-SGD on the device.

Abadi et al. 2016, algorithm 1. What leaves the device is safe to send to a server that is not trusted.
"""

from dataclasses import replace

from edgekit.asks import Ask, State
from edgekit.guarantee import Plan, Schedule, Statement
from edgekit.privacy.mechanisms.base import FOR_MESSAGES, NOT_CLIENTS, GaussianMechanism


class ExampleByClient(GaussianMechanism):
    """Unit example, noise by the client."""

    def plan(self, schedule: Schedule) -> Plan:
        """Count `epochs / sample_rate` Poisson batches in each round, as if a client took part in every round."""
        return self.solved(
            schedule,
            rate=self.privacy.sample_rate,
            steps=self.batches(schedule),
            adjacency=self.adjacency_of_examples,
            sensitivity=self.privacy.clip,
        )

    def prepare(self, ask: Ask, state: State) -> Ask:
        """Ask for noised steps."""
        return replace(ask, settings=replace(self.of_examples(ask.settings), work="dp-sgd"))

    def statement(self) -> Statement:
        """Return the guarantee in words."""
        return Statement(
            whose="one example",
            by="client",
            neighbours=self.neighbours_of_examples,
            holds=(FOR_MESSAGES,),
            open=(NOT_CLIENTS, self.public_of_examples),
            owners="This device adds the noise itself: {guarantee} for one example against everybody, the coordinator "
            "too",
        )
