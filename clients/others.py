"""A method's further networks, beside the run's own: each is made when somebody first asks for it."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from torch import nn

from edgekit.algorithms.base import Algorithm
from edgekit.compression.record import rebuilt
from edgekit.data.federated import Floats
from edgekit.errors import TrainingError
from edgekit.models import build
from edgekit.objectives import Objective
from edgekit.objectives.cross_entropy import PLAIN

T = TypeVar("T")


class Others(Generic[T]):
    """What trains a method's further networks.

    Args:
        algorithm: the method.
        make: makes what trains one of them, of its name and network.
        shape: of one example.
        classes: how many.
        seed: of their first weights.
        calibration: examples to scale these by; None where there are none.
        objective: what all are trained for.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        make: Callable[[str, nn.Module], T],
        shape: Sequence[int],
        classes: int,
        seed: int,
        calibration: Floats | None = None,
        objective: Objective = PLAIN,
    ) -> None:
        self._algorithm, self._make, self._shape = algorithm, make, tuple(shape)
        self._classes, self._seed, self._calibration, self._objective = classes, seed, calibration, objective
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        """Return what trains a network.

        Raises:
            TrainingError: the method has none of this name.
        """
        if name not in self._made:
            modules = self._algorithm.modules
            if name not in modules:
                known = ", ".join(modules) or "none"
                raise TrainingError(f"the method has no network {name!r} beside the run's own: its modules are {known}")
            self._made[name] = self._make(name, self.network(name))
        return self._made[name]

    def network(self, name: str) -> nn.Module:
        """Return one of the networks, new, as clients train it."""
        section, done = self._algorithm.modules[name], self._algorithm.changes.get(name, ())
        network = build(section, self._shape, self._classes, self._seed, self._calibration, objective=self._objective)
        if not done:
            return network
        network = rebuilt(network, self._shape, done)
        network.objective = self._objective  # type: ignore[assignment]
        return network
