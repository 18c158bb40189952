"""Augmentation: examples changed by chance each time they are taken, as what they show allows. Numpy alone.

A client draws for each example of a batch by itself, of a generator of its own, so a cohort's examples, a single
client's and those of a device without torch are changed alike. What is made of an example is part of it: where single
examples are protected, its gradient is clipped as one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from edgekit.arrays import Array
from edgekit.data.federated import Floats
from edgekit.errors import ExperimentError

Shape = tuple[int, ...]
Drawn = tuple[Array, ...]
NOISE = 0.05
"""Standard deviation of `noise`, in those of the example."""


@dataclass(frozen=True)
class Kind:
    """One way to change examples.

    Attributes:
        needs: fewest dimensions of an example.
        draws: gives random numbers for so many examples of a shape, one row an example.
        apply: changes examples (examples, ...) by them.
        what: it needs, in words.
    """

    needs: int
    draws: Callable[[int, Shape, np.random.Generator], Drawn]
    apply: Callable[..., Floats]
    what: str


def _places(most: int, examples: int, rng: np.random.Generator) -> Array:
    return rng.integers(-most, most + 1, examples)


def _flip(x: Floats, coins: Array) -> Floats:
    flipped: Floats = np.where(coins[:, None, None, None], x[..., ::-1], x)
    return flipped


def _reach(side: int) -> int:
    return max(1, ceil(side / 8))


def _crop(x: Floats, down: Array, right: Array) -> Floats:
    height, width = x.shape[2:]
    tall, wide = _reach(height), _reach(width)
    padded = np.pad(x, ((0, 0), (0, 0), (tall, tall), (wide, wide)))
    rows = np.arange(height) + tall + down[:, None]
    columns = np.arange(width) + wide + right[:, None]
    each, channels = np.arange(len(x))[:, None, None, None], np.arange(x.shape[1])[:, None, None]
    cut: Floats = padded[each, channels, rows[:, None, :, None], columns[:, None, None, :]]
    return cut


def _shift(x: Floats, by: Array) -> Floats:
    length = x.shape[-1]
    flat = x.reshape(len(x), -1, length)
    places = np.arange(length) - by[:, None]
    there = (places >= 0) & (places < length)
    taken = np.take_along_axis(flat, np.clip(places, 0, length - 1)[:, None], 2) * there[:, None]
    moved: Floats = taken.reshape(x.shape).astype(x.dtype)
    return moved


def _noise(x: Floats, noise: Array) -> Floats:
    flat = x.reshape(len(x), -1)
    noisy: Floats = (flat + NOISE * flat.std(1, keepdims=True) * noise).astype(x.dtype).reshape(x.shape)
    return noisy


def _band(size: int, most: int, examples: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw where bands of at most so many places begin and end."""
    wide = rng.integers(0, most + 1, examples)
    begin = (rng.random(examples) * (size - wide + 1)).astype(np.int64)
    return begin, begin + wide


def _within(size: int, begin: Array, end: Array) -> Array:
    inside: Array = (np.arange(size) >= begin[:, None]) & (np.arange(size) < end[:, None])
    return inside


def _mean(x: Floats) -> Floats:
    """Return each example's mean, shaped to stand for its values."""
    mean: Floats = x.mean(tuple(range(1, x.ndim)), keepdims=True)
    return mean


def _spec(x: Floats, low: Array, high: Array, begin: Array, end: Array) -> Floats:
    bands = _within(x.shape[-2], low, high)[:, None, :, None]
    frames = _within(x.shape[-1], begin, end)[:, None, None, :]
    return np.where(bands | frames, _mean(x), x)


def _cutout(x: Floats, row: Array, column: Array) -> Floats:
    height, width = x.shape[2:]
    half = max(1, min(height, width) // 8)
    rows = _within(height, row - half, row + half)[:, None, :, None]
    columns = _within(width, column - half, column + half)[:, None, None, :]
    return np.where(rows & columns, _mean(x), x)


IMAGES = "images of (channels, height, width)"
AUGMENTATIONS: dict[str, Kind] = {
    # Left for right, every other time.
    "flip": Kind(3, lambda n, shape, rng: (rng.random(n) < 0.5,), _flip, IMAGES),
    # Padded by an eighth and cut anew (He et al. 2016, section 4.2).
    "crop": Kind(
        3,
        lambda n, shape, rng: (_places(_reach(shape[1]), n, rng), _places(_reach(shape[2]), n, rng)),
        _crop,
        IMAGES,
    ),
    # Along the last dimension, in time, by up to an eighth.
    "shift": Kind(2, lambda n, shape, rng: (_places(_reach(shape[-1]), n, rng),), _shift, "something along time"),
    "noise": Kind(1, lambda n, shape, rng: (rng.standard_normal((n, int(np.prod(shape)))),), _noise, "values"),
    # A band of frequencies and a stretch of time become the mean (SpecAugment, Park et al. 2019, section 2).
    "spec": Kind(
        3,
        lambda n, shape, rng: (
            *_band(shape[-2], shape[-2] // 6, n, rng),
            *_band(shape[-1], shape[-1] // 6, n, rng),
        ),
        _spec,
        "features of (1, bands, frames)",
    ),
    # A square of a quarter of the side becomes the mean (DeVries & Taylor 2017).
    "cutout": Kind(
        3, lambda n, shape, rng: (rng.integers(0, shape[1], n), rng.integers(0, shape[2], n)), _cutout, IMAGES
    ),
}


def check(kinds: Sequence[str], shape: Shape) -> None:
    """See that examples can be augmented so.

    Raises:
        ExperimentError: they have too few dimensions.
    """
    for name in kinds:
        if len(shape) < AUGMENTATIONS[name].needs:
            raise ExperimentError(
                f"training.augment {name!r} needs {AUGMENTATIONS[name].what}; these examples have {tuple(shape)}"
            )


class Augmenter:
    """Changes one client's batches, in their order.

    Args:
        kinds: names, in the order in which they are applied.
        seed: of the client's round.
    """

    def __init__(self, kinds: Sequence[str], seed: int) -> None:
        self._kinds = list(kinds)
        self._rng = np.random.default_rng([seed, len(AUGMENTATIONS)])

    def __call__(self, x: Floats) -> Floats:
        """Return a batch changed, (examples, ...)."""
        return together(self._kinds, x, [self], [len(x)])

    def drawn(self, examples: int, shape: Shape) -> list[Drawn]:
        """Return the random numbers of a batch."""
        return [AUGMENTATIONS[name].draws(examples, shape, self._rng) for name in self._kinds]


def together(kinds: Sequence[str], x: Floats, augmenters: Sequence[Augmenter], sizes: Sequence[int]) -> Floats:
    """Return several clients' batches changed, each as its own augmenter changes it.

    Args:
        kinds: names.
        x: the batches one behind the other, (examples, ...).
        augmenters: one a client.
        sizes: of their batches.
    """
    if not kinds or not len(x):
        return x
    drawn = [one.drawn(size, x.shape[1:]) for one, size in zip(augmenters, sizes, strict=True)]
    for place, name in enumerate(kinds):
        columns: list[Any] = [np.concatenate(parts) for parts in zip(*(one[place] for one in drawn), strict=True)]
        x = AUGMENTATIONS[name].apply(x, *columns)
    return np.ascontiguousarray(x, np.float32)
