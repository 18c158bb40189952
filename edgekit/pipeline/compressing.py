"""The part of the main job that trains: one network, or one that gets smaller from phase to phase."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from edgekit.clients.torch_trainer import state
from edgekit.compression import channels
from edgekit.compression.phases import Phase, phases
from edgekit.compression.record import Record, finished
from edgekit.data import FederatedDataset
from edgekit.errors import ExperimentError, RunFolderError
from edgekit.experiment import Experiment
from edgekit.export.quantise import check_format
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
        prune, change = experiment.compression.prune, plan[0].change
        if change == "quantise":
            raise ExperimentError(
                "compression.quantise would take the ranges of a network that has learnt nothing: begin it later, or "
                "give a trained network by model.weights"
            )
        raise ExperimentError(
            f"compression.prune would cut a network that has learnt nothing: begin it later (begin {prune.begin:g} and "
            f"end {prune.end:g} of {rounds} rounds are before the first), or give a trained network by model.weights"
        )
    if "prune" in stages and experiment.compression.prune.kind == "channels":
        channels.check()
    if "quantise" in stages:
        check_format(experiment.compression.quantise.format)
        if experiment.compression.quantise.format not in experiment.export.presets:
            raise ExperimentError(
                f"compression.quantise trains for the preset {experiment.compression.quantise.format!r}, which is not "
                f"among export.presets: add it, or choose another format"
            )
    if real and (len(plan) > 1 or "distil" in stages):
        raise ExperimentError(
            "real devices train one network from the first round to the last, without a teacher: compress with edgekit "
            "run, and give its run to them by model.weights; a change before the first round (begin, end = 0, times = "
            "1) is one that they can have"
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
    example = torch.from_numpy(dataset.calibration.x[:1] if len(dataset.calibration) else dataset.test.x[:1])
    trained, (model, record) = model, finished(model, changing.record, example)
    if experiment.compression.stages and not outcome.interrupted:
        row = changing.told(model, "at the end", outcome.rounds, trained)
        row["files"] = changing.files(model, trained)
    model.objective = dataset.objective  # type: ignore[assignment]
    return Training(coordinator, replace(outcome, weights=state(model)), model, record, changing.rows)
