"""Federated methods, one a file, with both their halves. Nothing is imported here before a method is chosen."""

from typing import TYPE_CHECKING

from edgekit.algorithms.settings import Federation

if TYPE_CHECKING:
    from edgekit.algorithms.base import Algorithm


def make(federation: Federation, *, released: bool = False, measures: bool = False) -> "Algorithm":
    """Make the method that an experiment names: one of ours, or a strategy of Flower's.

    Args:
        federation: the [federation] section; `arguments` are the method's own.
        released: whether it gets nothing but what noise by the server released.
        measures: whether clients hold examples back to measure models with.

    Raises:
        ExperimentError: no such method, arguments it does not take, or one that does not go with this.
    """
    from edgekit.algorithms.base import made

    if federation.strategy:
        from edgekit.algorithms.flower import FlowerStrategy

        return FlowerStrategy(federation, released=released, measures=measures)
    return made(federation.method, federation.arguments, released=released)
