"""Top-k with error feedback: the largest changes are sent, the rest is kept for the next round (Stich et al. 2018)."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from edgekit.asks import Ask, Client, Update
from edgekit.section import Section
from edgekit.transforms.base import Transform
from edgekit.transforms.vectors import changes, moved

REST = "rest-"


class TopKSettings(Section):
    """The transform's own."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Of the numbers of each bundle that are sent."""
    feedback: bool = True
    """Whether what is left out is added to the next round's change (Stich et al. 2018, algorithm 1)."""


class TopK(Transform):
    """Each bundle's largest numbers by size; of the weights, largest changes."""

    Settings: ClassVar[type[Section]] = TopKSettings
    settings: TopKSettings
    compacts = True

    @property
    def passed(self) -> float:
        """The share of an update's bytes that travels: values, and half as much for their places."""
        return min(1.0, 1.5 * self.settings.share)

    def __init__(self, settings: Section | None = None) -> None:
        super().__init__(settings)
        self.keeps = self.settings.feedback

    def on_update(self, update: Update, ask: Ask, client: Client, rng: np.random.Generator) -> Update:
        """Leave the rest out."""
        bundles = {}
        for bundle, arrays in update.bundles.items():
            change = changes(bundle, arrays, ask)
            rest = client.state.get(REST + bundle, {}).get("rest")
            if self.settings.feedback and rest is not None and rest.shape == change.shape:
                change = change + rest
            count = max(1, int(self.settings.share * change.size))
            kept = np.zeros(change.size, bool)
            kept[np.argpartition(np.abs(change), change.size - count)[change.size - count :]] = True
            bundles[bundle] = moved(bundle, arrays, ask, np.where(kept, change, 0))
            if self.settings.feedback:  # rounding of what was sent is part of the rest
                client.state[REST + bundle] = {"rest": change - changes(bundle, bundles[bundle], ask)}
        return Update(bundles, update.weight, update.facts)
