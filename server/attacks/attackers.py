"""Who attacks in a simulation, what they send, and what comes of it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from edgekit.algorithms.base import Algorithm
from edgekit.arrays import Weights
from edgekit.asks import BUFFERS, Ask, Bundles, Update, own_bundles
from edgekit.clients.halves import protected
from edgekit.clients.torch_trainer import load_weights
from edgekit.data import Examples, FederatedDataset
from edgekit.errors import ExperimentError
from edgekit.randomness import generator
from edgekit.server.attacks.poisoning import flipped, poisoned, takes_trigger, with_trigger
from edgekit.server.attacks.settings import Attack
from edgekit.server.attacks.updates import KINDS
from edgekit.server.engines.base import Engine, Exchanged, Fold
from edgekit.server.loop.evaluation import outputs_of
from edgekit.transforms.vectors import changes, moved

SUCCESS = "attack_success"
"""A round's metric: how often the model does what the attackers want of it."""


class Attackers:
    """The attackers of an experiment.

    Args:
        attack: the [attack] section.
        dataset: the clients' data.
        algorithm: the method.
        seed: who it is, and their random numbers.
        hidden: whether a trusted server hides what clients send.

    Attributes:
        clients: their numbers.

    Raises:
        ExperimentError: the attack has no meaning here, or there are more of them than the method stands.
    """

    def __init__(
        self, attack: Attack, dataset: FederatedDataset, algorithm: Algorithm, seed: int, *, hidden: bool = False
    ) -> None:
        self._attack, self._seed, self._algorithm = attack, seed, algorithm
        count = int(attack.share * dataset.clients + 1e-9)
        if not count:
            raise ExperimentError(
                f"attack.share {attack.share:g} of {dataset.clients} clients is nobody: more, or leave [attack] out"
            )
        if attack.share > algorithm.stands:
            raise ExperimentError(
                f"attack.share is {attack.share:g}, but the method stands {algorithm.stands:g} of the clients at most"
            )
        kind = attack.kind
        if algorithm.interactive or (algorithm.unequal and kind in ("little", "min-max")):
            raise ExperimentError(f"attack.kind {kind!r} changes updates, which all have one shape: use another method")
        labels = dataset.objective.labels
        if kind in ("label-flip", "backdoor", "replacement") and labels != "class":
            raise ExperimentError(f"attack.kind {kind!r} needs labels that are classes, not {dataset.objective.name}'s")
        if kind == "min-max" and hidden:
            raise ExperimentError("attack.kind 'min-max' sees the others' updates, which noise by the server hides")
        if attack.backdoor and not takes_trigger(dataset.shape):
            raise ExperimentError(f"attack.kind {kind!r}: examples of {dataset.shape} are too small for a trigger")
        if attack.backdoor and attack.target >= len(dataset.classes):
            raise ExperimentError(f"attack.target is {attack.target}, but there are {len(dataset.classes)} classes")
        drawn = generator(seed, "attackers").choice(dataset.clients, count, replace=False)
        self.clients = frozenset(int(one) for one in drawn)
        self._classes, self._high = len(dataset.classes), float(dataset.calibration.x.max(initial=1.0))

    def poisoned(self, dataset: FederatedDataset) -> FederatedDataset:
        """Return the clients' data as the attackers have it."""
        if self._attack.kind == "label-flip" or self._attack.backdoor:
            return poisoned(dataset, self._attack, self.clients, self._seed, self._high)
        return dataset

    def join(self, engine: Engine) -> None:
        """Have an engine's replies be what the attackers send."""
        if self._attack.kind not in KINDS:
            return
        exchange, engine.folds = engine.exchange, False  # attackers agree, and may see the others

        def exchanged(asks: Mapping[int, Ask], fold: Fold | None = None) -> Exchanged:
            found = exchange(asks)
            sent = self._sent(asks, {one.client: one.update for one in found.replies if one.update is not None})
            replies = [replace(one, update=sent.get(one.client, one.update)) for one in found.replies]
            return replace(found, replies=replies)

        engine.exchange = exchanged  # type: ignore[method-assign]

    def metrics(self, model: nn.Module, weights: Weights, test: Examples) -> dict[str, float]:
        """Return how often a model does what the attackers want, where they want something.

        Of a backdoor the share of other classes' examples that the trigger leads to the target, of flipped labels the
        share of examples that are taken for their flipped class.
        """
        attack = self._attack
        if attack.backdoor:
            kept = test.y != attack.target
            shown = Examples(with_trigger(test.x[kept], self._high), test.y[kept])
            wanted = np.full(len(shown), attack.target)
        elif attack.kind == "label-flip":
            shown, wanted = test, flipped(test.y, self._classes)
            other = wanted != test.y
            shown, wanted = Examples(test.x[other], test.y[other]), wanted[other]
        else:
            return {}
        if not len(shown):
            return {}
        load_weights(model, weights)
        return {SUCCESS: round(float((outputs_of(model, shown).argmax(1) == wanted).mean()), 6)}

    def facts(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Return what result.json tells: the kind, how many attack, since when, and the last round's success."""
        attack = self._attack
        told = {"kind": attack.kind, "clients": len(self.clients), "start": attack.start}
        return {**told, "success": metrics.get(SUCCESS)}

    def _sent(self, asks: Mapping[int, Ask], updates: Mapping[int, Update]) -> dict[int, Update]:
        own = [client for client in updates if client in self.clients]
        number = next(iter(asks.values())).round if asks else 0
        if not own or number < self._attack.start:
            return {}
        others = [client for client in updates if client not in self.clients]
        rng = generator(self._seed, "attack", number)
        if self._algorithm.unequal:  # each has a shape of its own, and agrees with nobody
            return {client: self._changed(asks, updates, [client], [], rng)[client] for client in own}
        return self._changed(asks, updates, own, others, rng)

    def _changed(
        self,
        asks: Mapping[int, Ask],
        updates: Mapping[int, Update],
        own: list[int],
        others: list[int],
        rng: np.random.Generator,
    ) -> dict[int, Update]:
        held = {client: self._movement(updates[client]) for client in [*own, *others]}
        vectors = {client: _vector(one, asks[client]) for client, one in held.items()}
        seen = np.stack([vectors[client] for client in others]) if others else np.zeros((0, len(vectors[own[0]])))
        sent = KINDS[self._attack.kind](np.stack([vectors[one] for one in own]), seen, self._attack.strength, rng)
        found = {}
        for client, vector in zip(own, sent, strict=True):
            ask, like = asks[client], updates[client]
            bundles = {**like.bundles, **_bundles(held[client], ask, vector)}
            if self._attack.kind == "free-rider" and BUFFERS in bundles:
                bundles[BUFFERS] = {name: ask.bundles[BUFFERS][name] for name in bundles[BUFFERS]}
            update = replace(like, bundles=bundles)
            if ask.settings.update_clip:  # what clients send is bounded, whoever they are
                bounds = replace(ask, settings=replace(ask.settings, update_noise=0.0))
                update = replace(protected(update, bounds, lambda: rng), weight=like.weight, facts=like.facts)
            found[client] = update
        return found

    def _movement(self, update: Update) -> Bundles:
        """Return the bundles that move the model; others, as counts and statistics, stay as they are."""
        moves = self._algorithm.moves or tuple(own_bundles(update.bundles))
        return {name: update.bundles[name] for name in moves if name in update.bundles}


def _vector(bundles: Bundles, ask: Ask) -> NDArray[np.float64]:
    return np.concatenate([changes(bundle, arrays, ask, np.float64) for bundle, arrays in bundles.items()])


def _bundles(like: Bundles, ask: Ask, vector: NDArray[np.float64]) -> dict[str, Weights]:
    """Return bundles that move by a vector."""
    sizes = [sum(array.size for array in arrays.values()) for arrays in like.values()]
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return {bundle: moved(bundle, like[bundle], ask, part) for bundle, part in zip(like, parts, strict=True)}
