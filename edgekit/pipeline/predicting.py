"""Using a trained network: its answers for new examples, and how good it is on labelled ones."""

import csv
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Required, TypedDict, cast

import numpy as np

from edgekit.arrays import Array
from edgekit.data.federated import Examples
from edgekit.data.objects import loaded
from edgekit.data.sources import load_own, own_of, source_for
from edgekit.data.unlabelled import of_object, read
from edgekit.errors import DataError, UsageError
from edgekit.objectives.cross_entropy import chances_of
from edgekit.objectives.figures import calibration, confusion
from edgekit.pipeline.trained import AT_ONCE, Trained, open_trained
from edgekit.runfolder import RunFolder, write_whole

ALONE_TIMES, ALONE_SECONDS = 30, 0.3
"""Answers for one example by itself that latency is measured by, as long as they take no longer together."""
FORMATS = (".csv", ".json", ".jsonl")


@dataclass(frozen=True)
class Predictions:
    """A network's answers.

    Attributes:
        rows: an example each: its `name`, and what the objective says of it: `class` and `score`, numbers, labels.
        notes: lines for people.
        how: in words: what computed them.
        seconds: that it took, reading included.
        latency_us: median microseconds of an example by itself; None where that was not measured.
    """

    rows: list[dict[str, Any]]
    notes: tuple[str, ...]
    how: str
    seconds: float
    latency_us: float | None


def predict(path: Path, given: Any, top: int = 1) -> Predictions:
    """Return a network's answers.

    Args:
        path: a run folder, a .tflite or a loihi.npz.
        given: what to use it on: a file or folder (`edgekit.data.unlabelled.KINDS`), an array or a table.
        top: classes to name an example.

    Raises:
        EdgekitError: either cannot be used.
    """
    return answers_of(open_trained(path), given, top)


def answers_of(trained: Trained, given: Any, top: int) -> Predictions:
    """Return an open network's answers; errors as of `predict`."""
    begun = time.perf_counter()
    reads = read if isinstance(given, str | Path) else of_object
    examples = reads(Path(given) if isinstance(given, str) else given, trained.inputs, trained.data)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(examples.names), AT_ONCE):
        names = examples.names[start : start + AT_ONCE]
        x = examples.load(np.arange(start, start + len(names), dtype=np.int64))
        found = rows_of(trained, x, trained.scores(x), top)
        rows += [{"name": name, **row} for name, row in zip(names, found, strict=True)]
    if rows and not trained.latency:
        trained.latency.extend(_alone(trained, x[:1]))
    latency = float(np.median(trained.latency)) if trained.latency else None
    return Predictions(rows, examples.notes, trained.how, time.perf_counter() - begun, latency)


def _alone(trained: Trained, x: Array) -> list[float]:
    """Return microseconds of some answers for one example by itself."""
    found: list[float] = []
    until = time.perf_counter() + ALONE_SECONDS
    while len(found) < ALONE_TIMES and (not found or time.perf_counter() < until):
        begun = time.perf_counter()
        trained.scores(x)
        found.append(1e6 * (time.perf_counter() - begun))
    return found


def rows_of(trained: Trained, x: Array, scores: Array, top: int = 1) -> list[dict[str, Any]]:
    """Return what scores say of each example."""
    if trained.unit == "voltage":
        best = scores.argmax(1)
        named = zip(best, scores, strict=True)
        return [{"class": trained.inputs.classes[at], trained.unit: int(row[at])} for at, row in named]
    return trained.objective.answers(scores, x, trained.inputs.classes, trained.decided, top)


def write(found: Predictions, out: Path) -> None:
    """Write answers as .csv, .json or .jsonl, whole or not at all.

    Raises:
        UsageError: another ending.
        RunFolderError: it cannot be written.
    """
    check_out(out)
    if out.suffix == ".json":
        text = json.dumps(found.rows, indent=1) + "\n"
    elif out.suffix == ".jsonl":
        text = "".join(json.dumps(row) + "\n" for row in found.rows)
    else:
        held = io.StringIO()
        writer = csv.DictWriter(held, list(found.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found.rows)
        text = held.getvalue()
    write_whole(out, text)


def check_out(out: Path) -> None:
    """See that answers can be written under this name, before any work.

    Raises:
        UsageError: they cannot.
    """
    if out.suffix not in FORMATS:
        raise UsageError(f"--out {out}: give a name that ends in {', '.join(FORMATS)}")


class Evaluation(TypedDict, total=False):
    """How good a network is; the objective's other metrics stand beside, by their names.

    `measure` names the one that counts; `how` the network was run; `by_class` has recall, precision and examples of
    each class, `by_group` the measure of each owner; `confusion[i][j]` says how often class i was taken for j.
    """

    examples: Required[int]
    how: Required[str]
    measure: Required[str]
    accuracy: float
    by_class: dict[str, dict[str, float | None]]
    by_group: dict[str, dict[str, float]]
    confusion: list[list[int]]
    calibration: dict[str, Any]


def evaluate(path: Path, source: Any) -> Evaluation:
    """Return how good a network is on labelled examples.

    Args:
        path: a run folder, a .tflite or a loihi.npz.
        source: as an experiment's `data.source`, a file's or folder's name, or an object as of
            `edgekit.data.objects`; "" is a run's own test set.

    Returns:
        `examples`, the objective's metrics, and of classes `by_class`, `confusion`, `calibration`; `by_group` where the
        data names owners.

    Raises:
        EdgekitError: either cannot be used, or the data has labels that the network does not know.
    """
    trained = open_trained(path)
    examples, groups = labelled(path, trained, source)
    return cast(Evaluation, figures(trained, examples, groups))


def labelled(path: Path, trained: Trained, source: Any) -> tuple[Examples, Array | None]:
    """Return labelled examples as a network takes them, and who owns each; errors as of `evaluate`."""
    if isinstance(source, str) and not source:
        if not path.is_dir():
            raise UsageError(f"say what to evaluate {path} on: a file or folder with labels")
        from edgekit import experiment as experiments
        from edgekit.pipeline.subjects import load_dataset

        return load_dataset(experiments.load(RunFolder.open(path).experiment)).test, None
    data = trained.inputs.settings(trained.data)
    if isinstance(source, str | Path):
        source = source_for(str(source))
        data = data.model_copy(update={"source": source})
        examples, groups = load_own(data, trained.inputs.classes, trained.objective)
    else:
        held, source = source, "the data"
        given = loaded(held, source, data)
        classes = trained.inputs.classes
        examples, groups = own_of(given, source, classes, trained.objective, by_place=True)
    if list(examples.x.shape[1:]) != trained.inputs.shape:
        shapes = f"{tuple(examples.x.shape[1:])}; the network takes {tuple(trained.inputs.shape)}"
        raise DataError(f"{source} holds examples of {shapes}")
    if problem := trained.objective.problem_with(examples.y, len(trained.inputs.classes)):
        raise DataError(f"{source} {problem}")
    return examples, groups


def figures(trained: Trained, examples: Examples, groups: Array | None) -> dict[str, Any]:
    """Return how good a network is: see `evaluate`."""
    begun = time.perf_counter()
    scores = np.concatenate([trained.scores(part) for part in _parts(examples.x)])
    objective = trained.objective
    found = objective.figures(scores, examples.y, examples.x)
    result: dict[str, Any] = {"examples": len(examples), "how": trained.how, "measure": found.measure, **found.metrics}
    result |= objective.judged(trained.decided, scores, examples.y, examples.x)
    if objective.of_classes:
        labels = examples.y if examples.y.ndim == 1 else examples.y.argmax(1)
        answers = np.asarray(objective.answer(scores)).argmax(1)
        result |= _by_class(answers, labels, trained.inputs.classes)
        if trained.unit == "score":
            result["calibration"] = calibration(chances_of(objective.answer(scores)), labels)
    if groups is not None:
        result["by_group"] = {
            str(name): {
                "examples": int((groups == name).sum()),
                found.measure: objective.figures(
                    scores[groups == name], examples.y[groups == name], examples.x[groups == name]
                ).score,
            }
            for name in np.unique(groups)
        }
    return {**result, "seconds": round(time.perf_counter() - begun, 3)}


def _parts(x: Array) -> Iterator[Array]:
    for start in range(0, len(x), AT_ONCE):
        yield x[start : start + AT_ONCE]


def _by_class(answers: Array, labels: Array, classes: list[str]) -> dict[str, Any]:
    counts = confusion(labels, answers, len(classes))
    rows = {}
    for place, name in enumerate(classes):
        there, named, right = counts[place].sum(), counts[:, place].sum(), counts[place, place]
        rows[name] = {
            "examples": int(there),
            "recall": float(right / there) if there else None,
            "precision": float(right / named) if named else None,
        }
    return {"by_class": rows, "confusion": counts.tolist()}
