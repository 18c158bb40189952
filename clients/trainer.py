"""What every trainer takes and gives. Numpy only: devices without torch train too."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from edgekit.arrays import Array, Weights, problem_with
from edgekit.asks import Predict, Score, Scored, Train, Trained
from edgekit.data import Examples
from edgekit.data.batches import LocalTask as LocalTask
from edgekit.data.federated import Floats
from edgekit.errors import TrainingError


class OneTrainer(Protocol):
    """Trains one client.

    Attributes:
        learnt: names of the parameters that are trained, each once: the arrays of `Train.weights`.
    """

    @property
    def learnt(self) -> frozenset[str]:
        """Names of the parameters that are trained, each once."""

    def train(self, asked: Train, task: LocalTask) -> Trained:
        """Return what the client made of the weights."""

    def score(self, asked: Score, examples: Examples) -> Scored:
        """Return how good weights are on examples."""

    def scores(self, weights: Weights, x: Floats) -> Floats:
        """Return the network's scores for examples, (examples, classes)."""


class Trainer(OneTrainer, Protocol):
    """Trains one client on its own device."""

    def fix(self, arrays: Weights) -> None:
        """Set what is never trained: frozen parameters, constants."""

    def check(self, asked: Train, examples: Examples) -> None:
        """See that `train` can do this, before anything is spent for it; raises as `train` does."""


def told(request: Score | Predict, trainer: OneTrainer, examples: Examples) -> Scored | Array:
    """Answer a request that trains nothing.

    Args:
        request: the request.
        trainer: of the network that it names.
        examples: that are measured.
    """
    if isinstance(request, Predict):
        return trainer.scores({**(request.buffers or {}), **request.weights}, np.asarray(request.x, np.float32))
    return trainer.score(request, examples)


class CohortTrainer(Protocol):
    """Trains all clients of a round together."""

    def train_cohort(self, asked: Sequence[Train], tasks: Sequence[LocalTask]) -> list[Trained]:
        """Return what each client made of its weights; all have the same settings."""


def check_train(asked: Train, learnt: frozenset[str]) -> None:
    """See that a request to train fits together.

    Args:
        asked: the request, whose weights are of the network.
        learnt: names of what is trained.

    Raises:
        TrainingError: it is not, or it is of split learning.
    """
    if asked.settings.work == "local-dp":
        raise TrainingError("the round asks for split learning's work, but the network is not cut")
    if asked.taught is not None and (asked.settings.work != "sgd" or asked.settings.protects):
        raise TrainingError("a protected round trains on the client's own examples alone")
    for what, arrays in (("anchor", asked.anchor), ("drift", asked.drift)):
        like = asked.weights
        expected = {name: like[name] for name in like if what == "anchor" or name in (arrays or {})}
        if arrays is not None and (problem := problem_with(arrays, expected)):
            raise TrainingError(f"the round's {what} is not of this network: {problem}")
    if asked.settings.work != "sgd" and (name := asked.settings.beyond_sgd):
        raise TrainingError(f"private steps are of plain SGD: the round's {name} has no meaning there")
    if asked.drift and not set(asked.drift) <= learnt:
        raise TrainingError("the round's drift is of arrays that do not learn")
    if asked.drift and asked.settings.work == "clipped-sum":
        raise TrainingError("a single clipped sum is taken without drift")


def pulled(asked: Train) -> tuple[Weights, Weights]:
    """Return a request's anchor and drift: what mu pulls to, and what is added to each gradient."""
    return (asked.weights if asked.anchor is None else asked.anchor), asked.drift or {}
