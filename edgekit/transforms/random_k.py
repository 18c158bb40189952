"""Random-k: numbers drawn by lot, scaled so that their mean is right (Stich et al. 2018, definition 2.2)."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from edgekit.asks import Ask, Client, Update
from edgekit.section import Section
from edgekit.transforms.base import Transform
from edgekit.transforms.vectors import changes, moved


class RandomKSettings(Section):
    """The transform's own."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of the numbers of each bundle that are sent."""


class RandomK(Transform):
    """So many numbers of each bundle, each as likely as any other, times the inverse of the share: unbiased."""

    Settings: ClassVar[type[Section]] = RandomKSettings
    settings: RandomKSettings
    compacts = True

    @property
    def passed(self) -> float:
        """The share of an update's bytes that travels: values, and half as much for their places."""
        return min(1.0, 1.5 * self.settings.share)

    def on_update(self, update: Update, ask: Ask, client: Client, rng: np.random.Generator) -> Update:
        """Draw, and scale."""
        bundles = {}
        for bundle, arrays in update.bundles.items():
            change = changes(bundle, arrays, ask)
            count = max(1, int(self.settings.share * change.size))
            kept = rng.choice(change.size, count, replace=False)
            sent = np.zeros_like(change)
            sent[kept] = change[kept] * np.float32(change.size / count)
            bundles[bundle] = moved(bundle, arrays, ask, sent)
        return Update(bundles, update.weight, update.facts)
