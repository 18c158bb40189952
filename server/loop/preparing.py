"""What a method is told of a run before it begins, and whether it goes with the rest of it."""

from torch import nn

from edgekit.algorithms.base import Algorithm
from edgekit.compression.phases import Phase
from edgekit.compression.record import done_to
from edgekit.data import FederatedDataset
from edgekit.errors import ExperimentError
from edgekit.models import build
from edgekit.models.settings import Model
from edgekit.objectives import objective_of
from edgekit.server.settings import Sections
from edgekit.transforms.chain import Chain


def prepare(
    algorithm: Algorithm,
    experiment: Sections,
    dataset: FederatedDataset,
    model: nn.Module,
    chain: Chain,
    phase: Phase | None = None,
) -> None:
    """Let a method get to know the run.

    Args:
        algorithm: the method.
        experiment: the experiment.
        dataset: its data.
        model: its network.
        chain: what updates go through.
        phase: which of the run's rounds are trained; None is all.

    Raises:
        EdgekitError: it does not go with the rest of the experiment.
    """
    if algorithm.unequal and (other := _other_than_one_network(algorithm, experiment, model, chain, phase)):
        raise ExperimentError(
            f"{experiment.federation.method} has clients train networks of unequal widths, but {other}: leave it out"
        )
    if not algorithm.phases and _several(experiment, phase):
        raise ExperimentError(
            f"{experiment.federation.method} has clients keep what is of one network: leave [compression] out"
        )
    if algorithm.relays and (other := _other_than_passing_on(algorithm, experiment, dataset, chain)):
        raise ExperimentError(f"{experiment.federation.method} has clients pass on what others sent, but {other}")
    shape, classes = dataset.shape, len(dataset.classes)
    if algorithm.needs_public:
        if dataset.objective.labels != "class":
            raise ExperimentError(
                f"{experiment.federation.method} teaches chances of classes, not {dataset.objective.name}: use another"
            )
        algorithm.public, algorithm.outputs = dataset.calibration.x, classes

    def made(section: Model) -> nn.Module:
        return build(section, shape, classes, experiment.seed, objective=dataset.objective)

    algorithm.prepare(experiment.model, shape, made, released=chain.sums, seed=experiment.seed)


def _several(experiment: Sections, phase: Phase | None) -> bool:
    """Whether the network changes between the run's rounds."""
    return phase is not None and bool(phase.number or phase.until < experiment.federation.rounds)


def _other_than_passing_on(algorithm: Algorithm, experiment: Sections, dataset: FederatedDataset, chain: Chain) -> str:
    """Say what of an experiment is for clients that each send an update of their own, "" if nothing."""
    if experiment.privacy.on:
        return "privacy bounds what is one client's: leave [privacy] out"
    if experiment.federation.cohort:
        return "they are all that are there: set federation.cohort = 0"
    if chain.transforms:
        return "federation.transforms are for updates: leave them out"
    if experiment.attack.on:
        return "[attack] changes updates: leave it out"
    needed = algorithm.rounds_for(dataset.clients)
    if experiment.federation.rounds < needed:
        return f"{needed} rounds make one training of {dataset.clients} clients: set federation.rounds to a multiple"
    return ""


def _other_than_one_network(
    algorithm: Algorithm, experiment: Sections, model: nn.Module, chain: Chain, phase: Phase | None
) -> str:
    """Say what of an experiment is for clients that all train one network, "" if nothing."""
    if getattr(objective_of(model), "features", 0.0):
        return "compression.distil.features is of the map of the one that all have"
    if getattr(algorithm, "own_classes", False) and experiment.training.weight_decay:
        return "training.weight_decay moves the rows of classes that a client has not, which a masked loss leaves alone"
    if done_to(model) or _several(experiment, phase):
        return "compression changes the one that all have"
    if chain.transforms:
        return "federation.transforms are for updates of one shape"
    if experiment.serve.statistics_every:
        return "serve.statistics_every compares what all nodes have in one"
    return ""
