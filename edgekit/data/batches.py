"""What a client trains on, step by step; every trainer draws its batches here, so all see the same ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from edgekit.data.federated import Examples, Integers
from edgekit.local_settings import LocalSettings


@dataclass(frozen=True)
class LocalTask:
    """What a client trains with.

    Attributes:
        examples: the client's data.
        batches_rng: draws the batches.
        noise: draws the noise, or what gives it where it is needed, the same each time.
        going_on: called before each batch; raises where it shall not come to that.
    """

    examples: Examples
    batches_rng: np.random.Generator
    noise: np.random.Generator | Callable[[], np.random.Generator]
    going_on: Callable[[], None] = lambda: None

    @property
    def noise_rng(self) -> np.random.Generator:
        """What draws the noise."""
        return self.noise if isinstance(self.noise, np.random.Generator) else self.noise()

    def plan(self, settings: LocalSettings) -> "Plan":
        """Draw all batches of the round."""
        return Plan(draw(len(self.examples), settings, self.batches_rng), self.going_on)


class Plan(list[Integers]):
    """The batches of a client's round: indices of examples, batch by batch.

    Args:
        batches: the batches.
        going_on: as in `LocalTask`.
    """

    def __init__(self, batches: list[Integers], going_on: Callable[[], None]) -> None:
        super().__init__(batches)
        self._going_on = going_on

    def __iter__(self) -> Iterator[Integers]:
        """Yield the batches, as long as it goes on."""
        for batch in super().__iter__():
            self._going_on()
            yield batch


def shuffled(
    examples: int, batch_size: int, epochs: int, rng: np.random.Generator, least_batch: int = 1
) -> list[Integers]:
    """Shuffle anew each epoch and cut into batches; the last one of an epoch may be smaller.

    One of fewer than `least_batch` joins the batch before it.
    """
    orders = [rng.permutation(examples) for _ in range(epochs)]
    ends = [*range(batch_size, examples, batch_size), examples]
    if len(ends) > 1 and examples - ends[-2] < least_batch:
        del ends[-2]
    starts = [0, *ends[:-1]]
    return [order[start:end] for order in orders for start, end in zip(starts, ends, strict=True) if end]


def poisson(examples: int, sample_rate: float, steps: int, rng: np.random.Generator) -> list[Integers]:
    """Draw each example into each batch independently with the chance `sample_rate`; batches may be empty.

    This is the sampling for which amplification by subsampling is proved (Abadi et al. 2016, section 3.1); batches of
    a fixed size do not have that guarantee.
    """
    return [np.flatnonzero(rng.random(examples) < sample_rate) for _ in range(steps)]


def draw(examples: int, settings: LocalSettings, rng: np.random.Generator) -> list[Integers]:
    """Draw all batches of a client's round."""
    if settings.work in ("sgd", "local-dp"):
        batches = shuffled(examples, settings.batch_size, settings.epochs, rng, settings.least_batch)
        return batches[: settings.most_steps or None]
    steps = settings.steps if settings.work == "dp-sgd" else 1
    return poisson(examples, settings.sample_rate, steps, rng)
