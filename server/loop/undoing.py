"""A round that ruins the model is undone, and made again of the updates of those who did not do so."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Bundles, State, Update
from edgekit.data import Examples
from edgekit.server.loop.evaluation import evaluate
from edgekit.server.loop.merging import Merging, without_buffers

RUINED = "the model was ruined by its update"
WORSE = 3.0
"""Times the loss before a round, or that of knowing nothing, beyond which the model after it is ruined."""


class Merged(NamedTuple):
    """What became of a round.

    Attributes:
        state: the method's.
        transforms: what the transforms remember.
        metrics: the method's.
        buffers: running statistics that changed.
        updates: that are in it.
        left_out: clients whose updates are not, since they ruined it.
        loss: of the model after it, on the server's own examples; None where nobody looked.
    """

    state: State
    transforms: Sequence[State]
    metrics: Mapping[str, Any]
    buffers: Weights
    updates: Mapping[int, Update]
    left_out: tuple[int, ...] = ()
    loss: float | None = None


class Undoing:
    """Merges rounds, and looks at what becomes of the model on the server's own examples.

    Args:
        merging: makes the next state.
        model: the network.
        examples: the server's own.
        whole: returns all arrays of a model: of the method's state, and running statistics.
        on: whether rounds may be undone: single updates are looked at for it.
        keeps: whether to find out which model is the best so far.
    """

    def __init__(
        self,
        merging: Merging,
        model: nn.Module,
        examples: Examples,
        whole: Callable[[State, Weights], Weights],
        *,
        on: bool,
        keeps: bool,
    ) -> None:
        self._keeps, self._best = keeps, math.inf
        self._merging, self._model, self._examples, self._whole, self._on = merging, model, examples, whole, on
        self._nothing_known = math.log(max(2, int(examples.y.max()) + 1)) if len(examples) else math.inf

    def merged(
        self,
        before: State,
        buffers: Weights,
        transforms: Sequence[State],
        number: int,
        updates: Mapping[int, Update],
        like: Bundles,
        weights: Weights,
        count: int,
    ) -> Merged:
        """Make a round of its updates, or of those that do not ruin it; nothing changes where none is left.

        Args:
            before: the method's state.
            buffers: running statistics.
            transforms: what the transforms remember.
            number: of the round.
            updates: valid ones, by client.
            like: arrays such as each has.
            weights: that clients began with.
            count: how many clients' these are; where rounds may be undone, one each.
        """
        made = self._made(before, transforms, number, updates, like, weights, count)
        if not self._on or not updates:
            return made
        most = WORSE * max(self._nothing_known, self._loss(self._whole(before, buffers)))

        loss = self._loss(self._whole(made.state, {**buffers, **made.buffers}))
        if loss <= most:
            return made._replace(loss=loss)
        held = self._whole(before, buffers)
        guilty = [
            client for client, update in updates.items() if not self._loss({**held, **_alone(update, held)}) <= most
        ]
        rest = {client: update for client, update in updates.items() if client not in guilty}
        if guilty and rest:
            again = self._made(before, transforms, number, rest, like, weights, len(rest))
            loss = self._loss(self._whole(again.state, {**buffers, **again.buffers}))
            if loss <= most:
                return again._replace(left_out=tuple(guilty), loss=loss)
        return Merged(before, transforms, {}, {}, {}, tuple(updates))

    def is_best(self, merged: Merged, buffers: Weights) -> bool:
        """Return whether no model of this process was better on the server's own examples; False where none is kept."""
        if not self._keeps:
            return False
        loss = self._loss(self._whole(merged.state, buffers)) if merged.loss is None else merged.loss
        if loss > self._best:
            return False
        self._best = loss
        return True

    def _made(
        self,
        before: State,
        transforms: Sequence[State],
        number: int,
        updates: Mapping[int, Update],
        like: Bundles,
        weights: Weights,
        count: int,
    ) -> Merged:
        kept, buffers = without_buffers(updates)
        state, after, metrics = self._merging.merged(before, transforms, number, kept, like, weights, count)
        return Merged(state, after, metrics, buffers, kept)

    def _loss(self, weights: Weights) -> float:
        if not all(np.isfinite(array).all() for array in weights.values()):
            return math.inf
        return evaluate(self._model, weights, self._examples)[0] if len(self._examples) else 0.0


def _alone(update: Update, held: Weights) -> Weights:
    """Return what a client says that the model should be, as far as it says so."""
    said = {name: array for arrays in update.bundles.values() for name, array in arrays.items()}
    return {
        name: array
        for name, array in {**said, **update.bundles.get(WEIGHTS, {})}.items()
        if name in held and held[name].shape == array.shape
    }
