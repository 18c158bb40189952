"""A federated dataset: what each client owns, what the server tests with, and what it may look at freely."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Array
from edgekit.errors import DataError
from edgekit.objectives import Objective
from edgekit.objectives.cross_entropy import PLAIN
from edgekit.randomness import generator

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Labelled examples in memory.

    Attributes:
        x: float32, (examples, channels, height, width) or (examples, features).
        y: int64 class indices, (examples,); of other objectives as they say (`Objective.labels`).
    """

    x: Floats
    y: Array

    def __len__(self) -> int:
        return len(self.y)


class Source(Protocol):
    """Labelled examples that may still lie on the disk."""

    @property
    def labels(self) -> Integers:
        """Class index of each example, (examples,)."""

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """Owner of each example (speaker, writer), for the natural partition."""

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the indices."""

    @property
    def description(self) -> str:
        """One line for people."""

    @property
    def normalisation(self) -> dict[str, Any]:
        """How raw values become examples, for the files made for devices: x = (raw - mean) / std, and other facts."""

    def load(self, indices: Integers) -> Floats:
        """Return the examples at these indices."""


@dataclass(frozen=True)
class ArraySource:
    """A source whose examples are in memory already.

    Attributes:
        values: labels as numbers, float32 (examples, numbers), where they are some; None else. If they can be no
            classes, there are no `classes`.
    """

    x: Floats
    labels: Integers
    classes: list[str]
    description: str
    groups: NDArray[np.str_] | None = None
    normalisation: dict[str, Any] = field(default_factory=lambda: {"mean": 0.0, "std": 1.0})
    values: Floats | None = None

    def load(self, indices: Integers) -> Floats:
        """Return the examples at these indices."""
        return self.x[indices]


@dataclass(frozen=True)
class FederatedDataset:
    """Clients' data, loaded only when a client is asked for, and the server's own test and calibration sets.

    Attributes:
        clients: how many clients there are; a client is a number from 0.
        load_client: gives one client's examples. It may raise: that costs this client's update, not the run.
        test: examples for measuring accuracy; no client owns them.
        calibration: the server's own examples, for quantisation and spiking thresholds; no client owns them, so
            looking at them spends no client's privacy.
        classes: class names.
        description: one line for people.
        client_labels: labels of a client without loading its examples; None where that is not known.
        total_examples: over all clients; None where that is not known.
        normalisation: how raw values became examples: x = (raw - mean) / std.
        held_back: share of each client's examples that it does not train on, but measures models with.
        seed: of which these are.
        parties: tables of several parties with features of the same people; () of clients with examples of their own.
        objective: what a label is.
        later: (round, dataset) from which on clients own other examples; None where they stay as they are.
    """

    clients: int
    load_client: Callable[[int], Examples]
    test: Examples
    calibration: Examples
    classes: list[str]
    description: str
    client_labels: Callable[[int], Integers] | None = None
    total_examples: int | None = None
    normalisation: dict[str, Any] = field(default_factory=lambda: {"mean": 0.0, "std": 1.0})
    held_back: float = 0.0
    seed: int = 0
    parties: Sequence[Any] = ()
    objective: Objective = PLAIN
    later: "tuple[int, FederatedDataset] | None" = None

    def at(self, number: int) -> "FederatedDataset":
        """Return what clients own in a round."""
        return self if self.later is None or number < self.later[0] else self.later[1]

    @classmethod
    def of_shape(cls, shape: Sequence[int], classes: Sequence[str], objective: Objective) -> "FederatedDataset":
        """Return a dataset that has no examples, of a shape, classes and objective: what networks are built for."""
        nothing = Examples(np.empty((0, *shape), np.float32), np.empty(0, np.int64))
        return cls(1, lambda index: nothing, nothing, nothing, list(classes), "", objective=objective)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example: (channels, height, width) or (features,)."""
        return self.test.x.shape[1:]

    @property
    def examples_a_client(self) -> int:
        """How many examples a client has on average; 1 where that is not known."""
        return max(1, (self.total_examples or self.clients) // self.clients)

    def client(self, index: int, *, drop_unfit: bool = False) -> Examples:
        """Return what a client trains on, checked.

        Args:
            index: the client.
            drop_unfit: leave out single examples with values or labels out of range, instead of refusing the client:
                where examples are protected, one of them must not decide over its client's others.

        Raises:
            DataError: the client's data is empty, has another shape, or holds labels or values out of range.
        """
        examples = self.load_client(index)
        if drop_unfit and examples.x.ndim > 1 and len(examples.x) == len(examples.y):
            fit = np.asarray(np.isfinite(examples.x).reshape(len(examples), -1).all(1))
            if self._problem_with(examples.y):
                fit &= np.array([not self._problem_with(examples.y[i : i + 1]) for i in range(len(examples))])
            examples = Examples(examples.x[fit], examples.y[fit])
        self.check(examples, f"client {index}")
        return self._divided(index, examples)[0]

    def client_test(self, index: int) -> Examples:
        """Return what a client holds back to measure models with, checked; of very few examples that is none.

        Raises:
            DataError: as of `client`.
        """
        examples = self.load_client(index)
        self.check(examples, f"client {index}")
        return self._divided(index, examples)[1]

    def _divided(self, index: int, examples: Examples) -> tuple[Examples, Examples]:
        held = int(len(examples) * self.held_back)
        if not held:
            return examples, Examples(examples.x[:0], examples.y[:0])
        order = generator(self.seed, "client test", index).permutation(len(examples))
        parts = np.sort(order[held:]), np.sort(order[:held])
        kept, back = (Examples(examples.x[part], examples.y[part]) for part in parts)
        return kept, back

    def check(self, examples: Examples, whose: str) -> None:
        """See that examples are of this dataset's shape, types and classes.

        Raises:
            DataError: they are not; the message begins with `whose`.
        """
        if len(examples) == 0:
            raise DataError(f"{whose} has no examples")
        if examples.x.shape != (len(examples), *self.shape):
            raise DataError(f"{whose} has examples of shape {examples.x.shape[1:]}, expected {self.shape}")
        if examples.x.dtype != np.float32:
            raise DataError(f"{whose} has examples of dtype {examples.x.dtype}, expected float32")
        if problem := self._problem_with(examples.y):
            raise DataError(f"{whose} {problem}")
        if not np.isfinite(examples.x).all():
            raise DataError(f"{whose} has values that are not finite")

    def _problem_with(self, y: Array) -> str:
        return self.objective.problem_with(y, len(self.classes))

    def histogram(self, clients: Sequence[int]) -> Integers:
        """Return how many examples of each of `kinds` these clients hold, (clients, kinds)."""
        labels = self.client_labels or (lambda index: self.client(index).y)
        each = [labels(index) for index in clients]
        if self.kinds is not self.classes:
            return np.array([[len(y)] for y in each], np.int64)
        return np.stack([np.bincount(y if y.ndim == 1 else y.argmax(1), minlength=len(self.classes)) for y in each])

    @property
    def kinds(self) -> list[str]:
        """Names of what examples are counted by: classes, or all alike where labels are none."""
        return self.classes if self.objective.labels in ("class", "normal") else ["examples"]


def from_source(
    source: Source,
    labels: Array,
    classes: list[str],
    owners: list[Integers],
    test: Integers,
    calibration: Integers,
) -> FederatedDataset:
    """Divide one source: `owners[i]` are the indices of client i."""
    return FederatedDataset(
        clients=len(owners),
        load_client=lambda index: Examples(source.load(owners[index]), labels[owners[index]]),
        test=Examples(source.load(test), labels[test]),
        calibration=Examples(source.load(calibration), labels[calibration]),
        classes=classes,
        description=source.description,
        client_labels=lambda index: labels[owners[index]],
        total_examples=sum(len(owner) for owner in owners),
        normalisation=source.normalisation,
    )
