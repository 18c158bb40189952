"""A method's further networks, beside the run's own: each is made when somebody first asks for it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from torch import nn

from edgekit.data.federated import Floats
from edgekit.errors import TrainingError
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.objectives import Objective
from edgekit.objectives.cross_entropy import PLAIN

T = TypeVar("T")


class Others(Generic[T]):
    """What trains a method's further networks.

    Args:
        modules: their [model] sections, by name.
        make: makes what trains one of them.
        shape: of one example.
        classes: how many.
        seed: of their first weights.
        calibration: examples to scale these by; None where there are none.
        objective: what all are trained for.
    """

    def __init__(
        self,
        modules: Mapping[str, Model],
        make: Callable[[nn.Module], T],
        shape: Sequence[int],
        classes: int,
        seed: int,
        calibration: Floats | None = None,
        objective: Objective = PLAIN,
    ) -> None:
        self._modules, self._make, self._shape = modules, make, tuple(shape)
        self._classes, self._seed, self._calibration, self._objective = classes, seed, calibration, objective
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        """Return what trains a network.

        Raises:
            TrainingError: the method has none of this name.
        """
        if name not in self._made:
            if name not in self._modules:
                known = ", ".join(self._modules) or "none"
                raise TrainingError(f"the method has no network {name!r} beside the run's own: its modules are {known}")
            section = self._modules[name]
            network = build(
                section, self._shape, self._classes, self._seed, self._calibration, objective=self._objective
            )
            self._made[name] = self._make(network)
        return self._made[name]
