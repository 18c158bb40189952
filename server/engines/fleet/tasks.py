"""What nodes are given to learn: the task, with the training graph for those without torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from edgekit.algorithms.base import Algorithm
from edgekit.arrays import Weights
from edgekit.clients.node.task import Task, name_of
from edgekit.clients.node.task_facts import MethodFacts, Planned, SplitFacts, TaskFacts, VerticalFacts
from edgekit.data import FederatedDataset
from edgekit.data.tables import with_columns
from edgekit.errors import EdgekitError
from edgekit.models.settings import Model
from edgekit.privacy import Plan
from edgekit.server.settings import Sections

KINDS = ("torch", "litert", "phone", "gateway")
WITHOUT_TORCH = ("litert", "phone", "gateway")
"""Kinds that are given the training graph."""


@dataclass(frozen=True)
class Network:
    """A network that nodes train.

    Attributes:
        parameters: shapes of its trained arrays, in their order.
        training_graph: makes the training graph for nodes without torch; called when the first of them comes.
        fixed: what is never trained and no training graph makes: frozen parameters, constants.
        compression: what was done to it before.
        model: its [model] section; None is the experiment's.
    """

    parameters: Mapping[str, tuple[int, ...]]
    training_graph: Callable[[], bytes]
    fixed: Weights = field(default_factory=dict)
    compression: Sequence[Mapping[str, Any]] = ()
    model: Model | None = None


class Tasks:
    """The task of a run, for each kind of node and each network; made when the first of them comes.

    Args:
        facts: in words and numbers, of the run's own network.
        network: the run's own.
        others: further ones that nodes train instead, by name.

    Attributes:
        facts: as given.
    """

    def __init__(
        self, facts: TaskFacts, network: Network, others: Mapping[str, Network] = MappingProxyType({})
    ) -> None:
        self.facts, self._networks = facts, {"": network, **others}
        self._made: dict[tuple[bool, str], tuple[str, bytes]] = {}

    def of(self, kind: str, network: str = "") -> tuple[str, bytes]:
        """Return the task for a kind of node and a network: (name, content)."""
        what = (kind in WITHOUT_TORCH, network)
        if what not in self._made:
            found, facts = self._networks[network], self.facts
            if network:
                changed = {"parameters": dict(found.parameters), "compression": tuple(map(dict, found.compression))}
                facts = facts.model_copy(update={**changed, "model": found.model or facts.model})
            content = Task(facts, found.training_graph() if what[0] else None, found.fixed).to_bytes()
            self._made[what] = (name_of(content), content)
        return self._made[what]

    def problem(self, kind: str, network: str = "") -> str:
        """Make a kind's task; return what is wrong with it, "" if nothing. It must not end the run for the others."""
        try:
            self.of(kind, network)
        except EdgekitError as error:
            return f"there is no task for nodes of its kind: {error}"
        return ""

    def names(self, kinds: Sequence[str], network: str = "") -> dict[str, str]:
        """Return the name of each kind's task, as far as somebody needed it already."""
        made = {kind: self._made.get((kind in WITHOUT_TORCH, network)) for kind in kinds}
        return {kind: task[0] for kind, task in made.items() if task is not None}


def facts_of(
    experiment: Sections,
    algorithm: Algorithm,
    dataset: FederatedDataset,
    parameters: Mapping[str, tuple[int, ...]],
    plan: Plan | None,
    *,
    run_id: str = "",
    split: SplitFacts | None = None,
    vertical: VerticalFacts | None = None,
    compression: Sequence[Mapping[str, Any]] = (),
) -> TaskFacts:
    """Return a run's task in words and numbers.

    Args:
        experiment: the experiment.
        algorithm: its method.
        dataset: the coordinator's own: shape, classes and data settings.
        parameters: shapes of the arrays that nodes get.
        plan: of privacy.
        run_id: of this run, whoever has the same experiment.
        split: how the network is cut.
        vertical: parties with features of the same people.
        compression: what was done to the network before.
    """
    serve, planned = experiment.serve, None
    if plan is not None and plan.noise == "client":
        planned = Planned(
            unit="client" if plan.unit == "client" else "example",
            noise_multiplier=plan.noise_multiplier,
            sample_rate=plan.sample_rate,
            steps=plan.steps * plan.rounds,
            reports=experiment.federation.rounds // serve.statistics_every if serve.statistics_every else 0,
            reports_noise=serve.statistics_noise,
            delta=plan.delta,
        )
    return TaskFacts(
        run=experiment.name,
        run_id=run_id,
        seed=experiment.seed,
        model=experiment.model.model_copy(update={"weights": "", "new": []}),  # nodes are sent what is in the file
        data=with_columns(experiment.data, dataset.normalisation),
        shape=dataset.shape,
        classes=dataset.classes,
        parameters=dict(parameters),
        claimed=experiment.privacy.unit if planned is None else "none",
        planned=planned,
        counts=planned is None and vertical is None,
        split=split,
        vertical=vertical,
        objective=dataset.objective.chosen,
        method=None if algorithm.plain else _method(experiment),
        transforms=tuple(experiment.federation.transforms),
        compression=tuple(map(dict, compression)),
    )


def _method(experiment: Sections) -> MethodFacts:
    """Return what nodes need to know of a method whose clients do more than train plainly."""
    federation = experiment.federation
    return MethodFacts(
        algorithm="" if federation.strategy else federation.method,
        strategy=federation.strategy,
        arguments=federation.arguments,
    )
