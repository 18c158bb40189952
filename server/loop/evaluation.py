"""How good the global model is: on the server's test set, and on its own examples for choosing by them."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from edgekit.algorithms.settings import Federation
from edgekit.arrays import Weights
from edgekit.clients.torch_trainer import figures_of, load_weights
from edgekit.data import Examples
from edgekit.data.federated import Floats
from edgekit.errors import ModelError
from edgekit.objectives import Figures, objective_of
from edgekit.server.loop.checkpoint import Checkpoint


@torch.no_grad()
def outputs_of(model: nn.Module, examples: Examples, batch_size: int = 500) -> Floats:
    """Return what a network gives for examples, (examples, outputs).

    Raises:
        ModelError: it fails on them.
    """
    model.eval()
    found = []
    for start in range(0, len(examples), batch_size):
        x = torch.from_numpy(examples.x[start : start + batch_size])
        try:
            found.append(model(x).numpy())
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ModelError(
                f"the network failed on {len(x)} test examples of shape {tuple(x.shape[1:])}: {reason}"
            ) from error
    return np.concatenate(found)


def measured(model: nn.Module, weights: Weights, test: Examples) -> Figures:
    """Return how good weights are on examples, by the network's objective.

    Raises:
        ModelError: the network fails on them.
    """
    load_weights(model, weights)
    return figures_of(objective_of(model), outputs_of(model, test), test)


def evaluate(model: nn.Module, weights: Weights, test: Examples) -> tuple[float, float]:
    """Return the loss and the objective's measure; errors as of `measured`."""
    found = measured(model, weights, test)
    return found.loss, found.score


class Validation:
    """Measures global models on examples that no client owns and no figure is reported of, to choose by.

    Args:
        model: the network.
        examples: the server's own.
        federation: whether a run keeps its best model, or ends early.

    Attributes:
        score: the newest model's, by the objective's measure; None where none is measured.
    """

    def __init__(self, model: nn.Module, examples: Examples, federation: Federation) -> None:
        self._model, self._examples, self._federation = model, examples, federation
        self.score: float | None = None

    def measured(self, after: Checkpoint, weights: Weights) -> Checkpoint:
        """Measure a checkpoint's model; return the checkpoint with the best one so far, where that is kept."""
        if not self._federation.validates:
            return after
        _, self.score = evaluate(self._model, weights, self._examples)
        if self._federation.keep == "best" and self.score > after.best_score:
            return replace(after, best=weights, best_score=self.score)
        return after

    @property
    def metrics(self) -> dict[str, float]:
        """The figure for a round's line."""
        return {} if self.score is None else {"validation": round(self.score, 6)}

    def is_enough(self) -> bool:
        """Whether the run may end."""
        return self.score is not None and 0 < self._federation.stop_at <= self.score
