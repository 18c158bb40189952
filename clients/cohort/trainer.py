"""The default trainer: the whole cohort takes each SGD step together."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.arrays import Weights
from edgekit.asks import Train, Trained
from edgekit.clients.cohort.stepper import Stepper
from edgekit.clients.cohort.sums import PrivateSums
from edgekit.clients.cohort.vectorised import Tensors, Vectorised, as_convolution, gradients_of
from edgekit.clients.draws import Draws, generator_of, of_examples, once
from edgekit.clients.torch_trainer import TorchTrainer, learnt, own_classes, trained_weights
from edgekit.clients.trainer import CohortTrainer, LocalTask, check_train, pulled
from edgekit.data import Examples
from edgekit.data.augment import Augmenter, together
from edgekit.data.federated import Integers
from edgekit.errors import EdgekitError
from edgekit.local_settings import LocalSettings
from edgekit.models.requirements import attributes, changed, moving_buffers
from edgekit.objectives import objective_of
from edgekit.privacy.tensors import add_noise

PROBED_SIZES = (5, 3, 2)
"""Examples of the clients on which `obstacle` tries a network: whole batches, and last ones of one."""
PROBED = sum(PROBED_SIZES)
LARGEST_CHUNK = 128
"""More clients at once gain nothing: measured best near 100."""


def obstacle(
    model: nn.Module,
    shape: tuple[int, ...],
    classes: int,
    examples: Examples | None = None,
    settings: LocalSettings | None = None,
) -> str | None:
    """Say why a cohort of this module cannot be trained in vectorised steps; None if it can.

    It trains three clients of unequal sizes both ways, over whole batches and smaller last ones, and compares their
    steps; for private work the sums of clipped gradients too.

    Args:
        model: the module.
        shape: one example's shape.
        classes: number of classes.
        examples: real ones to train on; None draws random ones.
        settings: how clients will train; None is plainly.

    Raises:
        EdgekitError: one client alone cannot be trained either.
    """
    examples, blocks = probed(model, shape, classes, examples)
    if reason := remembers(model, examples):
        return reason
    return differs(model, VectorisedTrainer(model), settings or LocalSettings(), blocks) or None


def differs(model: nn.Module, trainer: CohortTrainer, settings: LocalSettings, blocks: list[Examples]) -> str:
    """Say how a round's work differs, done together, from each client's alone; "" if it does not.

    Args:
        model: the network.
        trainer: of a cohort of it.
        settings: how clients will train; for private work the bare sums of clipped gradients are compared too.
        blocks: the clients' examples.
    """
    weights = trained_weights(model)
    works = ["sgd"] if settings.work == "sgd" else [settings.work, "clipped-sum"]
    for work in dict.fromkeys(works):
        if reason := difference(model, trainer, Train(weights, few_steps(settings, work)), blocks):
            return reason
    return ""


def remembers(model: nn.Module, examples: Examples) -> str:
    """Say what a network keeps of one step for the next, "" if nothing: clients that share it would meet there."""
    if moving := moving_buffers(model, examples.x):
        return f"it keeps {moving[0]!r} from the data it sees"
    tried = copy.deepcopy(model).train()
    before = attributes(tried)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        tried(torch.from_numpy(examples.x[:PROBED]).to(next(model.parameters()).dtype))
    name = changed(before, attributes(tried))
    return f"it keeps {name!r} from one step to the next" if name else ""


def probed(
    model: nn.Module, shape: tuple[int, ...], classes: int, examples: Examples | None
) -> tuple[Examples, list[Examples]]:
    """Return examples to try a network on, and the same as those of three clients; arguments as of `obstacle`."""
    if examples is None or len(examples) < PROBED:
        rng = np.random.default_rng(0)
        x = rng.random((PROBED, *shape), np.float32)
        examples = Examples(x, objective_of(model).drawn(PROBED, classes, rng))
    cuts = np.cumsum([0, *PROBED_SIZES])
    return examples, [Examples(examples.x[a:b], examples.y[a:b]) for a, b in itertools.pairwise(cuts)]


def few_steps(settings: LocalSettings, work: Any) -> LocalSettings:
    """Return settings under which a client of a few examples makes two steps, without noise."""
    return replace(
        settings,
        work=work,
        epochs=1,
        steps=2,
        batch_size=2,
        learning_rate=0.05,
        sample_rate=0.7,
        noise_multiplier=0.0,
        update_noise=0.0,
    )


def difference(model: nn.Module, trainer: CohortTrainer, asked: Train, blocks: list[Examples]) -> str:
    """Say how training clients together differs from each alone, "" if it does not.

    Args:
        model: the network.
        trainer: of a cohort of it.
        asked: what each is asked for.
        blocks: the clients' examples.
    """

    def tasks() -> list[LocalTask]:
        return [LocalTask(block, np.random.default_rng(1), np.random.default_rng(2)) for block in blocks]

    single = TorchTrainer(model)
    single.check(asked, blocks[0])
    try:
        alone = [single.train(asked, task) for task in tasks()]
        together = trainer.train_cohort([asked] * len(blocks), tasks())
    except EdgekitError:
        raise
    except Exception as error:  # torch.func and user modules raise many kinds
        return f"it cannot be done so: {' '.join(str(error).split())[:200] or type(error).__name__}"
    start = asked.weights
    if asked.settings.work == "clipped-sum":
        start = {name: np.zeros_like(w) for name, w in start.items()}
    for one, other in zip(together, alone, strict=True):
        steps = {name: other.arrays[name] - start[name] for name in start}
        largest = max(float(np.abs(step).max(initial=0.0)) for step in steps.values())
        rounding = max(1e-6 * float(np.abs(w).max(initial=0.0)) for w in start.values())
        for name, step in steps.items():
            if not np.allclose(one.arrays[name] - start[name], step, rtol=1e-3, atol=1e-3 * largest + rounding):
                return "its vectorised step differs from its ordinary one"
    return ""


class VectorisedTrainer:
    """Trains a cohort in vectorised steps; equal to training each client alone, up to rounding.

    Args:
        model: a module that keeps nothing of what it sees (see `obstacle`); it is copied.
        memory_bytes: bound on the working memory; larger cohorts are trained in chunks.
    """

    def __init__(self, model: nn.Module, memory_bytes: int = 512 << 20) -> None:
        self._network = Vectorised(model, memory_bytes)
        self.memory_bytes = memory_bytes
        self._sums = PrivateSums(model, self._network, memory_bytes)
        self.names = self._network.names
        self.learnt = learnt(model)

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
            check_train(request, self.learnt)
        plans = [task.plan(settings) for task in tasks]
        seeds = [int(task.batches_rng.integers(2**63)) for task in tasks]
        order = sorted(range(len(tasks)), key=lambda i: -len(plans[i]))
        made: list[Trained | None] = [None] * len(tasks)
        size = self._clients_at_once(tasks, settings)
        for first in range(0, len(order), size):
            chunk = order[first : first + size]
            train = self._sgd if settings.work == "sgd" else self._private
            beginning = _Beginning(self.names, [asked[i] for i in chunk])
            augmenters = [Augmenter(settings.augment, seeds[i]) for i in chunk]
            generators = [generator_of(seeds[i]) for i in chunk]
            stacked, losses = train(
                beginning, [tasks[i] for i in chunk], [plans[i] for i in chunk], settings, generators, augmenters
            )
            rows = [tensor.numpy() for tensor in stacked]
            for row, i in enumerate(chunk):
                arrays = {name: np.asarray(array[row], order="C") for name, array in zip(self.names, rows, strict=True)}
                loss = None if losses is None else float(losses[row])
                made[i] = Trained(arrays, len(tasks[i].examples), loss, len(plans[i]))
        return [one for one in made if one is not None]

    def _sgd(
        self,
        start: "_Beginning",
        tasks: list[LocalTask],
        plans: list[list[Integers]],
        settings: LocalSettings,
        generators: list[torch.Generator],
        augmenters: list[Augmenter],
    ) -> tuple[list[Tensor], Tensor]:
        stacked = [as_convolution(tensor) for tensor in start.weights]
        optimiser = Stepper(settings, stacked)
        x, y = _padded([task.examples for task in tasks])
        losses, objective = torch.zeros(len(tasks)), self._network.objective
        own: Tensor | None = None
        for step in range(len(plans[0])):
            plan = [indices[step] for indices in plans if len(indices) > step]
            active = len(plan)
            indices, mask = _rectangle(plan)
            rows = torch.arange(active)[:, None]
            weights = [tensor[:active].detach().requires_grad_() for tensor in stacked]
            draws = Draws(lambda: generators, [len(batch) for batch in plan], together=True)
            batch = x[rows, indices]
            if settings.augment:
                there = mask > 0
                held = together(settings.augment, batch[there].numpy(), augmenters[:active], [len(b) for b in plan])
                batch[there] = torch.from_numpy(held)
            batch = batch.to(stacked[0].dtype)
            scores = self._network.scores(weights, batch.transpose(0, 1), draws)
            if settings.own_classes:
                if own is None:
                    own = torch.stack([own_classes(objective, task.examples.y, scores) for task in tasks])
                scores = scores * own[:active].reshape(active, *[1] * (scores.dim() - 2), -1)
            loss = objective.each(scores.flatten(0, 1), y[rows, indices].flatten(0, 1), batch.flatten(0, 1))
            loss = (loss.view(active, -1) * mask.to(loss.dtype)).sum(1)
            gradients: Tensors = gradients_of(loss.sum(), weights)
            with torch.no_grad():
                losses[:active] += loss
                gradients = start.pull(gradients, weights, settings.proximal_mu)
                optimiser.step(gradients, active)
        return stacked, losses / torch.tensor([len(plan) for plan in plans])

    def _private(
        self,
        start: "_Beginning",
        tasks: list[LocalTask],
        plans: list[list[Integers]],
        settings: LocalSettings,
        generators: list[torch.Generator],
        augmenters: list[Augmenter],
    ) -> tuple[list[Tensor], None]:
        """Poisson batches, each example clipped; `dp-sgd` steps with noise, `clipped-sum` gives the first sum."""
        stacked = [tensor.clone() for tensor in start.weights]
        momentum = [torch.zeros_like(tensor) for tensor in stacked]
        for step in range(len(plans[0])):
            owners = np.concatenate([np.full(len(plan[step]), row) for row, plan in enumerate(plans)])
            blocks = [(task.examples, plan[step]) for task, plan in zip(tasks, plans, strict=True)]
            taken = np.concatenate([block.x[indices] for block, indices in blocks])
            taken = together(settings.augment, taken, augmenters, [len(indices) for _, indices in blocks])
            x = torch.from_numpy(taken).to(stacked[0].dtype)
            y = torch.from_numpy(np.concatenate([block.y[indices] for block, indices in blocks]))
            each = once(partial(of_examples, generators, [len(plan[step]) for plan in plans]))
            each_has = [settings.batch_of(len(task.examples)) for task in tasks]
            alike = (
                start.shared and settings.work == "clipped-sum"
            )  # after a step of its own a client's weights are its
            sums = self._sums(stacked, owners, x, y, settings.clip, each, None if alike else each_has)
            if settings.work == "clipped-sum":
                return sums, None
            for row, task in enumerate(tasks):
                expected = settings.batch_of(len(task.examples))
                add_noise([total[row] for total in sums], settings.noise_multiplier * settings.clip, task.noise_rng)
                for total in sums:
                    total[row] /= expected
            sums = list(start.pull(sums, stacked, settings.proximal_mu))
            torch._foreach_mul_(momentum, settings.momentum)
            torch._foreach_add_(momentum, sums)
            torch._foreach_add_(stacked, momentum, alpha=-settings.learning_rate)
        return stacked, None

    def _clients_at_once(self, tasks: Sequence[LocalTask], settings: LocalSettings) -> int:
        """Return how many clients fit into the memory bound, by a count of weights, data and activations."""
        if not tasks:
            return 1
        most = max(len(task.examples) for task in tasks)
        batch = min(settings.batch_size, most) if settings.work == "sgd" else 0
        floats = self._network.floats(tasks[0].examples.x.shape[1:], batch, most)
        return int(max(1, min(LARGEST_CHUNK, self.memory_bytes // (4 * floats))))


class _Beginning:
    """What a chunk of clients starts from, and what pulls them; client-first.

    Args:
        names: of the parameters.
        asked: one a client.

    Attributes:
        shared: whether all clients share their weights.
        weights: (clients, ...) each; where all clients share them, views of one.
    """

    def __init__(self, names: Sequence[str], asked: Sequence[Train]) -> None:
        self._names = names
        self.shared = all(one.weights is asked[0].weights for one in asked)
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


def _padded(blocks: list[Examples]) -> tuple[Tensor, Tensor]:
    """Stack unequal clients: x and y (clients, most examples, ...), zeros where there is none."""
    most = max(len(block) for block in blocks)
    x = np.zeros((len(blocks), most, *blocks[0].x.shape[1:]), np.float32)
    y = np.zeros((len(blocks), most, *blocks[0].y.shape[1:]), blocks[0].y.dtype)
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
