"""Split learning where devices and the server, who is trusted, add noise to the gradients of their parts."""

from dataclasses import replace

from edgekit.asks import Ask, State
from edgekit.guarantee import Plan, Schedule, Statement
from edgekit.privacy.mechanisms.base import NOT_CLIENTS, PUBLIC_COHORT, GaussianMechanism


class SplitByServer(GaussianMechanism):
    """Unit example, noise by devices and server together."""

    def plan(self, schedule: Schedule) -> Plan:
        """Count `epochs / sample_rate` Poisson batches in each round, as seen by those who get the weights."""
        return self.solved(
            schedule,
            rate=self.privacy.sample_rate,
            steps=self.batches(schedule),
            adjacency="add-or-remove-one",
            sensitivity=self.privacy.clip,
        )

    def prepare(self, ask: Ask, state: State) -> Ask:
        """Ask for noised steps."""
        return replace(ask, settings=replace(self.of_examples(ask.settings), work="dp-sgd"))

    def statement(self) -> Statement:
        """Return the guarantee in words."""
        return Statement(
            whose="one example",
            by="devices and the server, who is trusted",
            neighbours="Adding or removing any single training example changes the probability of any outcome",
            holds=(
                "It holds against everybody but the server: other devices, and whoever gets the model or files made "
                "of it. Devices add noise to the gradients of their parts of the network, the server to those of its "
                "own.",
            ),
            open=(
                "The server itself: it sees what the devices' part of the network makes of every example, without "
                "noise, and can rebuild examples from it; `edgekit split attack` shows how well.",
                "The bytes that were moved, in metrics.jsonl, nodes.json, result.json and on this page: they tell how "
                "large the drawn batches were; keep them with the data.",
                NOT_CLIENTS,
                PUBLIC_COHORT,
            ),
            owners="{guarantee} for one example against who sees the model; but whoever runs the coordinator sees what "
            "this device's part of the network makes of every example, and may rebuild examples and labels from it",
        )
