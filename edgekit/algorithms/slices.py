"""Networks of unequal widths in one round: each client trains the leading channels that its device has room for.

The widest is the run's own network. Of a narrower one each array is the leading corner of the run's array of that name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from edgekit.algorithms.corners import Corners, Shapes
from edgekit.arrays import Weights, fits_in
from edgekit.errors import ExperimentError
from edgekit.models.settings import Model
from edgekit.randomness import generator
from edgekit.section import Section

if TYPE_CHECKING:
    from torch import Tensor, nn

Width = Annotated[float, Field(gt=0, le=1)]
TURNS = 1200
"""After so many clients their widths come again."""


class SlicesSettings(Section):
    """Which widths there are, and who has which."""

    widths: Annotated[list[Width], Field(min_length=1, max_length=16)] = [1.0, 0.5, 0.25]
    """Of the networks, as shares of `model.width`, the widest first; the first is 1, the run's own network."""
    shares: list[Annotated[float, Field(gt=0)]] = []
    """Of the clients, what share has each width; empty is alike. Clients take turns."""
    change: bool = False
    """Whether a simulated client's width is drawn anew in each round, by these shares."""
    memory_mb: list[Annotated[int, Field(ge=0)]] = []
    """What each width needs a device to have; a device then has the widest that fits it. Real nodes tell their memory
    where their owners let them (`share = ["memory"]` in node.toml); one that does not tell has the narrowest."""
    profiles: list[str] = []
    """Devices of simulated clients, which take turns (`edgekit devices list`), for `memory_mb`."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.widths[0] != 1 or sorted(set(self.widths), reverse=True) != self.widths:
            raise ValueError(f"widths = {self.widths} must fall from 1, as in [1.0, 0.5, 0.25]")
        for name in ("shares", "memory_mb"):
            if (given := getattr(self, name)) and len(given) != len(self.widths):
                raise ValueError(f"{name} are {len(given)}, but there are {len(self.widths)} widths")
        if self.memory_mb and (self.shares or self.change):
            raise ValueError("memory_mb says who has which width: leave shares and change out")
        if self.profiles and not self.memory_mb:
            raise ValueError("profiles are for memory_mb, what each width needs: give it too")
        return self


class Sliced(Corners):
    """What methods with networks of unequal widths share; of each, `modules` names the networks that clients train.

    Attributes:
        shape: of one example.
    """

    Settings: ClassVar[type[Section]] = SlicesSettings
    settings: SlicesSettings

    def __init__(self, settings: Section | None = None) -> None:
        super().__init__(settings)
        self.shape: tuple[int, ...] = ()
        self._sections: dict[str, Model] = {}
        self._row = _turns(self.settings.shares or [1.0] * len(self.settings.widths))
        self._memory = [_memory_of(name) for name in self.settings.profiles]
        self._networks: dict[int, str] = {}
        """Of real nodes."""

    @property
    def names(self) -> list[str]:
        """The networks' names, the widest first."""
        return [self.name_of(width) for width in self.settings.widths]

    def name_of(self, width: float) -> str:
        """Return the name of a width's network."""
        return "" if width == 1 else f"{width:g}"

    def prepare(
        self,
        model: Model,
        shape: Sequence[int],
        build: "Callable[[Model], nn.Module]",
        *,
        released: bool,
        seed: int,
    ) -> None:
        """Build a network of each width, and see that it is a corner of the widest.

        Raises:
            ExperimentError: it is not, or the network has what cannot be shared so.
        """
        from edgekit.models.slices import is_corner, readout_of, trained_shapes

        self.shape = tuple(shape)
        plain = self.begun(model, released=released, seed=seed)
        self._sections = {
            self.name_of(width): plain.model_copy(update={"width": model.width * width})
            for width in self.settings.widths
        }
        networks = {name: build(section) for name, section in self._sections.items()}
        whole = networks[self.names[0]]
        self.shapes, self.readout = trained_shapes(whole), readout_of(whole)
        self.slices = {}
        for name, width in zip(self.names, self.settings.widths, strict=True):
            shapes = trained_shapes(networks[name])
            if problem := _problem_with(shapes, self.shapes):
                raise ExperimentError(
                    f"{model.name} of width {width:g} is no slice of the whole network: {problem}; use another network"
                )
            if width < 1 and not is_corner(whole, networks[name], self._tried()):
                raise ExperimentError(
                    f"{model.name} of width {width:g} is no slice of the whole network: its gates, heads or channels "
                    "are not where those of the whole are; use another network, such as cnn, dscnn, mobilenetv2 or mlp"
                )
            if shapes in self.slices.values():
                raise ExperimentError(
                    f"{model.name} of width {width:g} is as large as the one before it: choose widths that differ, or "
                    "a wider network (model.width)"
                )
            self.slices[name] = shapes
        self.changes = self.changed(networks)
        self.modules = {name: self._sections[name] for name in self.names if name}

    def _tried(self) -> "Tensor":
        """Return examples of the run's shape, to try networks with."""
        import torch

        return torch.rand(4, *self.shape, generator=torch.Generator().manual_seed(0))

    def changed(self, networks: "Mapping[str, nn.Module]") -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Return what is done to each network before clients train it, by name (`Algorithm.changes`)."""
        return {}

    def network_of(self, client: int, number: int) -> str:
        """Return the name of the network that a client trains in a round."""
        settings = self.settings
        if client in self._networks:
            return self._networks[client]
        if self._memory:
            return self.fitting(self._memory[client % len(self._memory)])
        if settings.change:
            shares = np.array(settings.shares or [1.0] * len(settings.widths))
            draw = generator(self.seed, "width", number, client)
            return self.names[int(draw.choice(len(shares), p=shares / shares.sum()))]
        return self.names[self._row[client % len(self._row)]]

    def fitting(self, memory_mb: float) -> str:
        """Return the name of the widest network that a device with so much memory trains."""
        needed = self.settings.memory_mb
        return next((n for n, least in zip(self.names, needed, strict=True) if memory_mb >= least), self.names[-1])

    def assign(self, node: int, facts: Mapping[str, Any], known: str | None = None) -> str:
        """Return the name of the network that a real node trains in the whole run.

        Args:
            node: its number.
            facts: that it tells of itself.
            known: what it was given before; None is nothing yet.
        """
        if known is None or known not in self.slices:
            memory = facts.get("memory")
            if self.settings.memory_mb:
                known = self.fitting(float(memory)) if isinstance(memory, int | float) else self.names[-1]
            else:
                known = self.names[self._row[len(self._networks) % len(self._row)]]
        self._networks[node] = known
        return known

    def parts_of(self, clients: int) -> Mapping[str, float]:
        """Return the share of all clients that have each width."""
        if self._networks:
            held = list(self._networks.values())
            return {name: held.count(name) / len(held) for name in self.names}
        if self._memory or not (self.settings.change or self.settings.memory_mb):
            counts = dict.fromkeys(self.names, 0)
            for client in range(clients):
                counts[self.network_of(client, 1)] += 1
            return {name: count / clients for name, count in counts.items()}
        given = self.settings.shares or [1.0] * len(self.names)
        return {name: share / sum(given) for name, share in zip(self.names, given, strict=True)}

    def delivered(self, weights: Weights) -> Mapping[str, tuple[Model, Weights]]:
        """Return each narrower network as people use it: its [model] section, and its weights by themselves.

        What clients multiply between layers while they train is in the weights then.
        """
        from edgekit.models.slices import SCALE, folded

        found = {}
        for name in self.names[1:]:
            steps = [step for step in self.changes.get(name, ()) if step["step"] == SCALE]
            found[name] = (self._sections[name], folded(self.part(weights, name), steps))
        return found


def _problem_with(shapes: Shapes, whole: Shapes) -> str:
    """Say why arrays are no corners of others, "" if they are."""
    if set(shapes) != set(whole):
        return f"it has other arrays, such as {min(set(shapes) ^ set(whole))!r}"
    for name, shape in shapes.items():
        if not fits_in(shape, whole[name]):
            return f"{name!r} is {shape} of {whole[name]}"
    return ""


def _turns(shares: Sequence[float]) -> list[int]:
    """Return whose turn it is, in a row in which each has its share from the beginning on."""
    total, given, row = sum(shares), [0] * len(shares), []
    for taken in range(1, TURNS + 1):
        lacks = [share / total * taken - had for share, had in zip(shares, given, strict=True)]
        row.append(lacks.index(max(lacks)))
        given[row[-1]] += 1
    return row


def _memory_of(profile: str) -> float:
    """Return the memory of a device in MB.

    Raises:
        ExperimentError: there is no such device, or its profile does not say.
    """
    from edgekit.devices.profile import load

    found = load(profile)
    if not found.memory_mb:
        raise ExperimentError(f"federation.arguments.profiles: {profile!r} does not say its memory (memory_mb)")
    return found.memory_mb
