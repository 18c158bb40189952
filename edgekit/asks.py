"""What loop, algorithms, transforms and engines say to each other. Numpy only: devices without torch read it too."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from edgekit.arrays import Weights, problem_with
from edgekit.errors import TrainingError

Bundles = Mapping[str, Weights]
"""Named groups of arrays. What counts of the bundle `weights` of an update is its difference to what the client was
sent; every other bundle counts as it is."""
WEIGHTS = "weights"
Fact = int | float | str | bool | bytes | list[Any]
"""What goes along with bundles: numbers and words."""
LARGEST_FACT = 1e15
MOST_LETTERS, MOST_NUMBERS, MOST_FACTS = 300, 1000, 100
"""In a word, in a list of numbers, and in an update."""
OWN_FACTS = ("num-examples", "task", "round", "bundles", "facts")
"""Names that messages use themselves."""

Work = Literal["sgd", "dp-sgd", "clipped-sum", "local-dp"]
"""What a client does in a round.

`sgd`: local SGD; the update is the new weights.
`dp-sgd`: local SGD over Poisson batches with clipped examples and noise in each step (Abadi et al. 2016,
algorithm 1); the update is the new weights, safe to send to a server that is not trusted.
`clipped-sum`: one Poisson batch; the update is the bare sum of the clipped gradients, for a trusted server that adds
the noise.
`local-dp`: of split learning alone: local SGD over batches of which each example is in one an epoch, where all that
leaves the device is clipped and noised, activations and gradients too; the server need not be trusted.
"""


@dataclass(frozen=True)
class LocalSettings:
    """One round's instructions to a client. They travel in the message, so every node reads them alike.

    Attributes:
        work: what to do.
        epochs: passes over the client's data (`sgd`, `local-dp`).
        batch_size: examples a step (`sgd`, `local-dp`).
        steps: Poisson batches (`dp-sgd`).
        learning_rate: step size.
        momentum: of SGD.
        proximal_mu: weight of FedProx's term mu / 2 |w - w_global|^2 (Li et al. 2020).
        clip: largest l2 norm of one example's gradient (private work only).
        sample_rate: chance of each example to be in a Poisson batch (private work only).
        noise_multiplier: standard deviation of the noise in units of how far one example can move what is released:
            `clip` (`dp-sgd`), or twice each bound, since any example may stand for any other (`local-dp`).
        update_clip: largest l2 norm of the whole update, 0 for none (unit client).
        update_noise: standard deviation of the noise the client adds to its clipped update, 0 for none.
        update_bounds: of an update with several bundles, the largest l2 norm of each, in place of `update_clip`.
    """

    work: Work = "sgd"
    epochs: int = 1
    batch_size: int = 8
    steps: int = 1
    learning_rate: float = 0.1
    momentum: float = 0.0
    proximal_mu: float = 0.0
    clip: float = 1.0
    sample_rate: float = 1.0
    noise_multiplier: float = 0.0
    update_clip: float = 0.0
    update_noise: float = 0.0
    update_bounds: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse settings out of range: they come over the network, and privacy is reckoned with them.

        Raises:
            TrainingError: a setting is out of range; it is named.
        """
        numbers = [one.name for one in dataclasses.fields(self) if one.name not in ("work", "update_bounds")]
        if self.work not in get_args(Work):
            raise TrainingError(f"the round asks for the unknown work {self.work!r}")
        for name in numbers:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise TrainingError(f"the round's {name} is {value!r}; it must be a finite number, not negative")
        for name in ("epochs", "batch_size", "steps"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise TrainingError(f"the round's {name} is {getattr(self, name)!r}; it must be a whole number from 1")
        if not 0 < self.sample_rate <= 1 or self.clip <= 0 or self.momentum >= 1:
            raise TrainingError(
                f"the round's sample_rate is {self.sample_rate!r}, clip {self.clip!r}, momentum {self.momentum!r}; "
                "they must be in (0, 1], above 0, and below 1"
            )

        bounds = self.update_bounds
        if not isinstance(bounds, Mapping) or not all(_is_bound(bound) for bound in bounds.values()):
            raise TrainingError(f"the round's update_bounds are {bounds!r}; they must be numbers above 0, by name")

    @property
    def protects(self) -> bool:
        """Whether a client's update is protected: it tells neither of the client's size nor of its loss."""
        return self.work != "sgd" or self.update_clip > 0

    def to_json(self) -> str:
        """Return the settings as JSON, for the message's config."""
        held = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        held["update_bounds"] = dict(self.update_bounds)
        if not self.update_bounds:  # what noise is drawn from: runs of one bundle keep theirs
            del held["update_bounds"]
        return json.dumps(held)

    @classmethod
    def from_json(cls, text: str) -> "LocalSettings":
        """Read what `to_json` wrote.

        Raises:
            TrainingError: it is no such text, or a setting is out of range.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise TrainingError(f"the round's settings cannot be read: {error}") from None


def _is_bound(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


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
        weights: to start from.
        settings: how.
        anchor: what mu pulls to; None is `weights`.
        drift: added to each step's gradient, by parameter; None is nothing. A parameter that is left out has none.
    """

    weights: Weights
    settings: LocalSettings
    anchor: Weights | None = None
    drift: Weights | None = None


@dataclass(frozen=True)
class Trained:
    """The answer to `Train`.

    Attributes:
        arrays: new weights, or a clipped gradient sum (`clipped-sum`).
        examples: how many examples the client trained on.
        loss: mean training loss of the local steps; None where the examples are protected, since it would tell of them.
        steps: that were made.
    """

    arrays: Weights
    examples: int
    loss: float | None
    steps: int = 1


@dataclass(frozen=True)
class Score:
    """A client half's request to measure weights on examples that the client holds back."""

    weights: Weights


@dataclass(frozen=True)
class Scored:
    """The answer to `Score`.

    Attributes:
        loss: mean cross-entropy in nats.
        accuracy: share of right answers.
        examples: that were measured.
    """

    loss: float
    accuracy: float
    examples: int


Request = Train | Score


@dataclass(frozen=True)
class Update:
    """What a client sends back.

    Attributes:
        bundles: named groups of arrays.
        weight: of this client in means, such as its number of examples.
        facts: what else it tells. Where updates are protected, nothing: what has to travel then goes into a bundle,
            which privacy bounds and counts.
    """

    bundles: Bundles
    weight: float = 1.0
    facts: Mapping[str, Fact] = field(default_factory=dict)

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
    """

    bundles: Bundles
    facts: Mapping[str, float]
    count: int
    clients: int
    updates: Mapping[int, Update] | None = None


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
        if problem := problem_with(update.bundles[bundle], like):
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
            if not np.issubdtype(array.dtype, np.floating):
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
