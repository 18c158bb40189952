"""What is seen before hours of training: the forms that a network can be delivered in, and what they lack here."""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import nn

from edgekit.data import FederatedDataset
from edgekit.errors import EdgekitError
from edgekit.experiment import Experiment
from edgekit.export.convert import to_float32
from edgekit.export.front_end import settings_of
from edgekit.export.training.file import check_trainable
from edgekit.models.spiking import SpikingNet
from edgekit.neuromorphic.trace import trace
from edgekit.registry import MODELS

Notice = Callable[[str], None]
NEEDED = {
    "export": ("tflite", (".tflite files are", "litert_torch", "litert_quantizer", "ai_edge_litert")),
    "spiking": ("spiking", ("spiking form is", "numba", "nir", "snntorch", "h5py")),
}
"""Stages that need an extra: its name, what is not made without it, and packages of it."""


def lacking(experiment: Experiment, notice: Notice) -> dict[str, str]:
    """Return which stages that an experiment asks for are left out, and why: their packages are not installed.

    Args:
        experiment: resolved.
        notice: told the same.
    """
    export, found = experiment.export, {}
    wanted = {
        "export": bool(export.presets) or export.training or export.front_end,
        "spiking": bool(experiment.spiking.enabled),
    }
    for stage, (extra, (what, *packages)) in NEEDED.items():
        if wanted[stage] and any(find_spec(package) is None for package in packages):
            found[stage] = f"no {what} made: install what that needs with pip install 'edgekit[{extra}]'"
            notice(found[stage])
    return found


def check_forms(model: nn.Module, dataset: FederatedDataset, experiment: Experiment, *, files: bool) -> None:
    """See, before hours of training, that a module of the user's can be delivered in the forms asked for.

    Args:
        model, dataset, experiment: of the run.
        files: whether .tflite files will be made.

    Raises:
        ExportError, ConversionError: it cannot; the layer is named.
    """
    if experiment.export.front_end:
        settings_of(dict(dataset.normalisation))
    if experiment.model.name in MODELS:
        made = MODELS.load(experiment.model.name)
        if isinstance(made, type) and isinstance(model, made):
            return
    if not files:
        return
    if experiment.export.presets:
        try:
            to_float32(model, dataset.shape)
        except EdgekitError as error:
            raise type(error)(f"{error}; or set export.presets = []") from error
    if experiment.export.training:
        try:
            check_trainable(model, dataset.shape)
        except EdgekitError as error:
            raise type(error)(f"{error}; or set export.training = false") from error


def has_spiking_form(model: nn.Module, dataset: FederatedDataset, experiment: Experiment, notice: Notice) -> bool:
    """Whether there is to be a spiking form; with `auto` it is said here if the network has none.

    Raises:
        ConversionError: it has none, and the experiment asks for it; the layer is named.
    """
    wanted = experiment.spiking.enabled
    if wanted and not (dataset.objective.of_classes and dataset.calibration.y.ndim == 1):
        what = "soft labels" if dataset.objective.of_classes else dataset.objective.name
        notice(f"no spiking form is made: spikes answer with classes, not with {what}")
        return False
    if not wanted or isinstance(model, SpikingNet):
        return bool(wanted)
    try:
        trace(model, dataset.shape, torch.from_numpy(dataset.calibration.x))
    except EdgekitError as error:
        if wanted is True:
            raise type(error)(f"{error}; or set spiking.enabled = false") from error
        notice(f"no spiking form is made: {error}")
        return False
    return True
