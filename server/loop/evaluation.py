"""Accuracy and loss of the global model on the server's test set."""

import torch
import torch.nn.functional as F
from torch import nn

from edgekit.arrays import Weights
from edgekit.clients.torch_trainer import load_weights
from edgekit.data import Examples
from edgekit.errors import ModelError


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
