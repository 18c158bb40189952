"""A device's parts in torch."""

import torch
import torch.nn.functional as F
from torch import nn

from edgekit.algorithms.split.hiding import Noise
from edgekit.algorithms.split.noise import check_work, noise_of_device
from edgekit.algorithms.split.part import Part, Passed
from edgekit.arrays import Weights
from edgekit.data import Examples
from edgekit.data.batches import LocalTask
from edgekit.data.federated import Floats, Integers
from edgekit.errors import DataError
from edgekit.local_settings import LocalSettings
from edgekit.models import check_private


class TorchDevice:
    """A device with torch.

    Args:
        bottom: its first part.
        tail: its last part, which sees the labels; None where the server has them.
    """

    def __init__(self, bottom: nn.Module, tail: nn.Module | None) -> None:
        self.bottom, self.tail = bottom, tail

    def check(self, weights: Weights, examples: Examples, settings: LocalSettings) -> None:
        """See that a round can be trained; see `HalvesMaker`."""
        check_work(settings, self.tail is not None)
        if settings.work != "sgd":
            for part in (self.bottom, self.tail):
                if part is not None:
                    check_private(part)
        if not len(examples):
            raise DataError("this client has no examples")

    def halves(self, weights: Weights, settings: LocalSettings, task: LocalTask) -> "TorchHalves":
        """Return the parts at these weights."""

        def part(module: nn.Module) -> Part:
            seed = int(task.batches_rng.integers(2**63))
            return Part(module, weights, settings.learning_rate, settings.momentum, settings.proximal_mu, seed)

        noise = noise_of_device(settings, 1 if self.tail is None else 2, task)
        return TorchHalves(part(self.bottom), None if self.tail is None else part(self.tail), noise)


class TorchHalves:
    """The parts in one round; see `Halves`."""

    def __init__(self, bottom: Part, tail: Part | None, noise: Noise | None) -> None:
        self._bottom, self._tail, self._noise = bottom, tail, noise
        self.has_tail = tail is not None

    def forward(self, x: Floats) -> tuple[Passed, Floats]:
        """Return a batch's activation."""
        passed = self._bottom.forward(torch.from_numpy(x), wants_gradient=False)
        return passed, passed.y.detach().numpy()

    def backward(self, passed: Passed, gradient: Floats) -> None:
        """Make a step of the first part."""
        if self._noise is None:
            self._bottom.backward(passed, torch.from_numpy(gradient))
        else:
            self._bottom.backward_private(passed, torch.from_numpy(gradient), self._noise)

    def finish(self, activation: Floats, labels: Integers) -> tuple[Floats, float]:
        """Make a step of the last part."""
        assert self._tail is not None
        passed = self._tail.forward(torch.from_numpy(activation), wants_gradient=True)
        y = torch.from_numpy(labels)
        if self._noise is not None:
            return self._tail.finish_private(passed, y, self._noise).numpy(), 0.0
        loss = F.cross_entropy(passed.y, y)
        gradient = self._tail.backward(Passed(passed.x, loss, passed.parameters))
        assert gradient is not None
        return gradient.numpy(), float(loss.detach())

    def weights(self) -> Weights:
        """Return the parts' weights."""
        return self._bottom.weights() | (self._tail.weights() if self._tail is not None else {})
