"""Federated methods, one a file, with both their halves. Nothing is imported here before a method is chosen."""

from typing import TYPE_CHECKING

from edgekit.algorithms.settings import Federation
from edgekit.algorithms.split.settings import Split
from edgekit.errors import ExperimentError

if TYPE_CHECKING:
    from edgekit.algorithms.base import Algorithm
    from edgekit.privacy.settings import Privacy
    from edgekit.transforms.base import Mechanism


def kind(split: Split) -> "type[Algorithm]":
    """Return what sort of method an experiment's is: one whose clients train by themselves, or a room of its own."""
    if split.parties:
        from edgekit.algorithms.parties.method import Parties

        return Parties
    if split.cut:
        from edgekit.algorithms.split.method import SplitLearning

        return SplitLearning
    from edgekit.algorithms.base import Algorithm

    return Algorithm


def make(
    federation: Federation, split: Split | None = None, *, released: bool = False, measures: bool = False
) -> "Algorithm":
    """Make the method that an experiment names: one of ours, or a strategy of Flower's, by itself or in split learning.

    Args:
        federation: the [federation] section; `arguments` are the method's own.
        split: the [split] section; None is of no split learning.
        released: whether it gets the mean of the updates alone.
        measures: whether clients hold examples back to measure models with.

    Raises:
        ExperimentError: no such method, arguments it does not take, or one that does not go with this.
    """
    from edgekit.algorithms.base import made

    if federation.strategy:
        from edgekit.algorithms.flower import FlowerStrategy

        found: Algorithm = FlowerStrategy(federation, released=released, measures=measures)
    else:
        found = made(federation.method, federation.arguments, released=released)
    if split is None or not split.on:
        return found
    if not found.plain or found.unequal:
        which = f"federation.{'strategy' if federation.strategy else 'algorithm'} {federation.method}"
        raise ExperimentError(
            f"{which} has clients do more than train one network, which split learning leaves no room for"
        )
    return kind(split).around(found, split)


def mechanism_of(privacy: "Privacy", split: Split) -> "Mechanism | None":
    """Return the mechanism of an experiment's privacy, not planned yet; None without privacy."""
    return kind(split).mechanism(privacy, split) if privacy.on else None
