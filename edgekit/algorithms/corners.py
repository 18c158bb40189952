"""Clients of one round train networks of unequal shapes, whose arrays are the leading corners of shared ones.

A mean is taken weight by weight, over the clients that have it (Diao et al. 2021, section 3.1).
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from edgekit.algorithms.base import MODULE, OWN_CLASSES, Algorithm, State, module_of
from edgekit.arrays import Array, Weights, corner
from edgekit.asks import WEIGHTS, Aggregate, Ask, Bundles, Update
from edgekit.errors import ExperimentError
from edgekit.models.settings import Model
from edgekit.section import Section

Shapes = Mapping[str, tuple[int, ...]]


class Corners(Algorithm):
    """What such methods share; each says which networks there are, and who trains which.

    Attributes:
        shapes: of the shared arrays.
        slices: shapes by the name of a network; "" is the run's own.
        readout: names of the arrays whose rows are the classes.
        seed: of the networks that are drawn.
    """

    unequal = True
    statistics = False
    own_classes = False
    """Whether a client's loss is of the classes that it has alone."""

    def __init__(self, settings: Section | None = None) -> None:
        super().__init__(settings)
        self.modules, self.changes = {}, {}
        self.shapes: Shapes = {}
        self.slices: dict[str, Shapes] = {}
        self.readout: tuple[str, ...] = ()
        self.seed = 0

    def begun(self, model: Model, *, released: bool, seed: int) -> Model:
        """Return the [model] section that all networks differ from: one whose weights are drawn anew.

        Args:
            model: the run's.
            released: whether the method will get the mean of the updates alone.
            seed: of what it draws.

        Raises:
            ExperimentError: some layers shall not learn.
        """
        if model.only:
            raise ExperimentError("model.only keeps layers as they are, which a narrower network has not: leave it out")
        self.seed, self.reads = seed, "sum" if released else "each"
        return model.model_copy(update={"weights": "", "new": []})

    def network_of(self, client: int, number: int) -> str:
        """Return the name of the network that a client trains in a round."""
        raise NotImplementedError

    def parts_of(self, clients: int) -> Mapping[str, float]:
        """Return the share of all clients that train each network, on average over rounds."""
        raise NotImplementedError

    def key(self, network: str, name: str) -> str:
        """Return the name of the shared array that one of a network's is a corner of."""
        return name

    def part(self, weights: Weights, network: str) -> Weights:
        """Return a network's arrays out of the shared ones."""
        return {
            name: np.ascontiguousarray(weights[self.key(network, name)][corner(shape)])
            for name, shape in self.slices[network].items()
        }

    def ask(self, state: State, clients: Sequence[int], number: int) -> Mapping[int, Ask]:
        """Send each client what it trains."""
        chosen = {client: self.network_of(client, number) for client in clients}
        once = {
            name: Ask({WEIGHTS: self.part(state.bundles[WEIGHTS], name)}, self._told(name))
            for name in dict.fromkeys(chosen.values())
        }
        return {client: once[name] for client, name in chosen.items()}

    def _told(self, name: str) -> dict[str, Any]:
        return {**({MODULE: name} if name else {}), **({OWN_CLASSES: True} if self.own_classes else {})}

    def whole(self, update: Update, ask: Ask, weights: Weights) -> Update:
        """Return a client's update as one of all shared arrays, of which it leaves alone what it does not have."""
        rest = weights
        if ask.settings.work == "clipped-sum":  # a sum of gradients, not weights
            rest = {name: np.zeros_like(array) for name, array in weights.items()}
        network = module_of(ask)
        filled = dict(rest)
        for name, array in update.bundles[WEIGHTS].items():
            key = self.key(network, name)
            filled[key] = np.array(rest[key], array.dtype)
            filled[key][corner(array.shape)] = array
        return Update({**update.bundles, WEIGHTS: filled}, update.weight, update.facts)

    def whole_like(self, ask: Ask, weights: Weights) -> Bundles:
        """Return arrays as of an update that is whole."""
        return {WEIGHTS: weights}

    def merge(self, state: State, got: Aggregate, number: int) -> State:
        """Move each weight by the mean change of the clients that have it; where nobody does, it stays.

        Of a released mean it is not to be told who took part: the share of all clients that have a weight stands for
        that of the round's.
        """
        before = state.bundles[WEIGHTS]
        if got.updates is None:
            shares, mean = self._of_everyone(got.clients), got.bundles[WEIGHTS]
            after = {name: np.asarray(w + (mean[name] - w) / shares[name], w.dtype) for name, w in before.items()}
            return State({**state.bundles, WEIGHTS: after}, state.facts)
        changes = {name: (np.zeros(w.shape), np.zeros(w.shape)) for name, w in before.items()}
        for client, update in got.updates.items():
            network = self.network_of(client, number)
            for name, shape in self.slices[network].items():
                key = self.key(network, name)
                array, w, (change, weight) = update.bundles[WEIGHTS][key], before[key], changes[key]
                held = self._held(name, shape, array, w)
                change[held] += update.weight * (array[held].astype(np.float64) - w[held])
                weight[held] += update.weight
        after = {
            name: np.asarray(w + changes[name][0] / np.where(changes[name][1] > 0, changes[name][1], 1.0), w.dtype)
            for name, w in before.items()
        }
        return State({**state.bundles, WEIGHTS: after}, state.facts)

    def _held(self, name: str, shape: tuple[int, ...], array: Array, before: Array) -> tuple[Any, ...]:
        """Return where a client has a weight: its corner, of a readout for its own classes alone the rows it moved."""
        place = corner(shape)
        if self.own_classes and name in self.readout:
            moved = (array[place] != before[place]).reshape(shape[0], -1).any(1)
            return (np.flatnonzero(moved), *place[1:])
        return place

    def _of_everyone(self, clients: int) -> Weights:
        """Return the share of all clients that have each weight, on average over rounds."""
        found = {name: np.zeros(shape) for name, shape in self.shapes.items()}
        for network, part in self.parts_of(clients).items():
            for name, shape in self.slices[network].items():
                found[self.key(network, name)][corner(shape)] += part
        return {name: np.where(share > 0, share, np.inf) for name, share in found.items()}  # what nobody has stays

    def bytes_of(self, network: str) -> int:
        """Return how many bytes a network's arrays take on their way."""
        return sum(4 * prod(shape) for shape in self.slices[network].values())

    def bytes_of_everyone(self, clients: int) -> float:
        """Return how many bytes a client's arrays take, on average over all of them."""
        return sum(part * self.bytes_of(name) for name, part in self.parts_of(clients).items())
