"""The default trainer: the whole cohort takes each SGD step together."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from edgekit.arrays import Weights
from edgekit.clients import batches
from edgekit.clients.cohort.rules import ClientsInChannels
from edgekit.clients.torch_trainer import TorchTrainer
from edgekit.clients.trainer import LocalSettings, LocalTask, Update, bounded, refuse_parts
from edgekit.data import Examples
from edgekit.data.federated import Integers
from edgekit.errors import EdgekitError
from edgekit.privacy.tensors import add_noise, clipped

LARGEST_CHUNK = 128
"""More clients at once gain nothing: measured best near 100."""


def obstacle(model: nn.Module, shape: tuple[int, ...], classes: int) -> str | None:
    """Say why a cohort of this module cannot be trained in vectorised steps; None if it can.

    Besides looking for layers that keep or draw something, it trains two clients both ways and compares.

    Args:
        model: the module.
        shape: one example's shape.
        classes: number of classes.
    """
    for name, layer in model.named_modules():
        if any(True for _ in layer.buffers(recurse=False)):
            return f"layer {name or type(layer).__name__!r} ({type(layer).__name__}) keeps buffers"
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            return f"layer {name!r} ({type(layer).__name__}) draws random numbers"
    if frozen := [name for name, parameter in model.named_parameters() if not parameter.requires_grad]:
        return f"parameter {frozen[0]!r} is frozen"
    rng = np.random.default_rng(0)
    examples = [Examples(rng.random((size, *shape), np.float32), rng.integers(0, classes, size)) for size in (3, 2)]
    weights = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    settings = LocalSettings(batch_size=2, learning_rate=1e-3)

    def tasks() -> list[LocalTask]:
        return [LocalTask(block, np.random.default_rng(1), np.random.default_rng(2)) for block in examples]

    try:
        together = VectorisedTrainer(model).train_cohort(weights, tasks(), settings)
        alone = [TorchTrainer(model).train(weights, task, settings) for task in tasks()]
    except EdgekitError:
        raise
    except Exception as error:  # torch.func and user modules raise many kinds
        return f"torch.func cannot vectorise it: {' '.join(str(error).split())[:200] or type(error).__name__}"
    for one, other in zip(together, alone, strict=True):
        if any(not np.allclose(one.arrays[name], other.arrays[name], rtol=1e-3, atol=1e-5) for name in weights):
            return "its vectorised step differs from its ordinary one"
    return None


class VectorisedTrainer:
    """Trains a cohort in vectorised steps; equal to training each client alone, up to rounding.

    Args:
        model: a module without buffers or random layers (see `obstacle`).
        memory_bytes: bound on the working memory; larger cohorts are trained in chunks.
    """

    def __init__(self, model: nn.Module, memory_bytes: int = 512 << 20) -> None:
        self.model = model
        self.memory_bytes = memory_bytes
        self.names = [name for name, _ in model.named_parameters()]
        self._counted: dict[tuple[int, ...], int] = {}

    def train_cohort(self, weights: Weights, tasks: Sequence[LocalTask], settings: LocalSettings) -> list[Update]:
        """Train all clients from the same weights.

        Clients with more batches go first: the clients that still have work are then always the first rows of the
        stacked weights, and a step touches just those.

        Args:
            weights: global weights by name.
            tasks: one a client.
            settings: the round's instructions.

        Returns:
            One update a client, in the order of the tasks.
        """
        refuse_parts(settings)
        plans = [batches.draw(len(task.examples), settings, task.batches_rng) for task in tasks]
        order = sorted(range(len(tasks)), key=lambda i: -len(plans[i]))
        start = [torch.from_numpy(np.asarray(weights[name], order="C")) for name in self.names]
        updates: list[Update | None] = [None] * len(tasks)
        size = self._clients_at_once(tasks, settings)
        for first in range(0, len(order), size):
            chunk = order[first : first + size]
            train = self._sgd if settings.work == "sgd" else self._private
            stacked, losses = train(start, [tasks[i] for i in chunk], [plans[i] for i in chunk], settings)
            rows = [tensor.numpy() for tensor in stacked]
            for row, i in enumerate(chunk):
                arrays = {name: np.asarray(array[row], order="C") for name, array in zip(self.names, rows, strict=True)}
                arrays = bounded(arrays, weights, settings, tasks[i].noise_rng)
                updates[i] = Update(arrays, len(tasks[i].examples), None if losses is None else float(losses[row]))
        return [update for update in updates if update is not None]

    def _sgd(
        self, start: list[Tensor], tasks: list[LocalTask], plans: list[list[Integers]], settings: LocalSettings
    ) -> tuple[list[Tensor], Tensor]:
        stacked = [_stack(tensor, len(tasks)) for tensor in start]
        momentum = [torch.zeros_like(tensor) for tensor in stacked] if settings.momentum else []
        x, y = _padded([task.examples for task in tasks])
        x = x.to(start[0].dtype)
        losses = torch.zeros(len(tasks))
        for step in range(len(plans[0])):
            plan = [indices[step] for indices in plans if len(indices) > step]
            active = len(plan)
            indices, mask = _rectangle(plan)
            rows = torch.arange(active)[:, None]
            weights = [tensor[:active].detach().requires_grad_() for tensor in stacked]
            scores = self._scores(weights, x[rows, indices].transpose(0, 1))
            loss = F.cross_entropy(scores.flatten(0, 1), y[rows, indices].flatten(), reduction="none")
            loss = (loss.view(active, -1) * mask.to(loss.dtype)).sum(1)
            gradients = torch.autograd.grad(loss.sum(), weights)
            with torch.no_grad():
                losses[:active] += loss
                if settings.proximal_mu:
                    offsets = [w - s for w, s in zip(weights, start, strict=True)]
                    gradients = torch._foreach_add(gradients, offsets, alpha=settings.proximal_mu)
                if momentum:
                    running = [tensor[:active] for tensor in momentum]
                    torch._foreach_mul_(running, settings.momentum)
                    torch._foreach_add_(running, gradients)
                    gradients = tuple(running)
                torch._foreach_add_([w.detach() for w in weights], gradients, alpha=-settings.learning_rate)
        return stacked, losses / torch.tensor([len(plan) for plan in plans])

    def _private(
        self, start: list[Tensor], tasks: list[LocalTask], plans: list[list[Integers]], settings: LocalSettings
    ) -> tuple[list[Tensor], None]:
        """Poisson batches, each example clipped; `dp-sgd` steps with noise, `clipped-sum` gives the first sum."""
        stacked = [tensor.expand(len(tasks), *tensor.shape).clone() for tensor in start]
        momentum = [torch.zeros_like(tensor) for tensor in stacked]
        for step in range(len(plans[0])):
            owners = np.concatenate([np.full(len(plan[step]), row) for row, plan in enumerate(plans)])
            blocks = [(task.examples, plan[step]) for task, plan in zip(tasks, plans, strict=True)]
            x = torch.from_numpy(np.concatenate([block.x[indices] for block, indices in blocks])).to(start[0].dtype)
            y = torch.from_numpy(np.concatenate([block.y[indices] for block, indices in blocks]))
            sums = self._clipped_sums(stacked, torch.from_numpy(owners.astype(np.int64)), x, y, settings.clip)
            if settings.work == "clipped-sum":
                return sums, None
            for row, task in enumerate(tasks):
                expected = settings.sample_rate * len(task.examples)
                add_noise([total[row] for total in sums], settings.noise_multiplier * settings.clip, task.noise_rng)
                for total in sums:
                    total[row] /= expected
            if settings.proximal_mu:
                torch._foreach_add_(sums, torch._foreach_sub(stacked, start), alpha=settings.proximal_mu)
            torch._foreach_mul_(momentum, settings.momentum)
            torch._foreach_add_(momentum, sums)
            torch._foreach_add_(stacked, momentum, alpha=-settings.learning_rate)
        return stacked, None

    def _clipped_sums(self, stacked: list[Tensor], owners: Tensor, x: Tensor, y: Tensor, clip: float) -> list[Tensor]:
        """Return, for each client, the sum of its examples' gradients, each clipped to l2 norm `clip`.

        Every example is run as a client of its own, with its owner's weights and a batch of one, so the gradient by
        its own copy of the weights is the per-example gradient, whatever the layers are.
        """
        sums = [torch.zeros_like(tensor) for tensor in stacked]
        bytes_each = 4 * (3 * sum(tensor[0].numel() for tensor in stacked) + 8 * self._activations(tuple(x.shape[1:])))
        size = max(1, self.memory_bytes // bytes_each)
        for first in range(0, len(owners), size):
            part = slice(first, first + size)
            weights = [_as_convolution(tensor[owners[part]]).requires_grad_() for tensor in stacked]
            loss = F.cross_entropy(self._scores(weights, x[None, part]).flatten(0, 1), y[part], reduction="none")
            gradients = torch.autograd.grad(loss.sum(), weights)
            with torch.no_grad():
                for total, scaled in zip(sums, clipped(gradients, clip), strict=True):
                    total.index_add_(0, owners[part], scaled)
        return sums

    def _scores(self, weights: list[Tensor], x: Tensor) -> Tensor:
        """Run all clients: x (batch, clients, ...) -> scores (clients, batch, classes)."""

        def forward(parameters: list[Tensor], inputs: Tensor) -> Tensor:
            with ClientsInChannels():
                scores: Tensor = functional_call(self.model, dict(zip(self.names, parameters, strict=True)), (inputs,))
            return scores

        scores: Tensor = vmap(forward, in_dims=(0, 1))(weights, x)
        return scores

    def _clients_at_once(self, tasks: Sequence[LocalTask], settings: LocalSettings) -> int:
        """Return how many clients fit into the memory bound, by a count of weights, data and activations."""
        if not tasks:
            return 1
        shape = tasks[0].examples.x.shape[1:]
        most = max(len(task.examples) for task in tasks)
        floats = 4 * sum(p.numel() for p in self.model.parameters()) + most * int(np.prod(shape))
        if settings.work == "sgd":
            floats += 3 * min(settings.batch_size, most) * self._activations(shape)
        return int(max(1, min(LARGEST_CHUNK, self.memory_bytes // (4 * floats))))

    def _activations(self, shape: tuple[int, ...]) -> int:
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
                    self.model(torch.zeros(1, *shape, dtype=next(self.model.parameters()).dtype))
            finally:
                for handle in handles:
                    handle.remove()
            self._counted[shape] = total
        return self._counted[shape]


def _stack(parameter: Tensor, clients: int) -> Tensor:
    """Return a client-first stack of copies."""
    return _as_convolution(parameter.expand(clients, *parameter.shape))


def _as_convolution(stacked: Tensor) -> Tensor:
    """Copy stacked weights into the memory order that oneDNN wants: convolutions' channels last."""
    if stacked.dim() == 5 and stacked.shape[2] > 1:
        return stacked.permute(0, 1, 3, 4, 2).clone(memory_format=torch.contiguous_format).permute(0, 1, 4, 2, 3)
    return stacked.clone(memory_format=torch.contiguous_format)


def _padded(blocks: list[Examples]) -> tuple[Tensor, Tensor]:
    """Stack unequal clients: x (clients, most examples, ...), y (clients, most examples), zeros where there is none."""
    most = max(len(block) for block in blocks)
    x = np.zeros((len(blocks), most, *blocks[0].x.shape[1:]), np.float32)
    y = np.zeros((len(blocks), most), np.int64)
    for row, block in enumerate(blocks):
        x[row, : len(block)] = block.x
        y[row, : len(block)] = block.y
    return torch.from_numpy(x), torch.from_numpy(y)


def _rectangle(plan: list[Integers]) -> tuple[Tensor, Tensor]:
    """Return a step's batches as (clients, largest batch) indices, and weights that average over each real batch."""
    most = max(len(indices) for indices in plan)
    indices = np.zeros((len(plan), most), np.int64)
    mask = np.zeros((len(plan), most))
    for row, batch in enumerate(plan):
        indices[row, : len(batch)] = batch
        mask[row, : len(batch)] = 1 / len(batch)
    return torch.from_numpy(indices), torch.from_numpy(mask)
