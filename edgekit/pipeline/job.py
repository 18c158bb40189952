"""The main job. Each stage is a function of what came before it, and writes into the run folder."""

import shutil
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from edgekit import algorithms, arrays
from edgekit import experiment as experiments
from edgekit.algorithms.base import Algorithm
from edgekit.algorithms.slices import Sliced
from edgekit.arrays import Weights
from edgekit.clients.cohort.memory import keep_freed_memory
from edgekit.clients.torch_trainer import state
from edgekit.compression.phases import Phase
from edgekit.compression.record import done_to
from edgekit.data import FederatedDataset
from edgekit.data.federated import Floats
from edgekit.errors import EdgekitError, UsageError
from edgekit.experiment import Experiment
from edgekit.pipeline import compressing, exporting, foresight
from edgekit.pipeline.comparing import earlier
from edgekit.pipeline.kept import keep_model
from edgekit.pipeline.subjects import COMPRESSION, build_network, load_dataset
from edgekit.report import write_report
from edgekit.report.trackers import Trackers
from edgekit.runfolder import RunFolder
from edgekit.server.engines.base import Engine
from edgekit.server.engines.fleet.nodes import by_kind
from edgekit.server.loop.charging import planned
from edgekit.server.loop.metrics import RoundMetrics
from edgekit.server.loop.preparing import prepare
from edgekit.server.loop.sync import Coordinator
from edgekit.transforms.base import Mechanism
from edgekit.transforms.chain import Chain

if TYPE_CHECKING:
    from edgekit.pipeline.spiking import SpikingResult

START = "start.safetensors"
"""In a run's checkpoints: the network that it began with, where that came from a file."""


class Listener(Protocol):
    """Told what happens, to show it."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def round(self, metrics: RoundMetrics, rounds: int) -> None:
        """A round ended."""

    def notice(self, line: str) -> None:
        """Something a person should know."""


@dataclass
class Job:
    """One run under way: what its stages share.

    Attributes:
        experiment: resolved.
        folder: the run folder.
        listener: told what happens.
        result: what result.json will hold.
        failures: stages that failed; the others still run, so that nothing is lost.
        started: of the clock, in seconds.
        spikes: whether there is a spiking stage.
        scores: what the trained network gives for the test examples.
        skipped: by stage, why it is left out.
    """

    experiment: Experiment
    folder: RunFolder
    listener: Listener
    result: dict[str, Any] = field(default_factory=dict)
    failures: list[EdgekitError] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    spikes: bool = True
    scores: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    skipped: dict[str, str] = field(default_factory=dict)


def run(experiment: Experiment, out: Path, listener: Listener) -> dict[str, Any]:
    """Do the whole main job in a new run folder.

    Args:
        experiment: the experiment.
        out: the run folder; it must not exist, or be empty.
        listener: told what happens.

    Returns:
        What result.json holds.

    Raises:
        EdgekitError: something failed; what could be done is in the folder.
    """
    if experiment.data.source.startswith("labels:"):
        raise UsageError("data.source labels:FOLDER is for parties elsewhere: edgekit serve trains with them")
    folder = RunFolder.create(out)
    experiments.save(experiment, folder.experiment)
    try:
        with folder.alone():
            return _work(Job(experiment, folder, listener))
    except EdgekitError:
        if not {path.name for path in out.iterdir()} - {folder.experiment.name, "lock"}:
            shutil.rmtree(out)  # nothing was done: leave the name free for a corrected run
        raise


def resume(path: Path, listener: Listener) -> dict[str, Any]:
    """Go on with a run where its newest checkpoint stands; it ends with the bits of an undisturbed run.

    Raises:
        EdgekitError: this is not a run folder, or something failed again.
    """
    folder = RunFolder.open(path)
    with folder.alone():
        return _work(Job(experiments.load(folder.experiment), folder, listener))


class Fleet(Protocol):
    """Real devices that train instead of simulated clients.

    Attributes:
        private_seed: as `Coordinator` takes it.
    """

    private_seed: int

    def engine(
        self, dataset: FederatedDataset, model: nn.Module, algorithm: Algorithm, mechanism: Mechanism | None
    ) -> Engine:
        """Return the devices, once it is known what they shall train."""

    def after_round(self, metrics: RoundMetrics) -> None:
        """A round ended, and its checkpoint is written."""


def serve(folder: RunFolder, listener: Listener, fleet: Fleet) -> dict[str, Any]:
    """Do the main job with real devices, from the newest checkpoint on; a run that has finished is left as it is.

    Raises:
        EdgekitError: something failed; what could be done is in the folder.
    """
    job = Job(experiments.load(folder.experiment), folder, listener)
    if folder.result.exists():
        result = folder.read_result()
        if not result["interrupted"] and "failed" not in result:
            dataset, model = _load(job)
            measures = job.experiment.data.client_test_fraction > 0
            algorithm = algorithms.make(job.experiment.federation, job.experiment.split, measures=measures)
            mechanism = algorithms.mechanism_of(job.experiment.privacy, job.experiment.split)
            prepare(algorithm, job.experiment, dataset, model, Chain([], mechanism))
            mechanism = planned(job.experiment, dataset, algorithm, mechanism)
            fleet.engine(dataset, model, algorithm, mechanism)
            return result
    return _work(job, fleet)


def _load(job: Job) -> tuple[FederatedDataset, nn.Module]:
    # Small networks run fastest on one thread, and sums come out the same on every machine with as many cores.
    torch.set_num_threads(1)
    keep_freed_memory()
    job.listener.stage("data")
    experiment, begun = job.experiment, job.folder.checkpoint / START
    dataset = load_dataset(experiment)
    if experiment.model.weights and begun.exists():  # a file of the user's may have changed, or gone
        again = experiment.model.model_copy(update={"weights": str(begun), "new": []})
        experiment = experiment.model_copy(update={"model": again})
    return dataset, build_network(experiment, dataset, dataset.calibration.x, job.listener.notice)


def _work(job: Job, fleet: Fleet | None = None) -> dict[str, Any]:
    experiment = job.experiment
    compressing.check(experiment, real=fleet is not None)
    dataset, model = _load(job)
    if fleet is not None and any(step["step"] == "channels" for step in done_to(model)):
        job.listener.notice("nodes with torch need torch-pruning for a network whose channels were cut, others do not")
    whose = f"; {dataset.clients} clients" if fleet is None else f"; at least {experiment.serve.nodes} nodes"
    job.listener.notice(dataset.description + ("" if dataset.parties else whose))
    job.skipped = foresight.lacking(experiment, job.listener.notice)
    if job.skipped:
        job.result["skipped"] = dict(job.skipped)
    spikes = "spiking" not in job.skipped
    job.spikes = spikes and foresight.has_spiking_form(model, dataset, experiment, job.listener.notice)
    foresight.check_forms(model, dataset, experiment, files="export" not in job.skipped)

    trackers = Trackers(experiment.tracking, job.folder, experiment, job.listener.notice)

    def ended(metrics: RoundMetrics) -> None:
        job.listener.round(metrics, experiment.federation.rounds)
        trackers.round(metrics)
        if fleet is not None:
            fleet.after_round(metrics)

    said: list[str] = []

    def coordinator_of(network: nn.Module, phase: Phase) -> Coordinator:
        made = Coordinator(
            experiment,
            dataset,
            network,
            job.folder,
            on_round=ended,
            on_notice=job.listener.notice,
            engine=None if fleet is None else partial(fleet.engine, dataset, network),
            private_seed=None if fleet is None else fleet.private_seed,
            phase=phase,
        )
        if not said:
            _begin_training(job, made, model)
            said.append("")
        return made

    trained = compressing.train(experiment, dataset, model, job.folder, coordinator_of, job.listener.notice)
    coordinator, outcome, model = trained.coordinator, trained.outcome, trained.model
    keep_model(job, dataset, trained, simulated=fleet is None)
    spiking: SpikingResult | None = None
    if not outcome.interrupted:
        _export(job, dataset, model)
        if isinstance(coordinator.algorithm, Sliced):
            _keep_widths(job, dataset, coordinator.algorithm, outcome.weights)
        spiking = _spike(job, dataset, model)
    job.listener.stage("report")
    job.result["seconds"] = round(time.perf_counter() - job.started, 2)
    if nodes := by_kind(job.folder):
        job.result["nodes"] = nodes
    job.folder.write_json(job.folder.result, job.result)
    sample = spiking.sample if spiking else None
    write_report(
        job.folder,
        experiment,
        job.result,
        dataset,
        coordinator.statement,
        coordinator.plan,
        sample,
        job.scores,
        model,
        earlier(job.folder),
    )
    if not outcome.interrupted:
        trackers.end(job.result)
    for failure in job.failures[1:]:
        job.listener.notice(str(failure))
    if job.failures:
        raise job.failures[0]
    return job.result


def _begin_training(job: Job, coordinator: Coordinator, model: nn.Module) -> None:
    """Tell what privacy plans, and keep the weights that came from a file."""
    if coordinator.plan is not None:
        plan = coordinator.plan
        job.listener.notice(
            f"planned: epsilon {plan.epsilon:.2f} at delta {plan.delta:g} for one {plan.unit}, {plan.rounds} rounds, "
            f"noise multiplier {plan.noise_multiplier:.3f}, added by the {plan.noise}"
        )
    if job.experiment.model.weights and not (job.folder.checkpoint / START).exists():
        told = {COMPRESSION: done} if (done := done_to(model)) else None
        arrays.save(job.folder.checkpoint / START, state(model), told)
    job.listener.stage("training")


def _export(job: Job, dataset: FederatedDataset, model: nn.Module) -> None:
    settings = job.experiment.export
    job.result["tflite"] = {}
    if "export" in job.skipped or not (settings.presets or settings.training or settings.front_end):
        return
    job.listener.stage("export")
    try:
        exporting.write_files(
            model,
            dataset,
            job.experiment,
            job.folder,
            job.result,
            settings.presets,
            settings.training,
            job.listener.notice,
        )
    except EdgekitError as error:
        _failed(job, "export", error)


def _keep_widths(job: Job, dataset: FederatedDataset, algorithm: Sliced, weights: Weights) -> None:
    from edgekit.pipeline.widths import keep_widths

    job.listener.stage("widths")
    for error in keep_widths(job, dataset, algorithm, weights, job.listener.notice):
        _failed(job, "widths", error)


def _spike(job: Job, dataset: FederatedDataset, model: nn.Module) -> "SpikingResult | None":
    job.result["spiking"] = None
    if not job.spikes:
        return None
    from edgekit.pipeline.spiking import make_spiking

    job.listener.stage("spiking")
    try:
        spiking = make_spiking(model, dataset, job.experiment, job.folder)
    except EdgekitError as error:
        _failed(job, "spiking", error)
        return None
    job.result["spiking"] = spiking.facts
    for line in spiking.notices:
        job.listener.notice(line)
    return spiking


def _failed(job: Job, stage: str, error: EdgekitError) -> None:
    job.failures.append(error)
    job.result.setdefault("failed", {})[stage] = str(error)
