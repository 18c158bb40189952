"""Split learning on the client's side (Gupta and Raskar 2018; Vepakomma et al. 2018 for the U-shaped form).

The device trains the first part of a network and, where the labels stay with it, the last; the server trains the rest.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.arrays import Weights
from edgekit.clients import batches
from edgekit.clients.trainer import LocalSettings, LocalTask, Update
from edgekit.errors import TrainingError
from edgekit.split.codec import Codec, bytes_an_example
from edgekit.split.line import DirectLine
from edgekit.split.messages import Answer, Asked, Backward, Forward, Line, Output
from edgekit.split.part import Part, Passed


@dataclass(frozen=True)
class Plan:
    """How a network is trained in parts.

    Attributes:
        bottom: the device's first part.
        tail: the device's last part, which sees the labels; None where the server has them.
        window: batches that may be under way at once; with more than one, gradients belong to weights up to
            `window` - 1 steps old.
        order: of the clients: a step each in turn, or one client after the other.
        codec: how activations and gradients travel.
        crossing: shapes of one example's activation at each cut.
    """

    bottom: nn.Module
    tail: nn.Module | None
    window: int
    order: str
    codec: Codec
    crossing: Sequence[tuple[int, ...]]


class Device:
    """One client's parts and its round.

    Args:
        plan: of all clients.
        weights: of the whole network.
        task: the client's data and random numbers.
        settings: the round's instructions.
    """

    def __init__(self, plan: Plan, weights: Weights, task: LocalTask, settings: LocalSettings) -> None:
        def part(module: nn.Module) -> Part:
            seed = int(task.batches_rng.integers(2**63))
            return Part(module, weights, settings.learning_rate, settings.momentum, settings.proximal_mu, seed)

        self._window, self._crossing = plan.window, plan.crossing
        self._x, self._y = torch.from_numpy(task.examples.x), torch.from_numpy(task.examples.y)
        self._batches = batches.draw(len(task.examples), settings, task.batches_rng)
        self._bottom = part(plan.bottom)
        self._tail = part(plan.tail) if plan.tail is not None else None
        self._losses: list[float] = []

    def train(self, line: Line) -> Iterator[None]:
        """Train, and stop for a moment after each step: others may go on meanwhile.

        Raises:
            TrainingError: the server answers what was not asked.
        """
        waiting: deque[_Waiting] = deque()
        for step, indices in enumerate(self._batches, 1):
            passed = self._bottom.forward(self._x[indices], wants_gradient=False)
            labels = self._y[indices]
            line.send(Forward(step, passed.y.detach().numpy(), None if self._tail is not None else labels.numpy()))
            waiting.append(_Waiting(step, passed, labels, self._tail is not None))
            if len(waiting) >= self._window:
                self._settle(line, waiting)
                yield
        while waiting:
            self._settle(line, waiting)
            yield

    def _settle(self, line: Line, waiting: "deque[_Waiting]") -> None:
        """Take answers until the oldest batch has its gradient, and make its step."""
        while True:
            answer = line.receive()
            if isinstance(answer, Output):
                batch = next((one for one in waiting if one.step == answer.step and one.wants_output), None)
                if batch is None or answer.activation.shape != (len(batch.labels), *self._crossing[-1]):
                    raise TrainingError(f"the server's output of step {answer.step} was not asked, or does not fit")
                batch.wants_output = False
                line.send(Backward(answer.step, self._finish(answer, batch.labels)))
                continue
            batch = waiting.popleft()
            if batch.wants_output or answer.step != batch.step or answer.gradient.shape != batch.passed.y.shape:
                raise TrainingError(f"the server's gradient of step {answer.step} was not asked, or does not fit")
            if answer.loss is not None and np.isfinite(answer.loss):
                self._losses.append(answer.loss)
            self._bottom.backward(batch.passed, torch.from_numpy(answer.gradient))
            return

    def _finish(self, output: Output, labels: Tensor) -> np.ndarray:
        """Train the last part; return the gradient with respect to what it saw."""
        assert self._tail is not None
        passed = self._tail.forward(torch.from_numpy(output.activation), wants_gradient=True)
        loss = F.cross_entropy(passed.y, labels)
        self._losses.append(float(loss.detach()))
        gradient = self._tail.backward(Passed(passed.x, loss, passed.parameters))
        assert gradient is not None
        return gradient.numpy()

    def update(self) -> tuple[Weights, int, float | None]:
        """Return the parts' weights, how many examples there are, and the mean loss."""
        weights = self._bottom.weights()
        if self._tail is not None:
            weights |= self._tail.weights()
        return weights, len(self._y), float(np.mean(self._losses)) if self._losses else None


@dataclass
class _Waiting:
    """A batch under way.

    Attributes:
        step: its number.
        passed: the bottom's part of it.
        labels: of its examples.
        wants_output: whether the server's output is still to come.
    """

    step: int
    passed: Passed
    labels: Tensor
    wants_output: bool


class Server(Protocol):
    """The server's side, in the same process."""

    shared: bool

    def begin(self, weights: Weights, settings: LocalSettings, seed: int) -> None:
        """A round begins from these weights; `seed` is of layers that draw."""

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
        device_bytes: size of a device's own parts.
        bytes_an_example: that an example takes on its way there and back in one step.
    """

    def __init__(self, plan: Plan, server: Server) -> None:
        self._plan, self._server = plan, server
        parts = [part for part in (plan.bottom, plan.tail) if part is not None]
        self.device_bytes = sum(array.nbytes for part in parts for array in part.state_dict().values())
        examples = 16  # so that what a batch has once weighs little
        self.bytes_an_example = sum(2 * bytes_an_example(shape, plan.codec, examples) for shape in plan.crossing)
        self._up = self._down = 0

    def train(self, weights: Weights, task: LocalTask, settings: LocalSettings) -> Update:
        """Return one client's update.

        Raises:
            TrainingError: the server's part learns from all clients together.
        """
        if self._server.shared:
            raise TrainingError("clients of a shared part of the server train together or not at all")
        return self.train_cohort(weights, [task], settings)[0]

    def train_cohort(self, weights: Weights, tasks: Sequence[LocalTask], settings: LocalSettings) -> list[Update]:
        """Return the clients' updates, of the whole network, in the order of the tasks."""
        devices = [Device(self._plan, weights, task, settings) for task in tasks]
        self._server.begin(weights, settings, int(tasks[0].batches_rng.integers(2**31)))
        lines = [DirectLine(_answers(self._server, client), self._plan.codec) for client in range(len(tasks))]
        rounds = [device.train(line) for device, line in zip(devices, lines, strict=True)]
        if self._plan.order == "sequential":
            for one in rounds:
                deque(one, 0)
        else:
            while rounds:  # a step each in turn, until each has had all of its own
                rounds = [one for one in rounds if next(one, self) is not self]
        self._up += sum(line.bytes_up for line in lines)
        self._down += sum(line.bytes_down for line in lines)
        updates = []
        for client, device in enumerate(devices):
            arrays, examples, loss = device.update()
            arrays |= self._server.weights(client)
            updates.append(Update({name: arrays.get(name, weights[name]) for name in weights}, examples, loss))
        return updates

    def take_traffic(self) -> tuple[int, int]:
        """Return the bytes of activations, labels and gradients, up and down, since the last time."""
        found, self._up, self._down = (self._up, self._down), 0, 0
        return found


def _answers(server: Server, client: int) -> Callable[[Asked], Answer]:
    return lambda message: server.answer(client, message)
