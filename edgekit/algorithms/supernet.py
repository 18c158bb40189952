"""A supernet: many networks that share their weights, trained together (Cai et al. 2020, Once-for-All, section 3; Yu et
al. 2019, slimmable networks).

Networks with the same layers share them: each has the leading corner of the largest's arrays. In each round each client
trains one that it draws. `edgekit search --supernet` begins its candidates with what came of it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from edgekit.algorithms.base import State
from edgekit.algorithms.corners import Corners, Shapes
from edgekit.arrays import Weights, corner, fits_in
from edgekit.asks import WEIGHTS
from edgekit.errors import EdgekitError, ExperimentError
from edgekit.models.settings import Model
from edgekit.randomness import generator
from edgekit.section import Section

if TYPE_CHECKING:
    from torch import nn


class SupernetSettings(Section):
    """The method's own."""

    networks: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=512)]
    """What differs from the run's [model] section in each network, as `{width = 0.5}`; the run's own is one more."""


class Supernet(Corners):
    """Each weight is the mean over the clients whose network of this round has it."""

    Settings: ClassVar[type[Section]] = SupernetSettings
    settings: SupernetSettings

    def __init__(self, settings: Section | None = None) -> None:
        super().__init__(settings)
        self._first: dict[str, Weights] = {}
        self._skeletons: dict[str, str] = {}

    def prepare(
        self,
        model: Model,
        shape: Sequence[int],
        build: "Callable[[Model], nn.Module]",
        *,
        released: bool,
        seed: int,
    ) -> None:
        """Build the networks; those that cannot be built are left out.

        Raises:
            ExperimentError: a network is no [model] section, or none can be built.
        """
        plain = self.begun(model, released=released, seed=seed)
        sections = {"": plain}
        for place, change in enumerate(self.settings.networks):
            try:
                sections[f"n{place}"] = Model.model_validate({**plain.model_dump(), **change})
            except ValueError as error:
                raise ExperimentError(f"federation.arguments.networks: {change} is no [model] section") from error
        self.modules, self.slices, self._first = {}, {}, {}
        for name, section in sections.items():
            try:
                network = build(section)
            except EdgekitError:
                if not name:
                    raise
                continue
            held = {k: p.detach().numpy().copy() for k, p in network.named_parameters() if p.requires_grad}
            self._first[name], self.slices[name] = held, {key: array.shape for key, array in held.items()}
            self._skeletons[name] = skeleton(self.slices[name])
            if name:
                self.modules[name] = section
        found: dict[str, tuple[int, ...]] = {}
        for name, shapes in self.slices.items():
            for own, size in shapes.items():
                key = self.key(name, own)
                found[key] = tuple(map(max, size, found.get(key, size)))
        self.shapes = found

    def key(self, network: str, name: str) -> str:
        """Return the name of the shared array: of all networks with the same layers."""
        return f"{self._skeletons[network]}/{name}"

    def begin(self, weights: Weights, learnt: frozenset[str]) -> State:
        """Begin with the networks' own first weights, the largest's where several have one."""
        shared = {name: np.zeros(shape, np.float32) for name, shape in self.shapes.items()}
        sizes = {name: sum(array.size for array in held.values()) for name, held in self._first.items()}
        for name in sorted(self._first, key=lambda one: sizes[one]):
            held = weights if not name else self._first[name]
            for own, array in held.items():
                shared[self.key(name, own)][corner(array.shape)] = array
        self._first = {}
        return State({WEIGHTS: shared})

    def model(self, state: State) -> Weights:
        """Return the part of the run's own network."""
        return self.part(state.bundles[WEIGHTS], "")

    def network_of(self, client: int, number: int) -> str:
        """Draw a network, all with the same chance."""
        names = list(self.slices)
        return names[int(generator(self.seed, "network", number, client).integers(len(names)))]

    def parts_of(self, clients: int) -> Mapping[str, float]:
        """Return that each network has the same share."""
        return {name: 1 / len(self.slices) for name in self.slices}


def skeleton(shapes: Shapes) -> str:
    """Return what networks that share weights have in common: names of arrays, and all but the channels' numbers."""
    what = [(name, len(shape), *shape[2:]) for name, shape in shapes.items()]
    return hashlib.sha256(repr(what).encode()).hexdigest()[:12]


def part_of(shared: Weights, shapes: Shapes) -> Weights:
    """Return a network's part of a supernet's arrays, as far as that has it.

    Args:
        shared: by skeleton and name.
        shapes: of the network's trained arrays.
    """
    found = {}
    for name, shape in shapes.items():
        array = shared.get(f"{skeleton(shapes)}/{name}")
        if array is not None and fits_in(shape, array.shape):
            found[name] = np.ascontiguousarray(array[corner(shape)])
    return found
