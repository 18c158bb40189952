"""A network as many at once: scores of many clients, and single examples' gradients, in vectorised steps."""

import copy
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from edgekit.clients.cohort.rules import ClientsInChannels
from edgekit.clients.draws import Draws, Makes, part_of
from edgekit.objectives import objective_of
from edgekit.privacy.tensors import clipped

Tensors = tuple[Tensor, ...] | list[Tensor]


class Vectorised:
    """A module whose trained parameters come stacked, one row a client; what is not trained is the module's own.

    Args:
        model: the module; it is copied.
        memory_bytes: bound on what single examples' gradients may take at once.

    Attributes:
        names: of the parameters that are trained, each once.
        objective: what the network is trained for.
    """

    def __init__(self, model: nn.Module, memory_bytes: int = 512 << 20) -> None:
        self.model, self.objective = copy.deepcopy(model).train(), objective_of(model)
        self.memory_bytes = memory_bytes
        self.names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._counted: dict[tuple[int, ...], int] = {}

    def scores(self, weights: Sequence[Tensor], x: Tensor, draws: Draws) -> Tensor:
        """Run all clients: x (batch, clients, ...) -> scores (clients, batch, outputs)."""

        def forward(parameters: list[Tensor], inputs: Tensor) -> Tensor:
            with ClientsInChannels(), draws:
                scores: Tensor = functional_call(self.model, dict(zip(self.names, parameters, strict=True)), (inputs,))
            return scores

        scores: Tensor = vmap(forward, in_dims=(0, 1))(list(weights), x)
        return scores

    def clipped_sums(
        self,
        stacked: Sequence[Tensor],
        owners: Tensor,
        x: Tensor,
        y: Tensor,
        clip: float,
        generators: Makes,
    ) -> list[Tensor]:
        """Return, for each client, the sum of its examples' gradients, each clipped to l2 norm `clip`.

        Every example is run as a client of its own, with its owner's weights and a batch of one, so the gradient by
        its own copy of the weights is the per-example gradient, whatever the layers are.

        Args:
            stacked: weights, (clients, ...) each.
            owners: each example's client, (examples,).
            x: (examples, ...).
            y: labels, (examples, ...).
            clip: largest norm.
            generators: gives each example's own, for layers that draw.
        """
        sums = [torch.zeros_like(tensor) for tensor in stacked]
        bytes_each = 4 * (3 * sum(tensor[0].numel() for tensor in stacked) + 8 * self.activations(tuple(x.shape[1:])))
        size = max(1, self.memory_bytes // bytes_each)
        for first in range(0, len(owners), size):
            part = slice(first, first + size)
            weights = [as_convolution(tensor[owners[part]]).requires_grad_() for tensor in stacked]
            draws = Draws(partial(part_of, generators, part), together=True)
            scores = self.scores(weights, x[None, part], draws).flatten(0, 1)
            loss = self.objective.each(scores, y[part], x[part])
            gradients = gradients_of(loss.sum(), weights)
            with torch.no_grad():
                for total, scaled in zip(sums, clipped(gradients, clip), strict=True):
                    total.index_add_(0, owners[part], scaled)
        return sums

    def activations(self, shape: tuple[int, ...]) -> int:
        """Return how many floats the layers' outputs for one example take."""
        if shape not in self._counted:
            total = 0

            def count(_: nn.Module, __: object, output: object) -> None:
                nonlocal total
                total += output.numel() if isinstance(output, Tensor) else 0

            leaves = [layer for layer in self.model.modules() if not any(True for _ in layer.children())]
            handles = [layer.register_forward_hook(count) for layer in leaves]
            try:
                with torch.no_grad():
                    self.model.eval()(torch.zeros(1, *shape, dtype=next(self.model.parameters()).dtype))
            finally:
                self.model.train()
                for handle in handles:
                    handle.remove()
            self._counted[shape] = total
        return self._counted[shape]

    def floats(self, shape: tuple[int, ...], batch: int, most: int) -> int:
        """Return how many floats one client takes at once.

        Args:
            shape: of an example.
            batch: examples a step; 0 where single examples' gradients are taken, which are bounded by themselves.
            most: examples that it has.
        """
        held = 4 * sum(p.numel() for p in self.model.parameters()) + most * int(np.prod(shape))
        return held + 3 * batch * self.activations(shape)


def gradients_of(loss: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return a loss's gradients; zero for weights that it does not depend on."""
    found: tuple[Tensor, ...] = torch.autograd.grad(loss, list(weights), allow_unused=True, materialize_grads=True)
    return found


def as_convolution(stacked: Tensor) -> Tensor:
    """Copy stacked weights into the memory order that oneDNN wants: convolutions' channels last."""
    if stacked.dim() == 5 and stacked.shape[2] > 1:
        return stacked.permute(0, 1, 3, 4, 2).clone(memory_format=torch.contiguous_format).permute(0, 1, 4, 2, 3)
    return stacked.clone(memory_format=torch.contiguous_format)
