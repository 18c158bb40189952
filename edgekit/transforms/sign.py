"""Signs with error feedback: a change's sign is sent, the rest is kept (Karimireddy et al. 2019, algorithm 1)."""

from typing import ClassVar

import numpy as np

from edgekit.arrays import Array
from edgekit.asks import Ask, Client, Update
from edgekit.coded import on_grid
from edgekit.section import Section
from edgekit.sparse import base_of
from edgekit.transforms.base import Transform


class SignSettings(Section):
    """The transform's own."""

    feedback: bool = True
    """Whether what is left out is added to the next round's change."""


class Sign(Transform):
    """Each array's changes as their signs, times their mean size: one bit a number."""

    Settings: ClassVar[type[Section]] = SignSettings
    settings: SignSettings
    compacts = True

    @property
    def passed(self) -> float:
        """The share of an update's bytes that travels."""
        return 1 / 32

    def __init__(self, settings: Section | None = None) -> None:
        super().__init__(settings)
        self.keeps = self.settings.feedback

    def on_update(self, update: Update, ask: Ask, client: Client, rng: np.random.Generator) -> Update:
        """Send signs; keep the rest."""
        bundles: dict[str, dict[str, Array]] = {}
        grids, kept = dict(update.grids), dict[str, Array]()
        rest = client.state.get("rest", {})
        for bundle, arrays in update.bundles.items():
            bundles[bundle] = dict(arrays)
            for name, array in arrays.items():
                if array.dtype != np.float32:
                    continue
                path = f"{bundle}:{name}"
                base = base_of(path, array, ask.bundles)
                change = np.asarray(array, np.float64) - (0 if base is None else base)
                if path in rest and rest[path].shape == change.shape:
                    change = change + rest[path]
                step = float(np.float32(np.abs(change).mean())) if change.size else 0.0
                if step and np.isfinite(step):
                    grids[path] = step, 1
                sent = on_grid(base, np.where(change < 0, -1.0, 1.0), step, array)
                bundles[bundle][name] = sent
                left = np.asarray(sent, np.float64) - (0 if base is None else base)
                kept[path] = (change - left).astype(np.float32)
        if self.settings.feedback:
            client.state["rest"] = kept
        return Update(bundles, update.weight, update.facts, grids)
