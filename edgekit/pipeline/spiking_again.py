"""The spiking form made again: of a run, of a `.nir` file, or of a module that was never part of a run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit import experiment as experiments
from edgekit.data import Examples, FederatedDataset
from edgekit.errors import ConversionError, RunFolderError, UsageError
from edgekit.experiment import Experiment
from edgekit.neuromorphic import LoihiNetwork, SpikingNetwork, loihi
from edgekit.neuromorphic.nir import read_nir
from edgekit.neuromorphic.settings import Spiking
from edgekit.pipeline.spiking import Notice, SpikingResult, Subject, drawn, make_spiking, measure, of_model
from edgekit.pipeline.subjects import load_module, load_run, read_examples
from edgekit.report import renew_spiking
from edgekit.runfolder import RunFolder

CALIBRATION_SHARE = 4
"""Of a user's own examples, one in so many is for calibration."""


def spike_run(path: Path, changes: dict[str, Any], notice: Notice) -> dict[str, Any]:
    """Make the spiking form of a finished run again; its files, result.json and report are brought up to date.

    Args:
        path: the run folder.
        changes: of the [spiking] section.
        notice: told what was found.

    Raises:
        EdgekitError: this is no finished run, or its network has no spiking form.
    """
    folder, experiment, model, dataset = open_run(path, changes)
    result = folder.read_result()
    found = make_spiking(model, dataset, experiment, folder)
    result["spiking"] = found.facts
    result.get("failed", {}).pop("spiking", None)
    if not result.get("failed"):
        result.pop("failed", None)
    folder.write_json(folder.result, result)
    renew_spiking(folder, result, dataset.classes, found.sample)
    for line in found.notices:
        notice(line)
    return found.facts


def open_run(
    path: Path, changes: dict[str, Any] | None = None
) -> tuple[RunFolder, Experiment, nn.Module, FederatedDataset]:
    """Return a finished run's folder, experiment (with changes of its [spiking] section), network and data."""
    folder = RunFolder.open(path)
    experiment = experiments.load(folder.experiment, _overrides(changes or {}))
    model, dataset = load_run(folder, experiment)
    return folder, experiment, model, dataset


def stored_network(folder: RunFolder) -> LoihiNetwork:
    """Return a run's integer network.

    Raises:
        RunFolderError: it has none, or one that cannot be read.
    """
    stored = folder.spiking / "loihi.npz"
    remedy = f"edgekit spike run {folder.path}"
    if not stored.exists():
        raise RunFolderError(f"{folder.path} holds no spiking network yet: make it with {remedy}")
    try:
        return loihi.load(stored)
    except ConversionError as error:
        raise RunFolderError(f"{error}; make it anew with {remedy}") from None


def spike_file(
    path: Path, data: Path, changes: dict[str, Any], out: Path, step_seconds: float | None, notice: Notice
) -> dict[str, Any]:
    """Make the integers of a .nir file, with a user's examples; the files go into `out`.

    Args:
        path: the .nir file.
        data: .npz of `x` and `y`.
        changes: of the [spiking] section.
        out: the folder.
        step_seconds: length of a step in the file; None is NIR's usual.
        notice: told what was found.
    """
    if step_seconds is not None and not 0 < step_seconds < np.inf:
        raise UsageError(f"--step-seconds {step_seconds:g}: give a length above 0")
    given = {} if step_seconds is None else {"step_seconds": step_seconds}
    read = read_nir(path, **given)
    x, y = _labelled(data)
    calibration, test = _divided(x, y)
    settings = _settings(changes)
    if not read.input_bits:
        read = _coded(read, x, settings)
    leading = 2 if read.coding == "frames" else 1
    if int(np.prod(x.shape[leading:])) != int(np.prod(read.input_shape)) or x.ndim <= leading:
        raise UsageError(f"--data {data} holds examples of {x.shape[1:]}; {path.name} takes {read.input_shape} a step")
    _require_classes(data, y, len(read.classes), path.name)
    subject = Subject(read, list(read.classes), calibration, test)
    return _write(measure(subject, settings, 0, out), notice)


def _coded(read: SpikingNetwork, x: Any, settings: Spiking) -> SpikingNetwork:
    """Choose codes for a file that states none: whole numbers as they are, others in `spiking.input_bits`."""
    coding: Any = "frames" if x.ndim == len(read.input_shape) + 2 else settings.coding
    low, high = float(x.min()), float(x.max())
    if low >= 0 and high < 64 and np.array_equal(x, np.rint(x)):
        return replace(read, coding=coding, input_low=0.0, input_step=1.0, input_bits=max(1, int(high).bit_length()))
    step = (high - low) / (2**settings.input_bits - 1)
    return replace(read, coding=coding, input_low=low, input_step=step or 1.0, input_bits=settings.input_bits)


def spike_module(
    model_path: str,
    arguments: dict[str, Any],
    weights: Path | None,
    data: Path,
    changes: dict[str, Any],
    out: Path,
    notice: Notice,
) -> dict[str, Any]:
    """Make the spiking form of a user's torch module, with their examples; the files go into `out`.

    Args:
        model_path: `package.module:Class`.
        arguments: of the class.
        weights: its state; None keeps what the class starts with.
        data: .npz of `x` and `y`.
        changes: of the [spiking] section.
        out: the folder.
        notice: told what was found.
    """
    x, y = _labelled(data)
    model = load_module(model_path, arguments, weights, torch.from_numpy(x[:2]))
    with torch.no_grad():
        count = model(torch.from_numpy(x[:2])).shape[1]
    calibration, test = _divided(x, y)
    settings = _settings(changes)
    _require_classes(data, y, count, model_path)
    subject = of_model(model, calibration, test, [str(number) for number in range(count)], settings, 0)
    return _write(measure(subject, settings, 0, out), notice)


def _write(found: SpikingResult, notice: Notice) -> dict[str, Any]:
    for line in found.notices:
        notice(line)
    return found.facts


def _settings(changes: dict[str, Any]) -> Spiking:
    return experiments.load(None, _overrides(changes)).spiking


def _overrides(changes: dict[str, Any]) -> list[str]:
    return [f"spiking.{key}={value}" for key, value in changes.items()]


def _labelled(data: Path) -> tuple[Any, Any]:
    x, y = read_examples("--data", data, None)
    if y is None:
        raise UsageError(f"--data {data}: give an .npz with x and y, the class numbers")
    if len(x) < 2 * CALIBRATION_SHARE:
        raise UsageError(f"--data {data} has {len(x)} examples; give at least {2 * CALIBRATION_SHARE}")
    return x, y.astype(np.int64)


def _require_classes(data: Path, y: Any, count: int, what: str) -> None:
    if int(y.max()) >= count:
        raise UsageError(f"--data {data} has the class {int(y.max())}; {what} gives {count} scores")


def _divided(x: Any, y: Any) -> tuple[Examples, Examples]:
    """Divide a user's examples into those for calibration and those for the test."""
    held = np.arange(len(x)) % CALIBRATION_SHARE == 0
    return Examples(x[held], y[held]), drawn(Examples(x[~held], y[~held]), 0)
