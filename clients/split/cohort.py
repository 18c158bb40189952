"""Split learning of a whole cohort, with the server's part in the same process."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edgekit.arrays import Weights
from edgekit.asks import Score, Scored, Train, Trained
from edgekit.clients.split.by_torch import TorchDevice
from edgekit.clients.split.device import Device, Terms
from edgekit.clients.trainer import LocalTask
from edgekit.data import Examples
from edgekit.errors import TrainingError
from edgekit.local_settings import LocalSettings
from edgekit.split.codec import Codec, bytes_an_example
from edgekit.split.line import DirectLine
from edgekit.split.messages import Answer, Asked


@dataclass(frozen=True)
class Plan:
    """How a network is trained in parts.

    Attributes:
        names: of the layers behind which it is cut.
        device: the device's parts.
        terms: of all devices.
        order: of the clients: a step each in turn, or one client after the other.
        codec: how activations and gradients travel.
    """

    names: Sequence[str]
    device: TorchDevice
    terms: Terms
    order: str
    codec: Codec

    @property
    def device_like(self) -> Weights:
        """The device's own arrays, by name: what a device is sent, and sends back."""
        parts = [part for part in (self.device.bottom, self.device.tail) if part is not None]
        return {name: array.numpy() for part in parts for name, array in part.state_dict().items()}

    def begin(self, weights: Weights, task: LocalTask, settings: LocalSettings) -> Device:
        """Return a client's round."""
        return Device(self.device, self.terms, weights, task, settings)


class Server(Protocol):
    """The server's side, in the same process."""

    shared: bool

    def begin(self, weights: Weights, settings: LocalSettings, seed: int, examples: Sequence[int] = ()) -> None:
        """A round begins; see `SplitServer`."""

    def answer(self, client: int, message: Asked) -> Answer:
        """Return the answer to a client's message."""

    def weights(self, client: int) -> Weights:
        """Return the server's part as it is for a client, after its round."""


class SplitTrainer:
    """Trains a cohort with the server's part in the same process, as over a network.

    Args:
        plan: how the network is trained in parts.
        server: trains the part between.

    Attributes:
        plan: as given.
        server: as given.
        device_bytes: size of a device's own parts.
        bytes_an_example: that an example takes on its way there and back in one step.
    """

    def __init__(self, plan: Plan, server: Server) -> None:
        self.plan, self.server = plan, server
        self.device_bytes = sum(array.nbytes for array in plan.device_like.values())
        examples = 16  # so that what a batch has once weighs little
        self.bytes_an_example = sum(2 * bytes_an_example(shape, plan.codec, examples) for shape in plan.terms.crossing)
        self._up = self._down = 0

    @property
    def learnt(self) -> frozenset[str]:
        """Nothing: devices have parts alone."""
        return frozenset()

    def train(self, asked: Train, task: LocalTask) -> Trained:
        """Return one client's network.

        Raises:
            TrainingError: the server's part learns from all clients together.
        """
        if self.server.shared:
            raise TrainingError("clients of a shared part of the server train together or not at all")
        return self.train_cohort([asked], [task])[0]

    def score(self, asked: Score, examples: Examples) -> Scored:
        """Refuse: devices have parts alone.

        Raises:
            TrainingError: always.
        """
        raise TrainingError("of a network that is cut, devices have parts alone and cannot measure it")

    def train_cohort(self, asked: Sequence[Train], tasks: Sequence[LocalTask]) -> list[Trained]:
        """Return the clients' networks, in the order of the tasks.

        Raises:
            TrainingError: clients start from different weights, which a shared part cannot.
        """
        weights, settings = asked[0].weights, asked[0].settings
        if any(one.weights is not weights or one.drift or one.anchor for one in asked):
            raise TrainingError("in split learning all clients start from the same weights, and train plainly")
        devices = [self.plan.begin(weights, task, settings) for task in tasks]
        for task in tasks:
            self.plan.device.check(weights, task.examples, settings)
        seed = int.from_bytes(tasks[0].noise_rng.bytes(32))
        self.server.begin(weights, settings, seed, [len(task.examples) for task in tasks])
        lines = [DirectLine(_answers(self.server, client), self.plan.codec) for client in range(len(tasks))]
        rounds = [device.train(line) for device, line in zip(devices, lines, strict=True)]
        if self.plan.order == "sequential":
            for one in rounds:
                deque(one, 0)
        else:
            while rounds:  # a step each in turn, until each has had all of its own
                rounds = [one for one in rounds if any(one)]
        self._up += sum(line.bytes_up for line in lines)
        self._down += sum(line.bytes_down for line in lines)
        return [whole(device.update(), self.server.weights(client), weights) for client, device in enumerate(devices)]

    def take_traffic(self) -> tuple[int, int]:
        """Return the bytes of activations, labels and gradients, up and down, since the last time."""
        found, self._up, self._down = (self._up, self._down), 0, 0
        return found


def whole(update: Trained, between: Weights, before: Weights) -> Trained:
    """Return a device's update together with the server's part, as one of the whole network."""
    arrays = update.arrays | between
    return replace(update, arrays={name: arrays.get(name, before[name]) for name in before})


def _answers(server: Server, client: int) -> Callable[[Asked], Answer]:
    return lambda message: server.answer(client, message)
