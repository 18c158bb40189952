"""Stochastic quantisation: changes are rounded at random to multiples of a step, unbiased (Alistarh et al. 2017)."""

from typing import ClassVar, Literal

import numpy as np

from edgekit.arrays import Array
from edgekit.asks import Ask, Client, Update
from edgekit.coded import levels, on_grid
from edgekit.section import Section
from edgekit.sparse import base_of
from edgekit.transforms.base import Transform


class QuantiseSettings(Section):
    """The transform's own."""

    bits: Literal[4, 8] = 8
    """Of a number."""


class Quantise(Transform):
    """Each array's changes as whole numbers, up to 127 or 7, of a step of their own: the largest over that.

    Rounded up or down with the chances that make the mean right (QSGD, section 3.1, by the largest number instead of
    the norm).
    """

    Settings: ClassVar[type[Section]] = QuantiseSettings
    settings: QuantiseSettings
    compacts = True

    @property
    def passed(self) -> float:
        """The share of an update's bytes that travels."""
        return self.settings.bits / 32

    def on_update(self, update: Update, ask: Ask, client: Client, rng: np.random.Generator) -> Update:
        """Round at random."""
        most, grids = levels(self.settings.bits), dict(update.grids)
        bundles: dict[str, dict[str, Array]] = {}
        for bundle, arrays in update.bundles.items():
            bundles[bundle] = dict(arrays)
            for name, array in arrays.items():
                if array.dtype != np.float32:
                    continue
                path = f"{bundle}:{name}"
                base = base_of(path, array, ask.bundles)
                change = np.asarray(array, np.float64) - (0 if base is None else base)
                step = float(np.float32(np.abs(change).max(initial=0) / most))
                if not step or not np.isfinite(step):
                    continue
                grids[path] = step, self.settings.bits
                multiples = np.clip(np.floor(change / step + rng.random(change.shape)), -most, most)
                bundles[bundle][name] = on_grid(base, multiples, step, array)
        return Update(bundles, update.weight, update.facts, grids)
