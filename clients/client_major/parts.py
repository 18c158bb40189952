"""What a program is made of: layers, what they give, and where their parameters lie."""

import math
from dataclasses import dataclass, field

import numpy as np

from edgekit.arrays import Array


@dataclass(eq=False)
class Place:
    """A layer's result, (height, width, channels) an example.

    Attributes:
        channels: real ones.
        height: pixels.
        width: pixels.
        filled: channels with their filling.
        pads: zeros that its readers want around it, by height and width.
        flat: whether it was flattened, channel by channel.
        readers: layers that take it.
        maker: what gives it, None for the examples.
    """

    channels: int
    height: int
    width: int
    filled: int
    pads: list[int] = field(default_factory=lambda: [0, 0])
    flat: bool = False
    readers: int = 0
    maker: "Layer | None" = None


@dataclass(eq=False)
class Layer:
    """A layer; sizes as of `fields`."""

    kind: int
    takes: list[Place]
    gives: Place
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    weight: str = ""
    bias: str = ""
    act: int = 0
    gain: str = ""
    groups: int = 1
    eps: float = 0.0


@dataclass(frozen=True)
class Packed:
    """Where a parameter lies among the packed ones, as (kernel height, width, in, out), in and out filled up."""

    at: int
    filled: tuple[int, int, int, int]
    real: tuple[int, int, int, int]
    shape: tuple[int, ...]

    def into(self, rows: Array, array: Array) -> None:
        """Write a parameter's values; rows: (clients, size) or (size)."""
        k, m, c, n = self.real
        self._view(rows)[..., :k, :m, :c, :n] = array.reshape(n, c, k, m).transpose(2, 3, 1, 0)

    def out_of(self, rows: Array) -> Array:
        """Return its values for each client, (clients, *shape)."""
        k, m, c, n = self.real
        found = self._view(rows)[:, :k, :m, :c, :n].transpose(0, 4, 3, 1, 2)
        return np.ascontiguousarray(found).reshape(len(rows), *self.shape)

    def _view(self, rows: Array) -> Array:
        return rows[..., self.at : self.at + math.prod(self.filled)].reshape(*rows.shape[:-1], *self.filled)
