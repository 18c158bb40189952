"""Split learning of a whole cohort, with the server's part in the same process, as over a network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from edgekit.algorithms.base import with_mu
from edgekit.algorithms.interactive import Line, Own, Turns
from edgekit.algorithms.split.by_torch import TorchDevice
from edgekit.algorithms.split.codec import Codec, bytes_an_example
from edgekit.algorithms.split.device import Device, Terms
from edgekit.algorithms.split.line import DirectLine
from edgekit.algorithms.split.messages import Answer, Asked
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Ask, Update
from edgekit.data.batches import LocalTask
from edgekit.errors import TrainingError
from edgekit.local_settings import LocalSettings


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


class SplitCohort:
    """The server's side of a cohort's rounds (see `interactive.Counterpart`).

    Args:
        plan: how the network is trained in parts.
        server: trains the part between.

    Attributes:
        plan: as given.
        server: as given.
        trainer: for people.
        turns: how clients take turns.
        device_bytes: size of a device's own parts.
        bytes_an_example: that an example takes on its way there and back in one step.
    """

    def __init__(self, plan: Plan, server: Server) -> None:
        self.plan, self.server = plan, server
        self.trainer = f"split learning, cut behind {plan.names[0]}"
        self.turns: Turns = "client" if plan.order == "sequential" else "step"
        self.device_bytes = sum(array.nbytes for array in plan.device_like.values())
        examples = 16  # so that what a batch has once weighs little
        self.bytes_an_example = sum(2 * bytes_an_example(shape, plan.codec, examples) for shape in plan.terms.crossing)
        self._up = self._down = 0
        self._lines: list[DirectLine] = []

    def task(self, client: int, number: int) -> LocalTask | None:
        """Clients train on the dataset's examples."""
        return None

    def begin(self, asks: Mapping[int, Ask], tasks: Mapping[int, LocalTask]) -> dict[int, tuple[Own, Line]]:
        """Begin a round; return what each client works with, and its line.

        Raises:
            TrainingError: clients start from different weights, which a shared part cannot.
        """
        first = next(iter(asks.values()))
        weights, settings = first.bundles[WEIGHTS], with_mu(first)
        if any(ask.bundles[WEIGHTS] is not weights or with_mu(ask) != settings for ask in asks.values()):
            raise TrainingError("in split learning all clients start from the same weights, and train plainly")
        for client in asks:
            self.plan.device.check(weights, tasks[client].examples, settings)
        own = [tasks[client] for client in asks]
        seed = int.from_bytes(own[0].noise_rng.bytes(32))
        self.server.begin(weights, settings, seed, [len(task.examples) for task in own])
        self._lines = [DirectLine(_answers(self.server, place), self.plan.codec) for place in range(len(own))]
        return {
            client: (Own(self.plan.device, task, self.plan.terms), line)
            for client, task, line in zip(asks, own, self._lines, strict=True)
        }

    def end(self, ended: Mapping[int, Any], asks: Mapping[int, Ask]) -> dict[int, Any]:
        """Return the whole networks' updates. Where the server's part is shared, one that fails has touched all."""
        self._up += sum(line.bytes_up for line in self._lines)
        self._down += sum(line.bytes_down for line in self._lines)
        problem = next((one for one in ended.values() if isinstance(one, Exception)), None)
        if problem is not None and self.server.shared:
            return dict.fromkeys(ended, problem)
        found: dict[int, Any] = {}
        for place, (client, one) in enumerate(ended.items()):
            if isinstance(one, Update):
                before = asks[client].bundles[WEIGHTS]
                arrays = whole(one.bundles[WEIGHTS], self.server.weights(place), before)
                one = replace(one, bundles={WEIGHTS: arrays})
            found[client] = one
        return found

    def take_traffic(self) -> tuple[int, int]:
        """Return the bytes of activations, labels and gradients, up and down, since the last time."""
        found, self._up, self._down = (self._up, self._down), 0, 0
        return found


def whole(arrays: Weights, between: Weights, before: Weights) -> Weights:
    """Return a device's arrays together with the server's part, as those of the whole network."""
    together = {**arrays, **between}
    return {name: together.get(name, before[name]) for name in before}


def _answers(server: Server, place: int) -> Callable[[Asked], Answer]:
    return lambda message: server.answer(place, message)
