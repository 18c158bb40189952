"""Accuracy and loss of the global model: on the server's test set, and on its own examples for choosing by them."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from edgekit.algorithms.settings import Federation
from edgekit.arrays import Weights
from edgekit.clients.torch_trainer import load_weights
from edgekit.data import Examples
from edgekit.errors import ModelError
from edgekit.server.loop.checkpoint import Checkpoint


@torch.no_grad()
def evaluate(model: nn.Module, weights: Weights, test: Examples, batch_size: int = 500) -> tuple[float, float]:
    """Return (loss, accuracy): mean cross-entropy in nats, and the share of right answers."""
    load_weights(model, weights)
    model.eval()
    loss = correct = 0.0
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
        correct += int((scores.argmax(1) == y).sum())
    return loss / len(test), correct / len(test)


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

    @property
    def enough(self) -> bool:
        """Whether the run may end."""
        return self.accuracy is not None and 0 < self._federation.stop_at <= self.accuracy
