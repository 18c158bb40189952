"""Attacks by examples: wrong labels, and a trigger that leads to a class (Gu et al. 2017, "BadNets")."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from edgekit.arrays import Array
from edgekit.data import Examples, FederatedDataset
from edgekit.data.federated import Floats
from edgekit.randomness import generator
from edgekit.server.attacks.settings import Attack

PATCH = 9
"""An image's height over the trigger's, which is two at least."""


def poisoned(
    dataset: FederatedDataset, attack: Attack, attackers: Collection[int], seed: int, high: float
) -> FederatedDataset:
    """Return a dataset of which attackers' examples are changed, from the round on in which they begin."""

    def load(client: int) -> Examples:
        own = dataset.load_client(client)
        if client not in attackers:
            return own
        if attack.kind == "label-flip":
            return Examples(own.x, flipped(own.y, len(dataset.classes)))
        chosen = generator(seed, "backdoor", client).random(len(own)) < attack.poisoned
        x, y = own.x.copy(), own.y.copy()
        x[chosen], y[chosen] = with_trigger(own.x[chosen], high), attack.target
        return Examples(x, y)

    return replace(dataset, later=(attack.start, replace(dataset, load_client=load)))


def flipped(labels: Array, classes: int) -> Array:
    """Return the labels counted from the other end, as Fang et al. 2020 and Cao et al. 2021 flip them."""
    return np.asarray(classes - 1 - labels, labels.dtype)


def with_trigger(x: Floats, high: float) -> Floats:
    """Return examples with a bright square in their last corner; of others the last steps or features are bright.

    Args:
        x: (examples, ...).
        high: how bright.
    """
    changed = x.copy()
    if x.ndim == 4:
        size = max(2, x.shape[2] // PATCH)
        changed[:, :, -size:, -size:] = high
        return changed
    longest = int(np.argmax(x.shape[1:])) + 1  # time steps, or plain features
    np.moveaxis(changed, longest, -1)[..., -max(2, x.shape[longest] // 16) :] = high
    return changed


def takes_trigger(shape: Sequence[int]) -> bool:
    """Whether a trigger leaves most of an example of this shape as it is."""
    return min(shape[1:]) >= 4 if len(shape) == 3 else max(shape) >= 8
