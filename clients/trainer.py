"""What every trainer takes and gives. Numpy only: devices without torch train too."""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from edgekit.arrays import Weights
from edgekit.data import Examples
from edgekit.data.federated import Floats
from edgekit.errors import TrainingError
from edgekit.privacy import mechanism

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

    def __post_init__(self) -> None:
        """Refuse settings out of range: they come over the network, and privacy is reckoned with them.

        Raises:
            TrainingError: a setting is out of range; it is named.
        """
        numbers = [field.name for field in dataclasses.fields(self) if field.name != "work"]
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

    def to_json(self) -> str:
        """Return the settings as JSON, for the message's config."""
        return json.dumps(dataclasses.asdict(self))

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


@dataclass(frozen=True)
class LocalTask:
    """One client's part of a round.

    Attributes:
        examples: the client's data.
        batches_rng: draws the batches.
        noise_rng: draws the noise.
    """

    examples: Examples
    batches_rng: np.random.Generator
    noise_rng: np.random.Generator


@dataclass(frozen=True)
class Update:
    """What a client sends back.

    Attributes:
        arrays: new weights, or a clipped gradient sum (`clipped-sum`).
        examples: how many examples the client trained on.
        loss: mean training loss of the local steps; None where the examples are protected, since it would tell of them.
    """

    arrays: Weights
    examples: int
    loss: float | None


class OneTrainer(Protocol):
    """Trains one client."""

    def train(self, weights: Weights, task: LocalTask, settings: LocalSettings) -> Update:
        """Return the client's update from these global weights."""


class Trainer(OneTrainer, Protocol):
    """Trains one client on its own device."""

    def check(self, weights: Weights, examples: Examples, settings: LocalSettings) -> None:
        """See that `train` can do this, before anything is spent for it; raises as `train` does."""

    def scores(self, weights: Weights, x: Floats) -> Floats:
        """Return the network's scores for examples, (examples, classes)."""


class CohortTrainer(Protocol):
    """Trains all clients of a round together."""

    def train_cohort(self, weights: Weights, tasks: Sequence[LocalTask], settings: LocalSettings) -> list[Update]:
        """Return the clients' updates, in the order of the tasks."""


def refuse_parts(settings: LocalSettings) -> None:
    """See that a whole network's trainer is not asked for the work of split learning.

    Raises:
        TrainingError: it is.
    """
    if settings.work == "local-dp":
        raise TrainingError("the round asks for split learning's work, but the network is not cut")


def bounded(arrays: Weights, start: Weights, settings: LocalSettings, rng: np.random.Generator) -> Weights:
    """Clip a client's whole update to `update_clip` and add `update_noise`, if the round asks for it.

    This is the client's half of user-level privacy (McMahan et al. 2018, section 2): the difference to the global
    weights is what is clipped.
    """
    if not settings.update_clip:
        return arrays
    difference = mechanism.clip({name: array - start[name] for name, array in arrays.items()}, settings.update_clip)
    if settings.update_noise:
        difference = mechanism.add_noise(difference, settings.update_noise, rng)
    return {name: start[name] + delta for name, delta in difference.items()}
