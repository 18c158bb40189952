"""The export stage, in a run and after it, and for modules that were never part of one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit import experiment as experiments
from edgekit.algorithms import make
from edgekit.data import FederatedDataset
from edgekit.errors import EdgekitError, UsageError
from edgekit.experiment import Experiment
from edgekit.export import cache
from edgekit.export.exits import has_exits, write_exits
from edgekit.export.front_end import write_sound
from edgekit.export.runtimes import with_signatures
from edgekit.export.streaming import write_stream
from edgekit.export.tflite import Exported, Subject, export
from edgekit.export.training.file import training_file
from edgekit.export.training.steps import Options
from edgekit.models.sequence import SequenceNetwork
from edgekit.pipeline.subjects import load_module, load_run, read_examples
from edgekit.report import renew_tflite
from edgekit.runfolder import RunFolder, measure_of, write_whole
from edgekit.server.engines.graphs import options_of
from edgekit.version import __version__

RANDOM_EXAMPLES = 64
Notice = Callable[[str], None]


def write_files(
    model: nn.Module,
    dataset: FederatedDataset,
    experiment: Experiment,
    folder: RunFolder,
    result: dict[str, Any],
    presets: Sequence[str],
    training: bool,
    notice: Notice,
    private: bool = True,
    place: Path | None = None,
) -> None:
    """Write a run's `export/PRESET.tflite` and `export/training.tflite`, each checked, and their facts into `result`.

    Args:
        model: the trained network.
        dataset: the run's.
        experiment: the run's.
        folder: the run folder.
        result: what result.json holds; its `tflite` and `training_graph` are set.
        presets: number formats.
        training: whether to write the training graph.
        notice: told what was made.
        private: whether the training graph has a private step.
        place: where the files go; None is the run's `export`.

    Raises:
        ExportError: a file cannot be made, or failed its check; the others are there.
    """
    place = place or folder.export
    subject = Subject.of(model, dataset)
    card = {
        "edgekit": __version__,
        "name": experiment.name,
        "model": experiment.model.name,
        "data": dataset.description,
        "privacy": result["privacy_statement"],
        "licence": experiment.export.licence or "not stated",
        "objective": subject.objective.chosen.model_dump(),
        "decision": result.get("decision", {}),
    }
    settings = experiment.export
    many = with_signatures(settings.runtimes)  # for files with signatures
    done: dict[str, Exported] = {}
    failures: list[EdgekitError] = []
    result.setdefault("tflite", {})
    for line in getattr(model, "remarks", lambda x: [])(torch.from_numpy(dataset.calibration.x)):
        notice(line)
    for preset in presets:
        try:
            with cache.telling(notice):
                done |= export(
                    subject,
                    [preset],
                    place,
                    card,
                    settings.tolerance,
                    settings.runtimes,
                    settings.percentile,
                    settings.equalise,
                    notice,
                )
            if "presets" not in settings.model_fields_set and (larger := _larger(done, preset, subject)):
                done.pop(preset).path.unlink()
                notice(larger)
                continue
            result["tflite"][preset] = done[preset].facts(folder.path)
        except EdgekitError as error:  # the others are still worth having
            failures.append(error)
    for line in table(done, subject.objective.measure):
        notice(line)
    if presets and has_exits(model):
        try:
            notice("making the file of early exits")
            result["exits"] = write_exits(
                model,
                dataset.shape,
                dataset.test,
                dataset.calibration,
                place,
                card,
                many,
                "int8" in presets,
            )
            notice(_of_exits("exits.tflite", result["exits"]))
            if "int8" in result["exits"]:
                notice(_of_exits("exits-int8.tflite", result["exits"]["int8"]))
        except EdgekitError as error:
            failures.append(error)
    if presets and isinstance(model, SequenceNetwork):
        try:
            notice("making the file that takes a frame at a time")
            result["stream"] = write_stream(model, dataset.test, place, card, many)
            notice(_of_stream(result["stream"]))
        except EdgekitError as error:
            failures.append(error)
    if settings.front_end:
        try:
            notice("making the file that takes sound")
            facts = write_sound(
                model,
                dict(dataset.normalisation),
                list(dataset.classes),
                place,
                card,
                many,
            )
            result["sound"] = facts
            notice(
                f"sound.tflite: {facts['bytes']:,} bytes, takes {facts['samples']:,} samples; its features differ from "
                f"numpy's by {facts['max_feature_error']:.0e}"
            )
        except EdgekitError as error:
            failures.append(error)
    for failure in failures[1:]:
        notice(str(failure))
    if training:
        notice("making the training graph")
        method = make(experiment.federation)
        options = options_of(experiment, proximal=method.proximal, drift=method.drifts, private=private)
        card |= dict([measure_of(result)])
        facts = _write_training(subject, options, card, many, place, folder.path, notice)
        result["training_graph"] = {**facts, "batch": options.batch, "clip": options.clip}
    if failures:
        raise failures[0]


def _larger(done: dict[str, Exported], preset: str, subject: Subject) -> str:
    """Return a line where a file of a default preset is no smaller than float32's, "" otherwise."""
    whole = done["float32"].bytes if "float32" in done else len(subject.float32)
    if preset == "float32" or done[preset].bytes < whole:
        return ""
    return (
        f"{preset}.tflite is left out: with {done[preset].bytes:,} bytes it is no smaller than float32's {whole:,}; "
        f'export.presets = ["{preset}"] asks for it all the same'
    )


def _of_exits(file: str, facts: dict[str, Any]) -> str:
    whole = facts["macs"][-1]
    left = ", ".join(f"{100 * share:.0f} %" for share in facts["shares"])
    return (
        f"{file}: accuracy {facts['accuracy']:.4f} with {facts['mean_macs']:,} multiply-adds of {whole:,} on "
        f"average; {left} leave at each exit"
    )


def _of_stream(facts: dict[str, Any]) -> str:
    latency = ", ".join(f"{us:.1f} us in {name}" for name, us in facts["latency_us"].items())
    return (
        f"stream.tflite: {facts['frames']} frames of {facts['frame']} numbers, a state of {facts['state']}, a frame "
        f"takes {latency}; scores differ from torch's by {facts['max_error']:.0e}"
    )


def _write_training(
    subject: Subject,
    options: Options,
    card: dict[str, Any],
    runtimes: Sequence[str],
    folder: Path,
    beside: Path,
    notice: Notice,
) -> dict[str, Any]:
    """Write `folder/training.tflite`; return its facts, the path relative to `beside`."""
    classes = len(subject.classes)
    with cache.telling(notice):
        content, difference = training_file(subject.model, subject.shape, classes, options, card, runtimes)
    path = folder / "training.tflite"
    write_whole(path, content)
    notice(f"training.tflite: {len(content):,} bytes, its steps differ from torch's by {difference:.0e}")
    return {"path": str(path.relative_to(beside)), "bytes": len(content), "max_error": difference}


def export_run(
    path: Path,
    presets: Sequence[str],
    training: bool,
    runtimes: Sequence[str],
    batch: int | None,
    private: bool,
    licence: str,
    notice: Notice,
) -> dict[str, Any]:
    """Export a finished run's network again; result.json and the report are brought up to date.

    Args:
        path: the run folder.
        presets: number formats; none are the experiment's.
        training: whether to write the training graph.
        runtimes: to check in; none are the experiment's.
        batch: of the training graph; None is the experiment's.
        private: whether the training graph has a private step.
        licence: of the model; none is the experiment's.
        notice: told what was made.

    Returns:
        What result.json holds of it.

    Raises:
        EdgekitError: this is no finished run, or a file cannot be made, or failed its check.
    """
    folder = RunFolder.open(path)
    experiment = experiments.load(folder.experiment)
    changed: dict[str, Any] = {}
    if runtimes:
        changed["runtimes"] = list(runtimes)
    if batch:
        changed["training_batch"] = batch
    if licence:
        changed["licence"] = licence
    if presets:
        changed["presets"] = list(presets)  # asked for, however large they are
    experiment = experiment.model_copy(update={"export": experiment.export.model_copy(update=changed)})
    if not presets and not training:
        presets = experiment.export.presets
    result = folder.read_result()
    model, dataset = load_run(folder, experiment)
    if not presets and not training:
        raise UsageError(f"the experiment of {path} has no export.presets: say which, as --preset float32")
    measure, value = measure_of(result)
    notice(f"{experiment.model.name} of {folder.path}, {measure} {value:.4f}")
    try:
        write_files(model, dataset, experiment, folder, result, presets, training, notice, private)
    finally:
        folder.write_json(folder.result, result)
        renew_tflite(folder, result)
    return {name: result[name] for name in ("tflite", "training_graph") if name in result}


def export_module(
    model_path: str,
    arguments: dict[str, Any],
    weights: Path | None,
    sample: Sequence[int],
    calibration: Path | None,
    presets: Sequence[str],
    runtimes: Sequence[str],
    options: Options | None,
    tolerance: float,
    folder: Path,
    name: str,
    licence: str,
    notice: Notice,
) -> dict[str, Any]:
    """Export a user's own torch module, without a run.

    Args:
        model_path: `package.module:Class`.
        arguments: of the class.
        weights: its state, .safetensors or torch's .pt; None keeps what the class starts with.
        sample: shape of an input, the batch of 1 first: (1, ...).
        calibration: .npz with `x` (examples, ...) and perhaps `y`, or .npy of `x`; needed for int8 and int8-full.
        presets: number formats.
        runtimes: to check in.
        options: of the training graph; None makes none.
        tolerance: share of the network's own answers that a file may change.
        folder: where the files go.
        name: of the model, for its card.
        licence: of the model, for its card.
        notice: told what was made.

    Raises:
        EdgekitError: the module, its weights or the calibration data cannot be used, or a file failed its check.
    """
    shape = tuple(sample[1:])
    x, y = (None, None) if calibration is None else read_examples("--calibration", calibration, shape)
    test = x if x is not None else np.random.default_rng(0).standard_normal((RANDOM_EXAMPLES, *shape), np.float32)
    model = load_module(model_path, arguments, weights, torch.from_numpy(test[:2]))
    with torch.no_grad():
        scores = model(torch.from_numpy(test[:2]))
    classes = [str(number) for number in range(scores.shape[1])]
    subject = Subject(model, shape, test, y, x, classes, None, "--tolerance")
    card = {"edgekit": __version__, "name": name, "model": model_path, "licence": licence or "not stated"}
    card |= {"data": "not stated", "privacy": "not stated"}
    card["measured"] = f"{subject.measure} on {len(test)} {'random' if x is None else 'calibration'} examples"
    result: dict[str, Any] = {"measured": card["measured"], "tflite": {}}
    with cache.telling(notice):
        done = export(subject, presets, folder, card, tolerance, runtimes, on_notice=notice) if presets else {}
    for preset, file in done.items():
        result["tflite"][preset] = file.facts(folder)
    for line in table(done, subject.measure):
        notice(line)
    if options is not None:
        many = with_signatures(runtimes)
        result["training_graph"] = _write_training(subject, options, card, many, folder, folder, notice)
    return result


def table(done: dict[str, Exported], measure: str = "accuracy") -> list[str]:
    """Return what was measured as lines of a table: a row for each file and runtime."""
    if not done:
        return []
    rows = [("file", "bytes", "runtime", measure, "max error", "median us")]
    for preset, file in done.items():
        for runtime, accuracy in file.runtimes.items():
            rows.append(
                (
                    f"{preset}.tflite",
                    f"{file.bytes:,}",
                    runtime,
                    f"{accuracy:.4f}",
                    f"{100 * file.max_relative_error:.2g} %",
                    f"{file.latency_us[runtime].median:.1f}",
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = (0, 2)
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
