"""Training graphs for clients without torch: made once, kept by the run over restarts."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from torch import nn

from edgekit.algorithms.base import Algorithm
from edgekit.algorithms.split.simulated import Plan as SplitPlan
from edgekit.data import FederatedDataset
from edgekit.export.training.file import training_file
from edgekit.export.training.split_file import split_file
from edgekit.export.training.steps import Options
from edgekit.runfolder import RunFolder, write_whole
from edgekit.server.settings import Sections
from edgekit.version import __version__


def options_of(experiment: Sections, *, proximal: bool, drift: bool, private: bool = True) -> Options:
    """Return what a training graph must have for an experiment's clients, whose method may tell a mu and a drift."""
    return Options(
        max(experiment.export.training_batch, experiment.training.batch_size),
        experiment.privacy.clip,
        experiment.training.momentum > 0,
        proximal,
        drift,
        private,
        experiment.training.optimiser,
        experiment.training.weight_decay > 0,
    )


def kept_training_graph(
    experiment: Sections,
    algorithm: Algorithm,
    dataset: FederatedDataset,
    model: nn.Module,
    place: Path,
    making: Callable[[], None],
    name: str = "",
) -> Path:
    """Return the graph with which clients without torch train: the one that the run keeps, or a new one.

    Args:
        experiment: the experiment.
        algorithm: its method, which may train with a mu and a drift.
        dataset: its data.
        model: its network.
        place: the folder that keeps it over restarts.
        making: called before it is made, which takes a while.
        name: of the network among the method's; "" is the run's own.
    """

    def made() -> bytes:
        private = experiment.privacy.unit == "example"
        options = options_of(experiment, proximal=algorithm.proximal, drift=algorithm.drifts, private=private)
        return training_file(model, dataset.shape, len(dataset.classes), options, {})[0]

    return _kept(place / (f"training-{name}.tflite" if name else "training.tflite"), made, making)


def kept_split_graph(
    experiment: Sections, plan: SplitPlan, dataset: FederatedDataset, run: RunFolder, making: Callable[[], None]
) -> Path:
    """Return the graph with which clients without torch train their parts of a network that is cut.

    Args:
        experiment: the experiment.
        plan: how it is cut.
        dataset: its data.
        run: the run folder, which keeps it over restarts.
        making: as of `kept_training_graph`.
    """

    # Such a file's calls give gradients, to which nothing is added.
    options = options_of(experiment, proximal=False, drift=False, private=experiment.privacy.on)

    def made() -> bytes:
        device = plan.device
        crossing, classes = plan.terms.crossing, len(dataset.classes)
        return split_file(device.bottom, device.tail, dataset.shape, crossing, classes, options, {})[0]

    what = [plan.names, options.batch, options.private, __version__]
    name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]  # a profile may have changed what `auto` chooses
    return _kept(run.checkpoint / f"split-{name}.tflite", made, making)


def _kept(path: Path, made: Callable[[], bytes], making: Callable[[], None]) -> Path:
    """Return a run's training file; a new one is told by `making`, whether it is converted or taken from the cache."""
    if not path.exists():
        making()
        write_whole(path, made())
    return path
