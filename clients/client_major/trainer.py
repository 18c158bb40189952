"""The client-major trainer: each client makes all its steps while its weights are in the cache."""

import itertools
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn

from edgekit.arrays import Array, Weights
from edgekit.asks import Train, Trained
from edgekit.clients.client_major.choice import lacks
from edgekit.clients.client_major.layout import Layout, layout
from edgekit.clients.client_major.program import Program
from edgekit.clients.torch_trainer import learnt
from edgekit.clients.trainer import LocalTask, check_train, pulled
from edgekit.data import Examples
from edgekit.data.augment import Augmenter
from edgekit.errors import ModelError, TrainingError
from edgekit.local_settings import LocalSettings
from edgekit.models.requirements import untrained
from edgekit.objectives import objective_of
from edgekit.objectives.cross_entropy import CrossEntropy
from edgekit.privacy.tensors import BELOW, add_noise

LARGEST_CHUNK = 128
"""Clients whose weights are packed at once."""


class ClientMajorTrainer:
    """Trains a cohort client by client in compiled steps; equal to training each in torch, up to rounding.

    A client's bits depend neither on who trains beside it nor on the number of threads.

    Args:
        model: a network of layers that have a rule (`program`).
        shape: of an example.
        classes: that it scores.
        memory_bytes: bound on the working memory; larger cohorts are trained in chunks.

    Attributes:
        learnt: names of the trained parameters.
        products: multiply-adds of an example's forward pass.

    Raises:
        ModelError: something of it has no rule; named.
    """

    def __init__(self, model: nn.Module, shape: Sequence[int], classes: int, memory_bytes: int = 512 << 20) -> None:
        objective = objective_of(model)
        if type(objective) is not CrossEntropy or objective.settings != type(objective.settings)():
            raise ModelError(f"the objective {objective.name} has no rule in client-major training")
        if held := untrained(model):
            raise ModelError(f"{next(iter(held))!r}, which does not learn by gradients, has no rule")
        if frozen := [name for name, p in model.named_parameters() if not p.requires_grad]:
            raise ModelError(f"{frozen[0]!r} does not learn: that has no rule in client-major training")
        self._program, self._memory = Program(model, shape, classes), memory_bytes
        self._shape, self.learnt = tuple(shape), learnt(model)
        self.products = self._program.products
        self._layouts: dict[int, Layout] = {}
        self._names = [name for name in model.state_dict() if name in self.learnt]

    def train_cohort(self, asked: Sequence[Train], tasks: Sequence[LocalTask]) -> list[Trained]:
        """Train all clients, each from its own weights; arguments as of the cohort's trainer.

        Raises:
            TrainingError: the settings ask for what has no rule here.
        """
        settings = asked[0].settings
        if reason := lacks(settings):
            raise TrainingError(reason)
        for request in {id(one): one for one in asked}.values():
            check_train(request, self.learnt)
        plans = [list(task.plan(settings)) for task in tasks]
        seeds = [int(task.batches_rng.integers(2**63)) for task in tasks]
        chunk = self._sgd if settings.work == "sgd" else self._private
        made: list[Trained] = []
        size = int(max(1, min(LARGEST_CHUNK, self._memory // (16 * self._program.size))))
        for first in range(0, len(tasks), size):
            part = slice(first, first + size)
            examples = [task.examples for task in tasks[part]]
            if settings.augment:
                changed = [_changed(*one, settings) for one in zip(examples, plans[part], seeds[part], strict=True)]
                examples, plans[part] = [block for block, _ in changed], [plan for _, plan in changed]
            owns = np.ones((len(examples), self._program.classes), np.float32)
            if settings.own_classes:
                for row, task in enumerate(tasks[part]):
                    owns[row] = np.isin(np.arange(self._program.classes), task.examples.y)
            blocks = _Blocks(*self._taken(examples), owns)
            rows, losses = chunk(asked[part], tasks[part], blocks, plans[part], settings)
            found = {name: self._program.packed[name].out_of(rows) for name in self._names}
            made += [
                Trained({name: array[row] for name, array in found.items()}, len(task.examples), loss, len(plan))
                for row, (task, plan, loss) in enumerate(zip(tasks[part], plans[part], losses, strict=True))
            ]
        return made

    def _sgd(
        self,
        asked: Sequence[Train],
        tasks: Sequence[LocalTask],
        blocks: "_Blocks",
        plans: list[list[Array]],
        settings: LocalSettings,
    ) -> tuple[Array, list[float | None]]:
        weights, losses = self._packed([one.weights for one in asked]), np.zeros(len(asked))
        anchors, drifts = zip(*map(pulled, asked), strict=True)
        pull = self._packed(anchors) if settings.proximal_mu else weights[:1]
        drift = self._packed(drifts) if any(drifts) else weights[:1]
        self._run(blocks, plans, weights, settings, losses, pull=pull, drift=drift, drifting=any(drifts))
        return weights, [float(loss) for loss in losses]

    def _private(
        self,
        asked: Sequence[Train],
        tasks: Sequence[LocalTask],
        blocks: "_Blocks",
        plans: list[list[Array]],
        settings: LocalSettings,
    ) -> tuple[Array, list[float | None]]:
        """Poisson batches, each example clipped; `dp-sgd` steps with noise, `clipped-sum` gives the first sum."""
        weights = self._packed([one.weights for one in asked])
        nothing: list[float | None] = [None] * len(asked)

        def sums_of(step: int) -> Array:
            sums = np.zeros_like(weights)
            self._run(blocks, [[plan[step]] for plan in plans], weights, settings, np.zeros(len(asked)), sums=sums)
            return sums

        if settings.work == "clipped-sum":
            return sums_of(0), nothing
        momentum = np.zeros_like(weights)
        anchors, drifts = zip(*map(pulled, asked), strict=True)
        anchor, drift = self._packed(anchors) if settings.proximal_mu else None, self._packed(drifts)
        for step in range(len(plans[0])):
            sums = sums_of(step)
            for row, task in enumerate(tasks):
                own = [torch.from_numpy(self._program.packed[name].out_of(sums[row : row + 1])) for name in self._names]
                add_noise([one[0] for one in own], settings.noise_multiplier * settings.clip, task.noise_rng)
                expected = settings.batch_of(len(task.examples))
                noised = {name: one[0].numpy() / expected for name, one in zip(self._names, own, strict=True)}
                self._program.packed_weights(noised, sums[row])
            if anchor is not None:
                sums += np.float32(settings.proximal_mu) * (weights - anchor)
            sums += drift
            momentum *= np.float32(settings.momentum)
            momentum += sums
            weights -= np.float32(settings.learning_rate) * momentum
        return weights, nothing

    def _run(
        self,
        blocks: "_Blocks",
        plans: list[list[Array]],
        weights: Array,
        settings: LocalSettings,
        losses: Array,
        *,
        pull: Array | None = None,
        drift: Array | None = None,
        drifting: bool = False,
        sums: Array | None = None,
    ) -> None:
        """Train in place, or add clipped gradients to `sums`; several clients at once in threads."""
        from edgekit.clients.client_major.steps import train  # compiles, the first time on this machine

        order, ends, clients = blocks.order(plans)
        pull, drift = weights[:1] if pull is None else pull, weights[:1] if drift is None else drift
        bound = 0.0 if sums is None else settings.clip * BELOW
        laid = self._layout(1 if sums is not None else max(map(len, itertools.chain(*plans)), default=1))
        plain = not (
            settings.momentum or settings.weight_decay or settings.gradient_clip or settings.proximal_mu or drifting
            or self._program.shared
        )  # fmt: skip
        numbers = [
            np.float32(one)
            for one in (
                settings.learning_rate, settings.proximal_mu, settings.momentum, settings.weight_decay,
                settings.gradient_clip,
            )
        ]  # fmt: skip

        def part(first: int, last: int) -> None:
            own, size = slice(first, last), self._program.size
            train(
                laid.ops, laid.tables, laid.numbers, laid.pieces, np.zeros(laid.floats, np.float32), laid.given,
                self._program.classes, blocks.x, blocks.y, order, ends, clients[first : last + 1], weights[own],
                pull if len(pull) == 1 else pull[own], drift if len(drift) == 1 else drift[own], losses[own],
                np.zeros(size, np.float32), np.zeros(size, np.float32), *numbers, settings.nesterov, drifting, plain,
                bound, weights[:0] if sums is None else sums[own], blocks.owns[own],
            )  # fmt: skip

        threads = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, len(weights))
        cuts = [len(weights) * place // threads for place in range(threads + 1)]
        if threads == 1:
            part(0, len(weights))
            return
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, cuts[:-1], cuts[1:]))

    def _packed(self, each: Sequence[Weights]) -> Array:
        """Return (clients, size); what all share is packed once, and copied."""
        rows = np.zeros((len(each), self._program.size), np.float32)
        self._program.packed_weights(each[0], rows[0])
        for place, one in enumerate(each[1:], 1):
            if one is each[0]:
                rows[place] = rows[0]
            else:
                self._program.packed_weights(one, rows[place])
        return rows

    def _taken(self, blocks: Sequence[Examples]) -> tuple[Array, Array, list[int]]:
        """Return clients' examples channels last, (examples, floats), their labels, and how many each client has."""
        x = np.concatenate([block.x for block in blocks])
        y = np.concatenate([block.y for block in blocks])
        if y.ndim != 1 or y.dtype.kind not in "iu" or (len(y) and not 0 <= y.min() <= y.max() < self._program.classes):
            raise TrainingError("client-major training takes labels that are numbers of classes")
        if len(self._shape) == 3:
            x = x.transpose(0, 2, 3, 1)
        return (
            np.ascontiguousarray(x, np.float32).reshape(len(x), math.prod(self._shape)),
            y.astype(np.int64),
            [len(b) for b in blocks],
        )

    def _layout(self, batch: int) -> Layout:
        if batch not in self._layouts:
            self._layouts[batch] = layout(self._program, batch)
        return self._layouts[batch]


def _changed(examples: Examples, plan: list[Array], seed: int, settings: LocalSettings) -> tuple[Examples, list[Array]]:
    """Return a client's examples as its batches take them, each time changed anew, and the plan that takes them so."""
    augmenter, ends = Augmenter(settings.augment, seed), np.cumsum([0, *map(len, plan)])
    x = [augmenter(examples.x[batch]) for batch in plan]
    taken = Examples(np.concatenate(x), np.concatenate([examples.y[batch] for batch in plan]))
    return taken, [np.arange(first, last) for first, last in itertools.pairwise(ends)]


class _Blocks:
    """Examples of some clients, one client after the other.

    Args:
        x: (examples, floats).
        y: labels, (examples,).
        sizes: how many each client has.
        owns: what each client's scores are multiplied by, (clients, classes).
    """

    def __init__(self, x: Array, y: Array, sizes: list[int], owns: Array) -> None:
        self.x, self.y, self.owns, self._starts = x, y, owns, np.cumsum([0, *sizes])

    def order(self, plans: list[list[Array]]) -> tuple[Array, Array, Array]:
        """Return the places of all batches' examples, where each batch ends, and where each client's batches do."""
        batches = [batch + start for plan, start in zip(plans, self._starts, strict=False) for batch in plan]
        order = np.concatenate([np.zeros(0, np.int64), *batches]).astype(np.int64)
        return order, np.cumsum([0, *map(len, batches)]), np.cumsum([0, *map(len, plans)])
