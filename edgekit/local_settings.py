"""A round's instructions to a client. Numpy is not needed: every device reads them."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from edgekit.errors import TrainingError

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

LEAST_BOUND = 1e-12
"""Smaller bounds, and larger than one over it, are lost in the rounding of numbers."""
Optimiser = Literal["sgd", "adam", "adamw"]
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Torch's own defaults of Adam (Kingma & Ba 2015)."""
Augmentation = Literal["crop", "flip", "shift", "noise", "spec", "cutout"]
"""Of a client's examples, each time they are taken (`data.augment`)."""


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
        expected_examples: by which means are taken, times the sample rate (`dp-sgd`); 0 is the client's own number.
        optimiser: of `sgd`'s steps, begun anew in each training.
        nesterov: whether momentum is Nesterov's.
        weight_decay: as torch's optimisers have it.
        gradient_clip: largest l2 norm of a step's gradient, pull and drift included; 0 is any.
        least_batch: an epoch's last batch of fewer examples joins the one before it (`sgd`).
        augment: how examples are changed each time they are taken.
        own_classes: whether scores of classes that a client has no example of are taken for zero (masked cross entropy:
            Diao et al. 2021, section 3.3).
        most_steps: after which local passes end, done or not (`sgd`); 0 is never.
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
    least_batch: int = 1
    expected_examples: float = 0.0
    optimiser: Optimiser = "sgd"
    nesterov: bool = False
    weight_decay: float = 0.0
    gradient_clip: float = 0.0
    augment: tuple[Augmentation, ...] = ()
    own_classes: bool = False
    most_steps: int = 0

    @property
    def _unset(self) -> dict[str, object]:
        """What is left out of a message where it has no effect: noise is drawn by its text, and runs keep theirs."""
        return {
            "update_bounds": {},
            "least_batch": 1,
            "expected_examples": 0.0,
            "optimiser": "sgd",
            "nesterov": False,
            "weight_decay": 0.0,
            "gradient_clip": 0.0,
            "augment": (),
            "own_classes": False,
            "most_steps": 0,
        }

    @property
    def beyond_sgd(self) -> str:
        """Name of a setting by which steps are not those of plain SGD, perhaps with momentum; "" if there is none."""
        return self._first_set("optimiser", "nesterov", "weight_decay", "gradient_clip")

    @property
    def needs_torch(self) -> str:
        """Name of a setting that trainers without torch cannot follow, "" if there is none."""
        return self._first_set("nesterov", "gradient_clip", "own_classes")

    def _first_set(self, *names: str) -> str:
        return next((name for name in names if getattr(self, name) != self._unset[name]), "")

    def __post_init__(self) -> None:
        """Refuse settings out of range: they come over the network, and privacy is reckoned with them.

        Raises:
            TrainingError: a setting is out of range; it is named.
        """
        others = ("work", "update_bounds", "optimiser", "nesterov", "augment", "own_classes")
        numbers = [one.name for one in dataclasses.fields(self) if one.name not in others]
        if self.optimiser not in get_args(Optimiser) or not isinstance(self.nesterov, bool):
            raise TrainingError(
                f"the round asks for the unknown optimiser {self.optimiser!r}, nesterov {self.nesterov!r}"
            )
        if not isinstance(self.own_classes, bool) or (self.own_classes and self.protects):
            raise TrainingError(
                "the round asks for a loss of the client's own classes, which would tell of protected examples"
                if self.own_classes is True
                else f"the round's own_classes is {self.own_classes!r}; it must be true or false"
            )
        if not isinstance(self.augment, tuple) or not set(self.augment) <= set(get_args(Augmentation)):
            raise TrainingError(f"the round asks for the unknown augmentation {self.augment!r:.80}")
        if self.work not in get_args(Work):
            raise TrainingError(f"the round asks for the unknown work {self.work!r}")
        for name in numbers:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise TrainingError(f"the round's {name} is {value!r}; it must be a finite number, not negative")
        for name in ("epochs", "batch_size", "steps", "least_batch"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise TrainingError(f"the round's {name} is {getattr(self, name)!r}; it must be a whole number from 1")
        if not isinstance(self.most_steps, int):
            raise TrainingError(f"the round's most_steps is {self.most_steps!r}; it must be a whole number")
        if not 0 < self.sample_rate <= 1 or self.clip <= 0 or self.momentum >= 1:
            raise TrainingError(
                f"the round's sample_rate is {self.sample_rate!r}, clip {self.clip!r}, momentum {self.momentum!r}; "
                "they must be in (0, 1], above 0, and below 1"
            )

        for name in ("clip", "update_clip"):
            value = getattr(self, name)
            if value and not LEAST_BOUND <= value <= 1 / LEAST_BOUND:
                raise TrainingError(
                    f"the round's {name} is {value!r}; it must be {LEAST_BOUND:g} to {1 / LEAST_BOUND:g}"
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
        return json.dumps({name: value for name, value in held.items() if value != self._unset.get(name, ...)})

    def batch_of(self, examples: int) -> float:
        """Return how many examples a Poisson batch has on average, of a client with so many."""
        return self.sample_rate * (self.expected_examples or examples)

    @classmethod
    def from_json(cls, text: str) -> "LocalSettings":
        """Read what `to_json` wrote.

        Raises:
            TrainingError: it is no such text, or a setting is out of range.
        """
        try:
            given = json.loads(text)
            return cls(**{**given, "augment": tuple(given.get("augment", ()))})
        except (TypeError, ValueError) as error:
            raise TrainingError(f"the round's settings cannot be read: {error}") from None


def _is_bound(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and LEAST_BOUND <= value <= 1 / LEAST_BOUND
