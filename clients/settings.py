"""[training]: one client's local training."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgekit.local_settings import Augmentation, LocalSettings
from edgekit.section import Count, Positive, Section, Share


class Training(Section):
    """One client's local training."""

    trainer: Literal["auto", "cohort", "client-major", "one-by-one", "litert"] = "auto"
    """`auto` is the fastest; `client-major` is compiled, or as `auto` where a layer has no rule; `cohort` is
    vectorised; `litert` is as devices without torch train."""
    epochs: Count = 2
    """Passes over a client's examples in one round."""
    batch_size: Count = 8
    """Examples a step."""
    optimiser: Literal["sgd", "adam", "adamw"] = "sgd"
    """As torch has them, begun anew in each round; phones' pages know `sgd` alone."""
    learning_rate: Positive = 0.1
    """Step size."""
    schedule: Literal["constant", "cosine", "step"] = "constant"
    """Of the step size over the rounds: `cosine` falls to almost nothing in the last one (Loshchilov & Hutter 2017),
    `step` is `step_factor` of what it was after each `step_rounds`."""
    warm_up: Annotated[int, Field(ge=0)] = 0
    """Rounds in which the step size grows to its full length."""
    step_rounds: Count = 20
    """Of `schedule = "step"`."""
    step_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of `schedule = "step"`."""
    momentum: Share = 0.0
    """Of SGD."""
    nesterov: bool = False
    """Nesterov's form of the momentum; needs clients with torch."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """As torch's optimisers have it; phones' pages have none."""
    gradient_clip: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Largest l2 norm of a step's gradient, against explosions; 0 is any. No privacy comes of it; needs clients with
    torch."""
    augment: list[Augmentation] = []
    """Ways to change examples each time they are taken, in this order ([objectives.md](objectives.md))."""
    memory_mb: Count = 512
    """Bound on the vectorised trainer's working memory."""
    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    """Processes that train at once, 50 clients each at a time, with the same results; compiled steps take all cores
    without. With `federation.engine = "ray"` actors, of which 1 is as many as there are cores."""

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov is a form of momentum: set momentum, or leave it out")
        if self.optimiser != "sgd" and self.momentum:
            raise ValueError(f"momentum is of sgd, {self.optimiser} has its own: leave it out")
        return self

    @property
    def beyond_sgd(self) -> str:
        """Name of a key by which steps are not those of plain SGD, perhaps with momentum; "" if there is none."""
        return self.plain().beyond_sgd

    @property
    def needs_torch(self) -> str:
        """Name of a key that only clients with torch can follow, "" if there is none."""
        return self.plain().needs_torch

    def rate(self, number: int, rounds: int) -> float:
        """Return a round's step size, of so many rounds in all."""
        if number <= self.warm_up:
            return self.learning_rate * number / self.warm_up
        after = number - 1 - self.warm_up
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * after / max(1, rounds - self.warm_up))) / 2
        if self.schedule == "step":
            return self.learning_rate * self.step_factor ** (after // self.step_rounds)
        return self.learning_rate

    def plain(self) -> LocalSettings:
        """Return the instructions for plain training."""
        return LocalSettings(
            optimiser=self.optimiser,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            gradient_clip=self.gradient_clip,
            augment=tuple(self.augment),
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
        )
