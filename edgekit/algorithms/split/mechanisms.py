"""What protects single examples in split learning: noise by devices and server together, or by devices alone."""

from dataclasses import replace

from edgekit.asks import Ask, State
from edgekit.errors import PrivacyError
from edgekit.guarantee import Plan, Schedule, Statement
from edgekit.privacy.mechanisms.base import NOT_CLIENTS, PUBLIC_COHORT, GaussianMechanism
from edgekit.privacy.mechanisms.example_by_client import ExampleByClient
from edgekit.privacy.settings import Privacy


class SplitByServer(ExampleByClient):
    """Devices and the server, who is trusted, add noise to the gradients of their parts.

    For those who get the weights it is one DP-SGD, as if the network were whole.
    """

    def statement(self) -> Statement:
        """Return the guarantee in words."""
        return Statement(
            whose="one example",
            by="devices and the server, who is trusted",
            neighbours=self.neighbours_of_examples,
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


class SplitByDevices(GaussianMechanism):
    """Devices clip and noise all that they send: activations, gradients, and their parts' weights.

    Args:
        settings: the [privacy] section.
        releases: how often an example takes part in something noised in an epoch.
        activation_clip: largest l2 norm of what is sent of one example.
        largest: value that can be sent.
    """

    def __init__(self, settings: Privacy, releases: int, activation_clip: float, largest: float) -> None:
        super().__init__(settings)
        self._releases, self._activation_clip, self._largest = releases, activation_clip, largest

    def plan(self, schedule: Schedule) -> Plan:
        """Count each release in full, since the server sees what is made of each example, in each epoch.

        Raises:
            PrivacyError: the target cannot be reached, or with noise that no number can hold.
        """
        plan = self.solved(
            schedule,
            rate=1.0,
            steps=schedule.epochs * self._releases,
            adjacency="replace-one",
            sensitivity=2 * self.privacy.clip,
        )
        deviation = 2 * plan.noise_multiplier * self._activation_clip
        if not deviation < self._largest / 10:
            raise PrivacyError(
                f"activations would have noise of deviation {deviation:.3g}: lower split.activation_clip, or raise "
                "privacy.epsilon"
            )
        return plan

    def prepare(self, ask: Ask, state: State) -> Ask:
        """Ask that all that leaves the device is noised."""
        return replace(ask, settings=replace(self.of_examples(ask.settings), work="local-dp"))

    def statement(self) -> Statement:
        """Return the guarantee in words."""
        return Statement(
            whose="one example",
            by="devices",
            neighbours="Replacing any single training example by any other changes the probability of what its device "
            "sends",
            holds=(
                "It holds against the server too: activations, the gradients that devices send, and their parts' "
                "weights are clipped and noised before they leave the device, and counted together.",
            ),
            open=(NOT_CLIENTS, PUBLIC_COHORT),
            owners="This device adds noise to all that it sends: {guarantee} for one example against everybody, the "
            "coordinator too",
        )
