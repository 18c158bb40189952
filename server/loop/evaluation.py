"""Accuracy and loss of the global model: on the server's test set, and on its own examples for choosing by them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgekit.algorithms.settings import Federation
from edgekit.arrays import Weights
from edgekit.clients.torch_trainer import load_weights
from edgekit.data import Examples
from edgekit.data.federated import Integers
from edgekit.errors import ModelError
from edgekit.server.loop.checkpoint import Checkpoint

UNEQUAL = 1.5
"""Classes are unequal where the largest has so many times its even share."""


@dataclass(frozen=True)
class Figures:
    """How good a model is on examples.

    Attributes:
        loss: mean cross-entropy in nats.
        accuracy: share of right answers.
        balanced_accuracy: mean over the classes of the share of each that is found.
        f1: mean over the classes of the harmonic mean of precision and recall.
        baseline: accuracy of always naming the largest class.
        unequal: whether classes are so unequal that accuracy alone says little.
    """

    loss: float
    accuracy: float
    balanced_accuracy: float
    f1: float
    baseline: float
    unequal: bool

    @property
    def beside(self) -> dict[str, float]:
        """What is told beside accuracy where classes are unequal."""
        return {"balanced_accuracy": round(self.balanced_accuracy, 6), "f1": round(self.f1, 6)} if self.unequal else {}


@torch.no_grad()
def measured(model: nn.Module, weights: Weights, test: Examples, batch_size: int = 500) -> Figures:
    """Return how good weights are on examples.

    Raises:
        ModelError: the network fails on them.
    """
    load_weights(model, weights)
    model.eval()
    loss, answers = 0.0, []
    for start in range(0, len(test), batch_size):
        x = torch.from_numpy(test.x[start : start + batch_size])
        y = torch.from_numpy(test.y[start : start + batch_size])
        try:
            scores = model(x)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ModelError(
                f"the network failed on {len(x)} test examples of shape {tuple(x.shape[1:])}: {reason}"
            ) from error
        loss += float(F.cross_entropy(scores, y, reduction="sum"))
        answers.append(scores.argmax(1).numpy())
    return _figures(loss / len(test), np.concatenate(answers), test.y)


def evaluate(model: nn.Module, weights: Weights, test: Examples) -> tuple[float, float]:
    """Return (loss, accuracy); errors as of `measured`."""
    found = measured(model, weights, test)
    return found.loss, found.accuracy


def _figures(loss: float, answers: Integers, labels: Integers) -> Figures:
    classes = max(int(answers.max()), int(labels.max())) + 1
    counts, named = np.bincount(labels, minlength=classes), np.bincount(answers, minlength=classes)
    right = np.bincount(labels[answers == labels], minlength=classes)
    there = counts > 0
    recall = right[there] / counts[there]
    f1 = 2 * right[there] / (counts[there] + named[there])
    largest = float(counts.max() / len(labels))
    return Figures(
        loss,
        float(right.sum() / len(labels)),
        float(recall.mean()),
        float(f1.mean()),
        largest,
        largest > UNEQUAL / int(there.sum()),
    )


class Validation:
    """Measures global models on examples that no client owns and no figure is reported of, to choose by.

    Args:
        model: the network.
        examples: the server's own.
        federation: whether a run keeps its best model, or ends early.

    Attributes:
        accuracy: of the newest model; None where none is measured.
    """

    def __init__(self, model: nn.Module, examples: Examples, federation: Federation) -> None:
        self._model, self._examples, self._federation = model, examples, federation
        self.accuracy: float | None = None

    def measured(self, after: Checkpoint, weights: Weights) -> Checkpoint:
        """Measure a checkpoint's model; return the checkpoint with the best one so far, where that is kept."""
        if not self._federation.validates:
            return after
        _, self.accuracy = evaluate(self._model, weights, self._examples)
        if self._federation.keep == "best" and self.accuracy > after.best_accuracy:
            return replace(after, best=weights, best_accuracy=self.accuracy)
        return after

    @property
    def metrics(self) -> dict[str, float]:
        """The figure for a round's line."""
        return {} if self.accuracy is None else {"validation": round(self.accuracy, 6)}

    def is_enough(self) -> bool:
        """Whether the run may end."""
        return self.accuracy is not None and 0 < self._federation.stop_at <= self.accuracy
