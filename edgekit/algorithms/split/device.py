"""A device's round of split learning (Gupta and Raskar 2018; Vepakomma et al. 2018 for the U-shaped form). Numpy only.

The device trains the first part of a network and, where the labels stay with it, the last; the server trains the rest.
What computes the parts is torch (`by_torch.py`) or LiteRT (`by_litert.py`).
"""

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgekit.algorithms.base import Half, plain_update, with_mu
from edgekit.algorithms.interactive import Own
from edgekit.algorithms.split.codec import LARGEST
from edgekit.algorithms.split.hiding import clipped, distance_correlation, noised, through_clip
from edgekit.algorithms.split.messages import Answer, Backward, Forward, Output
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Ask, Client, Exchange, Trained
from edgekit.data import Examples
from edgekit.data.batches import LocalTask
from edgekit.data.federated import Floats, Integers
from edgekit.errors import TrainingError
from edgekit.local_settings import LocalSettings

RELEASES = 3
"""How often an example takes part, each epoch of `local-dp`, in what leaves its device noised: its activation, the
gradient of its loss, and a step of the device's weights."""


@dataclass(frozen=True)
class Terms:
    """What holds for all devices of a federation.

    Attributes:
        window: batches that may be under way at once; with more than one, gradients belong to weights up to
            `window` - 1 steps old.
        crossing: shapes of one example's activation at each cut.
        activation_clip: of `local-dp`: largest l2 norm of an example's activation.
        no_peek: weight of the distance correlation between examples and activations in the loss.
        labels: whether devices have the labels of their examples; parties with features alone have not.
    """

    window: int
    crossing: Sequence[tuple[int, ...]]
    activation_clip: float = 1.0
    no_peek: float = 0.0
    labels: bool = True


class Halves(Protocol):
    """A device's parts in one round: they hold the weights, and make the steps, private ones where the round says so.

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
        """Make a step of the last part; return the gradient of the batch's mean loss to what it saw, and that loss.

        A label of -1 is no example: its gradient is zero.
        """

    def weights(self) -> Weights:
        """Return the parts' weights, by the network's names."""


class HalvesMaker(Protocol):
    """What computes the parts on this device; it stays loaded between rounds."""

    def check(self, weights: Weights, examples: Examples, settings: LocalSettings) -> None:
        """See that a round can be trained, before anything is spent for it.

        Raises:
            EdgekitError: it cannot.
        """

    def halves(self, weights: Weights, settings: LocalSettings, task: LocalTask) -> Halves:
        """Return the parts at these weights, for one client."""


class Device:
    """One client's round.

    Args:
        made_by: computes the parts.
        terms: of the federation.
        weights: of the parts, others are passed over.
        task: the client's data and random numbers.
        settings: the round's instructions.

    Attributes:
        batches: the examples of each step.
    """

    def __init__(
        self, made_by: HalvesMaker, terms: Terms, weights: Weights, task: LocalTask, settings: LocalSettings
    ) -> None:
        if settings.work != "sgd" and terms.no_peek:
            raise TrainingError("the round asks for NoPeek's penalty, which mixes the examples that it shall protect")
        self._terms, self._examples, self._rng = terms, task.examples, task.noise_rng
        self.batches = task.plan(settings)
        self._halves = made_by.halves(weights, settings, task)
        self._private = settings.work != "sgd"
        self._hides = settings.work == "local-dp"
        self._gradient_clip = settings.clip
        self._deviation = 2 * settings.noise_multiplier
        self._losses: list[float] = []

    def exchanges(self) -> Generator[Exchange, Any, None]:
        """Train: yield what is sent to the server and waited for, be sent its answers.

        Raises:
            TrainingError: the server answers what was not asked.
        """
        waiting: deque[_Waiting] = deque()
        has_tail = self._halves.has_tail
        tells = self._terms.labels and not has_tail
        for step, indices in enumerate(self.batches, 1):
            x, labels = self._examples.x[indices], self._examples.y[indices]
            if not len(indices):  # an empty Poisson batch: a step of noise alone, as if of an example without a label
                x, labels = self._examples.x[:1], np.array([-1])
            passed, activation = self._halves.forward(x)
            if self._private:  # what no server takes must not cost the device its round: that would tell of it
                fits = np.abs(activation.reshape(len(x), -1)).max(1) <= LARGEST
                activation = np.where(fits.reshape(-1, *([1] * (activation.ndim - 1))), activation, np.float32(0))
                labels = labels if self._hides else np.where(fits, labels, -1)
            waiting.append(_Waiting(step, passed, x, activation, labels, has_tail))
            if self._hides:
                activation = noised(clipped(activation, self._terms.activation_clip),
                                    self._deviation * self._terms.activation_clip, self._rng)  # fmt: skip
            yield Exchange(Forward(step, activation, labels if tells else None))
            if len(waiting) >= self._terms.window:
                yield from self._settle(waiting)
                yield Exchange(step=True)
        while waiting:
            yield from self._settle(waiting)
            yield Exchange(step=True)

    def _settle(self, waiting: "deque[_Waiting]") -> Generator[Exchange, Any, None]:
        """Take answers until the oldest batch has its gradient, and make its step."""
        while True:
            answer: Answer = yield Exchange(answer=True)
            if isinstance(answer, Output):
                batch = next((one for one in waiting if one.step == answer.step and one.wants_output), None)
                if batch is None or answer.activation.shape != (len(batch.labels), *self._terms.crossing[-1]):
                    raise TrainingError(f"the server's output of step {answer.step} was not asked, or does not fit")
                batch.wants_output = False
                gradient, loss = self._halves.finish(answer.activation, batch.labels)
                self._losses.append(loss)
                if self._hides:
                    count = len(batch.labels)  # each example's own gradient is so many times its row
                    rows = clipped(count * gradient, self._gradient_clip)
                    gradient = noised(rows, self._deviation * self._gradient_clip, self._rng) / np.float32(count)
                yield Exchange(Backward(answer.step, gradient))
                continue
            batch = waiting.popleft()
            if batch.wants_output or answer.step != batch.step or answer.gradient.shape != batch.activation.shape:
                raise TrainingError(f"the server's gradient of step {answer.step} was not asked, or does not fit")
            if answer.loss is not None and np.isfinite(answer.loss):
                self._losses.append(answer.loss)
            gradient = answer.gradient
            if self._hides:
                gradient = through_clip(gradient, batch.activation, self._terms.activation_clip)
            if self._terms.no_peek:
                _, by_activation = distance_correlation(batch.x, batch.activation)
                gradient = gradient + np.float32(self._terms.no_peek) * by_activation
            self._halves.backward(batch.passed, gradient)
            return

    def update(self) -> Trained:
        """Return the parts' weights, how many examples there are, and the mean loss, which protected data keep."""
        loss = float(np.mean(self._losses)) if self._losses and not self._private else None
        return Trained(self._halves.weights(), len(self._examples), loss)


@dataclass
class _Waiting:
    """A batch under way.

    Attributes:
        step: its number.
        passed: the first part's.
        x: the examples.
        activation: of the first part, as it was before anything hid it.
        labels: of its examples.
        wants_output: whether the server's output is still to come.
    """

    step: int
    passed: Any
    x: Floats
    activation: Floats
    labels: Integers
    wants_output: bool


def half(ask: Ask, client: Client) -> Half:
    """Do a device's half of a round: of what `client.own` holds."""
    own: Own = client.own
    device = Device(own.parts, own.terms, ask.bundles[WEIGHTS], own.task, with_mu(ask))
    yield from device.exchanges()
    return plain_update(device.update())
