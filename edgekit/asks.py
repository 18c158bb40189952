"""What loop, algorithms, transforms and engines say to each other. Numpy only: devices without torch read it too."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.arrays import Array, Weights, problem_with
from edgekit.errors import TrainingError
from edgekit.local_settings import LocalSettings

Bundles = Mapping[str, Weights]
"""Named groups of arrays. What counts of the bundle `weights` of an update is its difference to what the client was
sent; every other bundle counts as it is."""
WEIGHTS = "weights"
BUFFERS = "buffers"
"""The bundle of running statistics, as BatchNorm keeps them: no method sees it; it is averaged plainly."""
Fact = int | float | str | bool | bytes | list[Any]
"""What goes along with bundles: numbers and words."""
LARGEST_FACT = 1e15
LARGEST_VALUE = 1e6
"""Of what clients send: no network of use has larger weights, and one that is larger would stay in a mean for good."""
MOST_LETTERS, MOST_NUMBERS, MOST_FACTS = 300, 1000, 100
"""In a word, in a list of numbers, and in an update."""
OWN_FACTS = ("num-examples", "task", "round", "bundles", "facts")
"""Names that messages use themselves."""


@dataclass(frozen=True)
class Ask:
    """What a client is asked to do in a round.

    Attributes:
        bundles: that it is sent; `weights` are the global ones.
        config: what else it is told.
        settings: how it trains; the loop fills them in.
        round: from 1; likewise.
    """

    bundles: Bundles
    config: Mapping[str, Fact] = field(default_factory=dict)
    settings: LocalSettings = field(default_factory=LocalSettings)
    round: int = 1

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return size_of(self.bundles)


@dataclass(frozen=True)
class Train:
    """A client half's request to train, with the one rule of all trainers: a step goes along
    `gradient + mu * (w - anchor) + drift`, where mu is the settings' `proximal_mu`.

    Attributes:
        weights: to start from: the trained parameters, each once.
        settings: how.
        anchor: what mu pulls to; None is `weights`.
        drift: added to each step's gradient, by parameter; None is nothing. A parameter that is left out has none.
        module: names the network, one of the method's own `modules`; "" is the run's.
        buffers: running statistics to start from; None is those that the client was sent.
        taught: (examples, scores) to train on instead of the client's own: the softened chances of the network come
            nearer to those of the scores (Hinton et al. 2015, at temperature 1). Networks of torch alone can.
    """

    weights: Weights
    settings: LocalSettings
    anchor: Weights | None = None
    drift: Weights | None = None
    module: str = ""
    buffers: Weights | None = None
    taught: tuple[Array, Array] | None = None


@dataclass(frozen=True)
class Trained:
    """The answer to `Train`.

    Attributes:
        arrays: new weights, or a clipped gradient sum (`clipped-sum`).
        examples: how many examples the client trained on.
        loss: mean training loss of the local steps; None where the examples are protected, since it would tell of them.
        steps: that were made.
        buffers: running statistics after it, of the names that it began with.
    """

    arrays: Weights
    examples: int
    loss: float | None
    steps: int = 1
    buffers: Weights = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A client half's request to measure weights on examples that the client holds back.

    Attributes:
        weights: to measure.
        module: names the network, as of `Train`.
        buffers: running statistics, as of `Train`.
    """

    weights: Weights
    module: str = ""
    buffers: Weights | None = None


@dataclass(frozen=True)
class Scored:
    """The answer to `Score`.

    Attributes:
        loss: mean.
        score: by the objective's measure: of classes the share of right answers.
        examples: that were measured.
    """

    loss: float
    score: float
    examples: int


@dataclass(frozen=True)
class Predict:
    """A request for the scores that weights give for examples; the answer is an array, (examples, classes).

    Attributes:
        weights: of the network.
        x: the examples.
        module: names the network, as of `Train`.
        buffers: running statistics, as of `Train`.
    """

    weights: Weights
    x: Array
    module: str = ""
    buffers: Weights | None = None


@dataclass(frozen=True)
class Exchange:
    """A client half's request to the server within a round; of interactive methods alone.

    Attributes:
        message: to be sent; None sends nothing.
        answer: whether to wait for the next answer to what was sent so far: answers come in the messages' order.
        step: whether a step ends here, so that other clients may go on.
    """

    message: Any = None
    answer: bool = False
    step: bool = False


Request = Train | Score | Predict | Exchange


@dataclass(frozen=True)
class Update:
    """What a client sends back.

    Attributes:
        bundles: named groups of arrays.
        weight: of this client in means, such as its number of examples.
        facts: what else it tells. Where updates are protected, nothing: what has to travel then goes into a bundle,
            which privacy bounds and counts.
        grids: step and bits of arrays that a transform put on a grid, by `bundle:name`: a hint for who sends them.
    """

    bundles: Bundles
    weight: float = 1.0
    facts: Mapping[str, Fact] = field(default_factory=dict)
    grids: Mapping[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return size_of(self.bundles)


@dataclass(frozen=True)
class Reply:
    """A client's answer to an `Ask`.

    Attributes:
        client: its number.
        update: what it sent; None if it failed.
        problem: why, for people.
    """

    client: int
    update: Update | None
    problem: str = ""


@dataclass(frozen=True)
class Aggregate:
    """What the server makes of a round's updates.

    Attributes:
        bundles: means over the clients, by weight; under noise by the server, what it released.
        facts: weighted means of the numbers that came along.
        count: updates.
        clients: how many clients there are in all, asked or not.
        updates: single ones by client, for methods that read each; None where only the sum may be seen.
        settings: with which clients trained.
    """

    bundles: Bundles
    facts: Mapping[str, float]
    count: int
    clients: int
    updates: Mapping[int, Update] | None = None
    settings: LocalSettings = field(default_factory=LocalSettings)


@dataclass(frozen=True)
class State:
    """What a method, or a transform, remembers between rounds; kept in checkpoints.

    Attributes:
        bundles: `weights` and whatever else.
        facts: JSON.
    """

    bundles: Bundles
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Client:
    """A client, as its half of a method sees it.

    Attributes:
        examples: how many it trains on.
        learnt: names of the arrays that training moves by gradients.
        state: what the client keeps between rounds, to be changed in place: on the disk in simulations, part of
            checkpoints; on the device itself with real ones.
        own: what an interactive method's half works with itself.
    """

    examples: int
    learnt: frozenset[str]
    state: dict[str, Weights] = field(default_factory=dict)
    own: Any = None


def own_bundles(bundles: Bundles) -> Bundles:
    """Return a method's own bundles: all but the running statistics."""
    return {name: arrays for name, arrays in bundles.items() if name != BUFFERS}


def size_of(bundles: Bundles) -> int:
    """Return the bytes of all arrays."""
    return sum(array.nbytes for arrays in bundles.values() for array in arrays.values())


def problem_with_update(update: Update, expected: Bundles) -> str:
    """Say what makes an update unfit, "" if nothing."""
    if set(update.bundles) != set(expected):
        return f"its update has the bundles {', '.join(update.bundles)}, expected {', '.join(expected)}"
    if not (math.isfinite(update.weight) and 0 < update.weight < LARGEST_FACT):
        return f"its update weighs {update.weight!r}"
    for bundle, like in expected.items():
        if problem := problem_with(update.bundles[bundle], like, LARGEST_VALUE):
            return problem if bundle == WEIGHTS else f"{bundle}: {problem}"
    if len(update.facts) > MOST_FACTS:
        return f"it tells more than {MOST_FACTS} facts"
    for name, fact in update.facts.items():
        if name in OWN_FACTS or ":" in name or len(name) > MOST_LETTERS or not _fits(fact):
            return f"it tells {name[:40]!r}, which is no fact that can be taken"
    return ""


def check_noisable(bundles: Bundles) -> None:
    """See that noise can protect all arrays.

    Raises:
        TrainingError: one holds whole numbers.
    """
    for bundle, arrays in bundles.items():
        for name, array in arrays.items():
            if array.dtype.kind != "f":
                raise TrainingError(f"the bundle {bundle!r} holds whole numbers, which noise cannot protect: {name!r}")


def _fits(fact: object) -> bool:
    """Whether a fact is a word or finite numbers, and of bearable size."""
    if isinstance(fact, str | bytes):
        return len(fact) <= MOST_LETTERS
    if isinstance(fact, list):
        return len(fact) <= MOST_NUMBERS and all(isinstance(one, int | float) and _fits(one) for one in fact)
    return isinstance(fact, int | float) and abs(fact) < LARGEST_FACT  # false of what is not a number


def mean_of(updates: Sequence[Update]) -> tuple[Bundles, dict[str, float]]:
    """Return the weighted means of updates' bundles and of the numbers among their facts.

    In the clients' order, and in each array's own precision, as Flower's FedAvg does: the same bits.

    Args:
        updates: at least one, all with the same arrays.
    """
    total = sum(update.weight for update in updates)
    shares = [update.weight / total for update in updates]
    first = updates[0]
    bundles: dict[str, Weights] = {}
    for bundle, arrays in first.bundles.items():
        means = {name: array * shares[0] for name, array in arrays.items()}
        for update, share in zip(updates[1:], shares[1:], strict=True):
            for name, array in update.bundles[bundle].items():
                means[name] += array * share
        bundles[bundle] = {name: np.asarray(mean, arrays[name].dtype) for name, mean in means.items()}
    numbers = [
        {name: float(value) for name, value in update.facts.items() if isinstance(value, int | float)}
        for update in updates
    ]
    shared = [name for name in numbers[0] if all(name in one for one in numbers)]
    facts = {name: sum(one[name] * share for one, share in zip(numbers, shares, strict=True)) for name in shared}
    return bundles, facts


def packed(bundles: Mapping[str, Weights]) -> Weights:
    """Return groups of arrays as one, by `group:name`.

    Raises:
        TrainingError: a group's name has a colon.
    """
    if strange := [group for group in bundles if ":" in group]:
        raise TrainingError(f"the bundle {strange[0]!r} cannot be called so: leave the colon out")
    return {f"{group}:{name}": array for group, held in bundles.items() for name, array in held.items()}


def unpacked(flat: Weights) -> dict[str, Weights]:
    """Return what `packed` was given, without groups that were empty."""
    groups: dict[str, Weights] = {}
    for path, array in flat.items():
        group, _, name = path.partition(":")
        groups.setdefault(group, {})[name] = array
    return groups
