"""A body that stays as it is, and a head that is trained: `frozen_head:Network` in frozen-head.toml.

Under privacy the noise grows with the number of trained parameters, so a good frozen body is the cheapest way to more
accuracy. Here it is a layer of random features (Rahimi & Recht 2007); give the weights of a trained one with
`model.weights = "body.safetensors"` and `model.new = ["head"]`.
"""

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Random features of the pixels, and a linear classifier on them.

    Args:
        features: how many.
        classes: how many.
    """

    def __init__(self, features: int = 400, classes: int = 10) -> None:
        super().__init__()
        self.body = nn.Linear(64, features)
        nn.init.normal_(self.body.weight, std=0.5)
        nn.init.uniform_(self.body.bias, -3.0, 3.0)
        self.body.requires_grad_(False)
        self.head = nn.Linear(features, classes)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, (batch, classes)."""
        return self.head(torch.relu(self.body(x.flatten(1))))
