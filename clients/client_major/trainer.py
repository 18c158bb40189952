"""The client-major trainer: each client makes all its steps while its weights are in the cache."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from torch import nn

from edgekit.arrays import Array, Weights
from edgekit.asks import Train, Trained
from edgekit.clients.client_major.choice import lacks
from edgekit.clients.client_major.layout import Layout, layout
from edgekit.clients.client_major.program import Program
from edgekit.clients.torch_trainer import learnt
from edgekit.clients.trainer import LocalTask, check_train, pulled
from edgekit.data import Examples
from edgekit.errors import ModelError, TrainingError
from edgekit.local_settings import LocalSettings
from edgekit.models.requirements import untrained
from edgekit.objectives import objective_of
from edgekit.objectives.cross_entropy import CrossEntropy

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

    Raises:
        ModelError: something of it has no rule; named.
    """

    def __init__(self, model: nn.Module, shape: Sequence[int], classes: int, memory_bytes: int = 512 << 20) -> None:
        objective = objective_of(model)
        if type(objective) is not CrossEntropy or objective.settings != type(objective.settings)():
            raise ModelError(f"the objective {objective.name} has no rule in client-major training")
        if held := untrained(model):
            raise ModelError(f"{next(iter(held))!r}, which does not learn by gradients, has no rule")
        self._program, self._memory = Program(model, shape, classes), memory_bytes
        self._shape, self.learnt = tuple(shape), learnt(model)
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
        made: list[Trained] = []
        size = int(max(1, min(LARGEST_CHUNK, self._memory // (12 * self._program.size))))
        for first in range(0, len(tasks), size):
            part = slice(first, first + size)
            made += self._chunk(asked[part], [task.examples for task in tasks[part]], plans[part], settings)
        return made

    def _chunk(
        self, asked: Sequence[Train], blocks: list[Examples], plans: list[list[Array]], settings: LocalSettings
    ) -> list[Trained]:
        weights = self._packed([one.weights for one in asked])
        anchors, drifts = zip(*map(pulled, asked), strict=True)
        drifting = any(drifts)
        pull = self._packed(anchors) if settings.proximal_mu else weights[:1]
        drift = self._packed(drifts) if drifting else weights[:1]
        x = np.concatenate([self._as_taken(block.x) for block in blocks])
        y = np.concatenate([block.y for block in blocks])
        if y.ndim != 1 or y.dtype.kind not in "iu" or (len(y) and not 0 <= y.min() <= y.max() < self._program.classes):
            raise TrainingError("client-major training takes labels that are numbers of classes")
        starts = np.cumsum([0, *(len(block) for block in blocks)])
        batches = [batch + start for plan, start in zip(plans, starts, strict=False) for batch in plan]
        sizes = [len(batch) for batch in batches]
        order = np.concatenate([np.zeros(0, np.int64), *batches]).astype(np.int64)
        ends, clients = np.cumsum([0, *sizes]), np.cumsum([0, *(len(plan) for plan in plans)])
        losses = np.zeros(len(asked))
        laid = self._layout(max(sizes, default=1))
        self._run(laid, weights, pull, drift, losses, (x, y.astype(np.int64), order, ends, clients), settings, drifting)
        found = {name: self._program.packed[name].out_of(weights) for name in self._names}
        return [
            Trained(
                {name: array[row] for name, array in found.items()},
                len(blocks[row]),
                float(losses[row]),
                len(plans[row]),
            )
            for row in range(len(asked))
        ]

    def _run(
        self, laid: Layout, weights: Array, pull: Array, drift: Array, losses: Array, data: tuple[Array, ...],
        settings: LocalSettings, drifting: bool,
    ) -> None:  # fmt: skip
        from edgekit.clients.client_major.steps import train  # compiles, the first time on this machine

        x, y, order, ends, clients = data
        plain = (
            not (
                settings.momentum or settings.weight_decay or settings.gradient_clip or settings.proximal_mu or drifting
            )
            and not self._program.shared
        )
        numbers = [
            np.float32(one)
            for one in (
                settings.learning_rate, settings.proximal_mu, settings.momentum, settings.weight_decay,
                settings.gradient_clip,
            )
        ]  # fmt: skip

        def part(first: int, last: int) -> None:
            room = np.zeros(laid.floats, np.float32)
            own = slice(first, last)
            train(
                laid.ops, laid.tables, room, laid.given, self._program.classes, x, y, order, ends,
                clients[first : last + 1], weights[own], pull if len(pull) == 1 else pull[own],
                drift if len(drift) == 1 else drift[own], losses[own], np.zeros(self._program.size, np.float32),
                np.zeros(self._program.size, np.float32), *numbers, settings.nesterov, drifting, plain,
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

    def _as_taken(self, x: Array) -> Array:
        """Return examples channels last, (examples, floats)."""
        if len(self._shape) == 3:
            x = x.transpose(0, 2, 3, 1)
        return np.ascontiguousarray(x, np.float32).reshape(len(x), -1)

    def _layout(self, batch: int) -> Layout:
        if batch not in self._layouts:
            self._layouts[batch] = layout(self._program, batch)
        return self._layouts[batch]
