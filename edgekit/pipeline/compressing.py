"""The part of the main job that trains: one network, or one that gets smaller from phase to phase."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from edgekit.clients.torch_trainer import state
from edgekit.compression import channels
from edgekit.compression.phases import Phase, phases
from edgekit.compression.record import Record, without_sparse
from edgekit.data import FederatedDataset
from edgekit.errors import ExperimentError, RunFolderError
from edgekit.experiment import Experiment
from edgekit.pipeline.changing import Changing
from edgekit.runfolder import RunFolder
from edgekit.server.loop.metrics import Outcome
from edgekit.server.loop.sync import Coordinator


@dataclass
class Training:
    """What training ended with.

    Attributes:
        coordinator: of the last phase.
        outcome: of its rounds.
        model: the network in its last form, with its weights.
        record: what was done to it.
        rows: of the network before and after each change, for result.json.
    """

    coordinator: Coordinator
    outcome: Outcome
    model: nn.Module
    record: Record = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


def check(experiment: Experiment, *, real: bool) -> None:
    """See that an experiment's compression can be done, before anything is trained.

    Args:
        experiment: the experiment.
        real: whether real devices train.

    Raises:
        ExperimentError: it cannot.
        MissingExtraError: a package that it needs is not installed.
    """
    stages = experiment.compression.stages
    if not stages:
        return
    rounds = experiment.federation.rounds
    plan = phases(experiment.compression, rounds)
    if plan[0].change and not experiment.model.weights:
        prune = experiment.compression.prune
        raise ExperimentError(
            f"compression.prune would cut a network that has learnt nothing: begin it later (begin {prune.begin:g} and "
            f"end {prune.end:g} of {rounds} rounds are before the first), or give a trained network by model.weights"
        )
    if "prune" in stages and experiment.compression.prune.kind == "channels":
        channels.check()
    if real:
        raise ExperimentError(
            "real devices train one network from the first round to the last: compress with edgekit run, and give its "
            "run to them by model.weights; leave compression.stages out"
        )
    if experiment.split.on:
        raise ExperimentError("a network that is cut between machines is not compressed: leave compression.stages out")


def train(
    experiment: Experiment,
    dataset: FederatedDataset,
    model: nn.Module,
    folder: RunFolder,
    make: Callable[[nn.Module, Phase], Coordinator],
    say: Callable[[str], None],
) -> Training:
    """Do a run's rounds, from its newest checkpoint on.

    Args:
        experiment: the experiment.
        dataset: its data.
        model: its network, as it begins.
        folder: the run, which keeps each phase's network as it began.
        make: gives who coordinates a phase.
        say: told of each change.

    Raises:
        EdgekitError: training fails, or a change cannot be made.
    """
    plan = phases(experiment.compression, experiment.federation.rounds)
    changing = Changing(experiment, dataset, folder, say, model)
    if "distil" in experiment.compression.stages:
        changing.teach(model)
    begun = changing.newest()
    if begun is not None and begun >= len(plan):
        raise RunFolderError(f"{folder.path} was begun with more stages of compression: its experiment was changed")
    if begun is not None:
        model = changing.load(model, begun)
    else:
        changing.foresee(model)
    for phase in plan[begun or 0 :]:
        if phase.number != begun and (phase.change or len(plan) > 1):
            if phase.change:
                model = changing.changed(model, phase, plan[phase.number - 1].until if phase.number else 0)
            changing.save(model, phase.number)
        coordinator = make(model, phase)
        outcome = coordinator.run()
        if outcome.interrupted:
            break
    model, record = without_sparse(model, changing.record)
    if experiment.compression.stages and not outcome.interrupted:
        row = changing.told(model, "at the end", outcome.rounds)
        row["files"] = changing.files(model)
    model.objective = dataset.objective  # type: ignore[assignment]
    return Training(coordinator, replace(outcome, weights=state(model)), model, record, changing.rows)
