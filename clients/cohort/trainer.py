"""The default trainer: the whole cohort takes each SGD step together."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from edgekit.arrays import Weights
from edgekit.asks import Train, Trained
from edgekit.clients.cohort.rules import ClientsInChannels
from edgekit.clients.torch_trainer import TorchTrainer, learnt
from edgekit.clients.trainer import LocalTask, check_train, pulled
from edgekit.data import Examples, batches
from edgekit.data.federated import Integers
from edgekit.errors import EdgekitError
from edgekit.local_settings import LocalSettings
from edgekit.privacy.tensors import add_noise, clipped

Tensors = tuple[Tensor, ...] | list[Tensor]
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
        asked = Train(weights, settings)
        together = VectorisedTrainer(model).train_cohort([asked] * len(examples), tasks())
        alone = [TorchTrainer(model).train(asked, task) for task in tasks()]
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
        self.learnt = learnt(model)
        self._counted: dict[tuple[int, ...], int] = {}

    def train_cohort(self, asked: Sequence[Train], tasks: Sequence[LocalTask]) -> list[Trained]:
        """Train all clients, each from its own weights.

        Clients with more batches go first: the clients that still have work are then always the first rows of the
        stacked weights, and a step touches just those.

        Args:
            asked: one a client, all with the same settings. Weights that all share are best the same object: they are
                then copied once a client and nothing else.
            tasks: one a client.

        Returns:
            What each client made of its weights, in the order of the tasks.
        """
        settings = asked[0].settings
        for request in {id(one): one for one in asked}.values():
            check_train(request, request.weights, self.learnt)
        plans = [batches.draw(len(task.examples), settings, task.batches_rng) for task in tasks]
        order = sorted(range(len(tasks)), key=lambda i: -len(plans[i]))
        made: list[Trained | None] = [None] * len(tasks)
        size = self._clients_at_once(tasks, settings)
        for first in range(0, len(order), size):
            chunk = order[first : first + size]
            train = self._sgd if settings.work == "sgd" else self._private
            beginning = _Beginning(self.names, [asked[i] for i in chunk])
            stacked, losses = train(beginning, [tasks[i] for i in chunk], [plans[i] for i in chunk], settings)
            rows = [tensor.numpy() for tensor in stacked]
            for row, i in enumerate(chunk):
                arrays = {name: np.asarray(array[row], order="C") for name, array in zip(self.names, rows, strict=True)}
                loss = None if losses is None else float(losses[row])
                made[i] = Trained(arrays, len(tasks[i].examples), loss, len(plans[i]))
        return [one for one in made if one is not None]

    def _sgd(
        self, start: "_Beginning", tasks: list[LocalTask], plans: list[list[Integers]], settings: LocalSettings
    ) -> tuple[list[Tensor], Tensor]:
        stacked = [_as_convolution(tensor) for tensor in start.weights]
        momentum = [torch.zeros_like(tensor) for tensor in stacked] if settings.momentum else []
        x, y = _padded([task.examples for task in tasks])
        x = x.to(stacked[0].dtype)
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
            gradients: Tensors = torch.autograd.grad(loss.sum(), weights)
            with torch.no_grad():
                losses[:active] += loss
                gradients = start.pull(gradients, weights, settings.proximal_mu)
                if momentum:
                    running = [tensor[:active] for tensor in momentum]
                    torch._foreach_mul_(running, settings.momentum)
                    torch._foreach_add_(running, gradients)
                    gradients = tuple(running)
                torch._foreach_add_([w.detach() for w in weights], gradients, alpha=-settings.learning_rate)
        return stacked, losses / torch.tensor([len(plan) for plan in plans])

    def _private(
        self, start: "_Beginning", tasks: list[LocalTask], plans: list[list[Integers]], settings: LocalSettings
    ) -> tuple[list[Tensor], None]:
        """Poisson batches, each example clipped; `dp-sgd` steps with noise, `clipped-sum` gives the first sum."""
        stacked = [tensor.clone() for tensor in start.weights]
        momentum = [torch.zeros_like(tensor) for tensor in stacked]
        for step in range(len(plans[0])):
            owners = np.concatenate([np.full(len(plan[step]), row) for row, plan in enumerate(plans)])
            blocks = [(task.examples, plan[step]) for task, plan in zip(tasks, plans, strict=True)]
            x = torch.from_numpy(np.concatenate([block.x[indices] for block, indices in blocks])).to(stacked[0].dtype)
            y = torch.from_numpy(np.concatenate([block.y[indices] for block, indices in blocks]))
            sums = self._clipped_sums(stacked, torch.from_numpy(owners.astype(np.int64)), x, y, settings.clip)
            if settings.work == "clipped-sum":
                return sums, None
            for row, task in enumerate(tasks):
                expected = settings.sample_rate * len(task.examples)
                add_noise([total[row] for total in sums], settings.noise_multiplier * settings.clip, task.noise_rng)
                for total in sums:
                    total[row] /= expected
            sums = list(start.pull(sums, stacked, settings.proximal_mu))
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


class _Beginning:
    """What a chunk of clients starts from, and what pulls them; client-first.

    Args:
        names: of the parameters.
        asked: one a client.

    Attributes:
        weights: (clients, ...) each; where all clients share them, views of one.
    """

    def __init__(self, names: Sequence[str], asked: Sequence[Train]) -> None:
        self._names = names
        self.weights = self._stacked([one.weights for one in asked])
        pulls = [pulled(one) for one in asked]
        anchors = [anchor for anchor, _ in pulls]
        same = all(anchor is one.weights for anchor, one in zip(anchors, asked, strict=True))
        self._anchors = self.weights if same else self._stacked(anchors)
        drifts = [drift for _, drift in pulls]
        self._drifts: list[Tensor] = []
        if any(drifts):
            self._drifts = self._stacked(
                [
                    {name: drift.get(name, np.zeros_like(one.weights[name])) for name in names}
                    for drift, one in zip(drifts, asked, strict=True)
                ]
            )

    def pull(self, gradients: Tensors, weights: Sequence[Tensor], mu: float) -> Tensors:
        """Return gradients of the first so many clients with mu (w - anchor) + drift added."""
        rows = len(weights[0])
        if mu:
            offsets = [w.detach() - anchor[:rows] for w, anchor in zip(weights, self._anchors, strict=True)]
            gradients = torch._foreach_add(gradients, offsets, alpha=mu)
        if self._drifts:
            gradients = torch._foreach_add(gradients, [drift[:rows] for drift in self._drifts])
        return gradients

    def _stacked(self, each: Sequence[Weights]) -> list[Tensor]:
        if all(one is each[0] for one in each):
            shared = [torch.from_numpy(np.asarray(each[0][name], order="C")) for name in self._names]
            return [tensor.expand(len(each), *tensor.shape) for tensor in shared]
        return [torch.from_numpy(np.stack([one[name] for one in each])) for name in self._names]


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
