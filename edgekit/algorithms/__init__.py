"""Federated methods, one a file, with both their halves. Nothing is imported here before a method is chosen."""

from typing import TYPE_CHECKING

from edgekit.experiment import Federation
from edgekit.registry import Entry, Registry

if TYPE_CHECKING:
    from edgekit.algorithms.base import Algorithm

ALGORITHMS = Registry(
    "federation.algorithm",
    {
        name: Entry(f"edgekit.algorithms.{name}:{made}", summary, source)
        for name, made, summary, source in (
            ("fedavg", "FedAvg", "the mean of the clients' weights", "McMahan et al. 2017"),
            ("fedprox", "FedProx", "clients are pulled towards the global model", "Li et al. 2020"),
            ("scaffold", "Scaffold", "control variates take the clients' drift out", "Karimireddy et al. 2020"),
            ("fednova", "FedNova", "clients with unequal numbers of steps count by direction", "Wang et al. 2020"),
            ("personal", "Personal", "some layers stay with their client", "Arivazhagan et al. 2019"),
        )
    },
    "edgekit.algorithms",
)


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
