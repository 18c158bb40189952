"""Fleets of interactive methods: who serves the streams, and the engine that knows them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from flwr.serverapp import Grid
from torch import nn

from edgekit.algorithms.base import Algorithm
from edgekit.algorithms.parties.method import Parties
from edgekit.algorithms.split.method import SplitLearning
from edgekit.algorithms.split.service import Keys
from edgekit.clients.others import Others
from edgekit.clients.torch_trainer import learnt, state
from edgekit.compression.record import done_to
from edgekit.data import FederatedDataset
from edgekit.data.vertical import VerticalDataset
from edgekit.guarantee import Plan
from edgekit.models.settings import Model
from edgekit.models.vertical import VerticalNetwork
from edgekit.runfolder import RunFolder
from edgekit.server.engines.fleet.engine import FleetEngine
from edgekit.server.engines.fleet.parties import PartyEngine
from edgekit.server.engines.fleet.party_host import PartyHost
from edgekit.server.engines.fleet.streams import SplitHost
from edgekit.server.engines.fleet.tasks import Network
from edgekit.server.engines.graphs import kept_split_graph, kept_training_graph
from edgekit.server.settings import Sections


@dataclass(frozen=True)
class Fleet:
    """What engines of real devices share.

    Attributes:
        grid: Flower's.
        experiment: the experiment.
        folder: the run folder.
        sign: signs what nodes shall trust.
        members: gives the ids of the nodes that have joined and not left.
        notice: called with a line for people.
        address: host:port for streams to listen on.
        keys: of the streams' server; None for no TLS.
        run_id: of this run, whoever has the same experiment.
    """

    grid: Grid
    experiment: Sections
    folder: RunFolder
    sign: Callable[[bytes], bytes]
    members: Callable[[], set[int]]
    notice: Callable[[str], None]
    address: str
    keys: Keys | None
    run_id: str

    @property
    def nodes(self) -> Path:
        """Where what is known of nodes is kept."""
        return self.folder.path / "nodes.json"


def engine_of(
    fleet: Fleet, algorithm: Algorithm, dataset: FederatedDataset, model: nn.Module, plan: Plan | None
) -> tuple[FleetEngine | PartyEngine, SplitHost | PartyHost | None]:
    """Return the engine of a method's fleet, and what serves its streams, to be closed in the end; None without any.

    Raises:
        EdgekitError: the network cannot be trained so, or somebody else listens there.
    """
    if isinstance(algorithm, Parties):
        return _parties(fleet, algorithm, dataset, model)
    host: SplitHost | None = None
    if isinstance(algorithm, SplitLearning):
        section = algorithm.cut(model, dataset, fleet.experiment.training.plain(), fleet.notice)
        host = SplitHost(section, model, dataset, fleet.address, fleet.keys)

    def making() -> None:
        fleet.notice("making the training graph, for nodes without torch")

    def training_graph() -> bytes:
        if host is None:
            kept = kept_training_graph(fleet.experiment, algorithm, dataset, model, fleet.folder.checkpoint, making)
        else:
            kept = kept_split_graph(fleet.experiment, host.plan, dataset, fleet.folder, making)
        return kept.read_bytes()

    network = _network(model, training_graph)
    if host is not None:
        network = replace(network, fixed={})
    made = FleetEngine(
        fleet.grid,
        fleet.experiment,
        algorithm,
        dataset,
        network,
        plan,
        fleet.sign,
        fleet.nodes,
        fleet.notice,
        host,
        run_id=fleet.run_id,
        others=_others(fleet, algorithm, dataset),
    )
    return made, host


def _others(fleet: Fleet, algorithm: Algorithm, dataset: FederatedDataset) -> dict[str, Network]:
    """Return the networks that nodes train instead of the run's own, of methods whose nodes train unequal ones."""
    if not algorithm.unequal:
        return {}

    def network_of(name: str, model: nn.Module) -> Network:
        def training_graph() -> bytes:
            making = partial(fleet.notice, f"making the training graph of width {name}, for nodes without torch")
            place = fleet.folder.checkpoint
            return kept_training_graph(fleet.experiment, algorithm, dataset, model, place, making, name).read_bytes()

        return _network(model, training_graph, algorithm.modules[name])

    classes, seed = len(dataset.classes), fleet.experiment.seed
    made = Others(algorithm, network_of, dataset.shape, classes, seed, objective=dataset.objective)
    return {name: made[name] for name in algorithm.modules}


def _network(model: nn.Module, training_graph: Callable[[], bytes], section: Model | None = None) -> Network:
    """Return a network as nodes are told of it; arguments as of `Network`."""
    held, trained = state(model), learnt(model)
    shapes = {name: array.shape for name, array in held.items() if name in trained}
    fixed = {name: array for name, array in held.items() if name not in trained}
    return Network(shapes, training_graph, fixed, done_to(model), section)


def _parties(
    fleet: Fleet, algorithm: Parties, dataset: FederatedDataset, model: nn.Module
) -> tuple[PartyEngine, PartyHost]:
    assert isinstance(dataset, VerticalDataset)
    assert isinstance(model, VerticalNetwork)
    host = PartyHost(algorithm.split, model, dataset, fleet.address, fleet.keys)
    made = PartyEngine(
        host,
        dataset,
        fleet.members,
        grid=fleet.grid,
        experiment=fleet.experiment,
        algorithm=algorithm,
        sign=fleet.sign,
        path=fleet.nodes,
        on_notice=fleet.notice,
    )
    return made, host
