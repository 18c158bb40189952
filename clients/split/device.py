"""A device's round of split learning (Gupta and Raskar 2018; Vepakomma et al. 2018 for the U-shaped form). Numpy only.

The device trains the first part of a network and, where the labels stay with it, the last; the server trains the rest.
What computes the parts is torch (`by_torch.py`) or LiteRT (`by_litert.py`).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgekit.arrays import Weights
from edgekit.clients import batches
from edgekit.clients.trainer import LocalSettings, LocalTask, Update
from edgekit.data import Examples
from edgekit.data.federated import Floats, Integers
from edgekit.errors import TrainingError
from edgekit.split.messages import Backward, Forward, Line, Output


class Halves(Protocol):
    """A device's parts in one round: they hold the weights, and make the steps.

    Attributes:
        has_tail: whether the device has the network's last part, and with it the labels.
    """

    has_tail: bool

    def forward(self, x: Floats) -> tuple[Any, Floats]:
        """Return a batch's activation at the cut, and what `backward` needs of it: steps made meanwhile change that
        not."""

    def backward(self, passed: Any, gradient: Floats) -> None:
        """Make a step of the first part, by the gradient with respect to a batch's activation."""

    def finish(self, activation: Floats, labels: Integers) -> tuple[Floats, float]:
        """Make a step of the last part; return the gradient with respect to what it saw, and the batch's mean loss."""

    def weights(self) -> Weights:
        """Return the parts' weights, by the network's names."""


class HalvesMaker(Protocol):
    """What computes the parts on this device; it stays loaded between rounds."""

    def check(self, weights: Weights, examples: Examples, settings: LocalSettings) -> None:
        """See that a round can be trained, before anything is spent for it.

        Raises:
            EdgekitError: it cannot.
        """

    def halves(self, weights: Weights, settings: LocalSettings, rng: np.random.Generator) -> Halves:
        """Return the parts at these weights; `rng` is of layers that draw."""


class Device:
    """One client's round.

    Args:
        made_by: computes the parts.
        window: batches that may be under way at once; with more than one, gradients belong to weights up to
            `window` - 1 steps old.
        crossing: shapes of one example's activation at each cut.
        weights: of the parts, others are passed over.
        task: the client's data and random numbers.
        settings: the round's instructions.
    """

    def __init__(
        self,
        made_by: HalvesMaker,
        window: int,
        crossing: Sequence[tuple[int, ...]],
        weights: Weights,
        task: LocalTask,
        settings: LocalSettings,
    ) -> None:
        self._window, self._crossing, self._examples = window, crossing, task.examples
        self._batches = batches.draw(len(task.examples), settings, task.batches_rng)
        self._halves = made_by.halves(weights, settings, task.batches_rng)
        self._losses: list[float] = []

    def train(self, line: Line) -> Iterator[None]:
        """Train, and stop for a moment after each step: others may go on meanwhile.

        Raises:
            TrainingError: the server answers what was not asked.
        """
        waiting: deque[_Waiting] = deque()
        has_tail = self._halves.has_tail
        for step, indices in enumerate(self._batches, 1):
            passed, activation = self._halves.forward(self._examples.x[indices])
            labels = self._examples.y[indices]
            line.send(Forward(step, activation, None if has_tail else labels))
            waiting.append(_Waiting(step, passed, activation.shape, labels, has_tail))
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
                gradient, loss = self._halves.finish(answer.activation, batch.labels)
                self._losses.append(loss)
                line.send(Backward(answer.step, gradient))
                continue
            batch = waiting.popleft()
            if batch.wants_output or answer.step != batch.step or answer.gradient.shape != batch.shape:
                raise TrainingError(f"the server's gradient of step {answer.step} was not asked, or does not fit")
            if answer.loss is not None and np.isfinite(answer.loss):
                self._losses.append(answer.loss)
            self._halves.backward(batch.passed, answer.gradient)
            return

    def update(self) -> Update:
        """Return the parts' weights, how many examples there are, and the mean loss."""
        loss = float(np.mean(self._losses)) if self._losses else None
        return Update(self._halves.weights(), len(self._examples), loss)


@dataclass
class _Waiting:
    """A batch under way.

    Attributes:
        step: its number.
        passed: the first part's.
        shape: of its activation.
        labels: of its examples.
        wants_output: whether the server's output is still to come.
    """

    step: int
    passed: Any
    shape: tuple[int, ...]
    labels: Integers
    wants_output: bool
