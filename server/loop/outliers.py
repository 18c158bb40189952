"""What one client may do to the model: how much it counts beside the others, and how far it may move it.

Of real devices one may be anybody's. A mean lets one update of enough weight, or of enough length, replace the model.
Clipping to a multiple of the cohort's median norm bounds that, whatever the method does then (Sun et al. 2019, "Can you
really backdoor federated learning?": norm thresholding, here with a threshold of the round's own).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgekit.algorithms.settings import Federation
from edgekit.arrays import Weights, total_norm
from edgekit.asks import BUFFERS, WEIGHTS, Update
from edgekit.errors import ExperimentError

LEAST = 3
"""Updates of which a median says anything."""
ABSURD = 5.0
"""Times the median norm beyond which an update is left out whole: no honest training is so long."""
HEAVIEST = 3.0
"""Times the median weight that one update counts at the most on real devices, where the experiment names no share."""


class Bounding:
    """Bounds a round's updates as the experiment says.

    Args:
        federation: the [federation] section.
        real: whether they come from real devices.
        unseen: whether single updates may not be looked at: where the server adds the noise its clip alone bounds them.
        say: called with a client and a line for people, once a client.

    Raises:
        ExperimentError: the experiment asks for what may not be looked at.
    """

    def __init__(
        self, federation: Federation, *, real: bool, unseen: bool, say: Callable[[int, str], None] = lambda *_: None
    ) -> None:
        if unseen and federation.outliers in ("clip", "leave-out"):
            raise ExperimentError(
                "federation.outliers looks at single updates, of which nothing may be seen here: leave it out; a "
                "trusted server's privacy.clip bounds them"
            )
        self._federation, self._real, self._unseen, self._say = federation, real, unseen, say
        self._told: set[int] = set()

    @property
    def reads_each(self) -> bool:
        """Whether single updates are looked at."""
        how = _how(self._federation, real=self._real)
        return not self._unseen and (self._real or bool(self._federation.largest_share) or how != "none")

    def __call__(
        self, number: int, updates: Mapping[int, Update], weights: Weights, buffers: Weights
    ) -> dict[int, Update]:
        """Return a round's updates, of which none counts or moves too much.

        Args:
            number: of the round.
            updates: valid ones, by client.
            weights: that clients began with.
            buffers: running statistics that they began with.
        """
        if self._unseen:
            return dict(updates)
        found, said = bounded(updates, {WEIGHTS: weights, BUFFERS: buffers}, self._federation, real=self._real)
        for client, what in said.items():
            if client not in self._told:
                self._told.add(client)
                self._say(client, f"held back in round {number}: {what}")
        return found


def _how(federation: Federation, *, real: bool) -> str:
    """Return what is done to updates that are too long."""
    return federation.outliers if federation.outliers != "auto" else "clip" if real else "none"


def bounded(
    updates: Mapping[int, Update], starts: Mapping[str, Weights], federation: Federation, *, real: bool
) -> tuple[dict[int, Update], dict[int, str]]:
    """Return updates that are bounded as the experiment says, and what was done to whose.

    Args:
        updates: valid ones, by client.
        starts: what clients began with, by bundle; nothing where they tell differences.
        federation: the [federation] section.
        real: whether they come from real devices.
    """
    found, said = _of_bearable_weight(updates, federation.largest_share, real=real)
    how = _how(federation, real=real)
    if how == "none" or len(found) < LEAST:
        return found, said
    left_out: set[int] = set()
    for bundle in next(iter(found.values())).bundles:
        start = starts.get(bundle, {})
        norms = {client: _norm(update.bundles[bundle], start) for client, update in found.items()}
        median = _median(norms.values())
        # How far each moves the mean: who counts for more may be long for less.
        moves = {client: found[client].weight * norm for client, norm in norms.items()}
        most = federation.outlier_norm * _median(moves.values())
        for client, norm in norms.items():
            if moves[client] <= most:
                continue
            times = norm / median
            said[client] = f"its {bundle} would move the mean too far, {times:.3g} times as long as the median"
            if bundle != BUFFERS and (how == "leave-out" or norm > ABSURD * median):
                left_out.add(client)
                continue
            update = found[client]
            shorter = _shortened(update.bundles[bundle], start, most / moves[client])
            found[client] = replace(update, bundles={**update.bundles, bundle: shorter})
    return {client: update for client, update in found.items() if client not in left_out}, said


def _of_bearable_weight(
    updates: Mapping[int, Update], share: float, *, real: bool
) -> tuple[dict[int, Update], dict[int, str]]:
    given = np.array([update.weight for update in updates.values()], np.float64)
    if not len(given) or (not share and not real):
        return dict(updates), {}
    most = _cap(given, share) if share else HEAVIEST * float(np.median(given))
    found, said = {}, {}
    for client, update in updates.items():
        if update.weight > most:
            said[client] = f"it says that it counts {update.weight:g}, and counts {most:g}"
            update = replace(update, weight=most)
        found[client] = update
    return found, said


def _cap(given: NDArray[np.float64], share: float) -> float:
    """Return the weight beyond which none may count, so that each counts at most this share of all.

    Where so many cannot, all count alike.
    """
    heavy = np.sort(given)[::-1]
    if heavy[0] <= share * heavy.sum():
        return float(heavy[0])
    for capped in range(1, len(heavy)):  # the heaviest ones, so many, count alike
        if share * capped >= 1:
            break
        most = share * float(heavy[capped:].sum()) / (1 - share * capped)
        if heavy[capped] <= most:
            return most
    return float(heavy[-1])


def _median(lengths: Iterable[float]) -> float:
    """Return the median of those that moved at all: who sends back what it got says nothing of the others."""
    moved = [length for length in lengths if length > 0]
    return float(np.median(moved)) if moved else 0.0


def _norm(arrays: Weights, start: Weights) -> float:
    moving = {name: array for name, array in arrays.items() if np.issubdtype(array.dtype, np.floating)}
    return total_norm(array.astype(np.float64) - start.get(name, 0.0) for name, array in moving.items())


def _shortened(arrays: Weights, start: Weights, factor: float) -> Weights:
    return {
        name: np.asarray(start.get(name, 0.0) + factor * (array.astype(np.float64) - start.get(name, 0.0)), array.dtype)
        if np.issubdtype(array.dtype, np.floating)
        else array  # counts of batches
        for name, array in arrays.items()
    }
