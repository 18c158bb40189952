"""Several runs beside each other: what each reached, what it spent, and where their experiments differ."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgekit import experiment as experiments
from edgekit.errors import EdgekitError, RunFolderError, UsageError
from edgekit.runfolder import RunFolder, measure_of, read_lines, score_of

MOST_EARLIER = 6
DEEPEST = 3
"""Folders below a place that are looked through for runs."""
UNFINISHED, FINISHED, INTERRUPTED, FAILED, BROKEN = "unfinished", "finished", "interrupted", "failed", "broken"


@dataclass(frozen=True)
class Summary:
    """One run in a line.

    Attributes:
        path: of its folder.
        name: of its experiment.
        state: `finished`, `interrupted`, `failed` (a stage did), `unfinished` or `broken`.
        problem: what failed, or is broken; "" otherwise.
        measure: by which its network is judged.
        score: by that; None before the end.
        rounds: finished.
        seconds: it took; None before the end.
        parameters: of its network.
        epsilon: spent; None without privacy.
        bytes: sent and received by all clients together.
        model, data: their names.
        settings: all keys of its experiment, as `training.learning_rate`.
        curve: the measure by round, where it was measured.
    """

    path: str
    name: str
    state: str
    problem: str = ""
    measure: str = "accuracy"
    score: float | None = None
    rounds: int = 0
    seconds: float | None = None
    parameters: int | None = None
    epsilon: float | None = None
    bytes: int = 0
    model: str = ""
    data: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    curve: Sequence[tuple[int, float]] = ()

    @property
    def outcome(self) -> str:
        """What it reached, or why it reached nothing, in words."""
        return self.problem or self.state if self.score is None else f"{self.measure} {self.score:.4f}"

    def facts(self) -> dict[str, Any]:
        """Return it as JSON holds it, without settings and curve."""
        return {key: value for key, value in asdict(self).items() if key not in ("settings", "curve")}


@dataclass(frozen=True)
class Comparison:
    """Runs beside each other.

    Attributes:
        runs: in the order they were given.
        differences: of each key that is not the same everywhere, its value in each run; None where it has none.
        notes: what keeps them from being compared.
    """

    runs: tuple[Summary, ...]
    differences: Mapping[str, tuple[Any, ...]]
    notes: tuple[str, ...]

    @property
    def measure(self) -> str:
        """What all runs are judged by; "" where that differs."""
        found = {run.measure for run in self.runs}
        return found.pop() if len(found) == 1 else ""


def summary(path: Path) -> Summary:
    """Return a run in a line, whatever became of it.

    Raises:
        UsageError: this is no run folder.
    """
    folder = RunFolder.open(path)
    try:
        return _summary(folder)
    except (EdgekitError, KeyError, TypeError, ValueError, AttributeError) as error:
        told = (
            str(error) if isinstance(error, EdgekitError) else "result.json or metrics.jsonl is not as edgekit wrote it"
        )
        return Summary(str(path), path.name, BROKEN, " ".join(told.split()))


def _summary(folder: RunFolder) -> Summary:
    experiment = experiments.load(folder.experiment)
    lines = [line for line in read_lines(folder.metrics) if isinstance(line, dict)]
    measure = str(lines[-1].get("measure", "accuracy")) if lines else "accuracy"
    facts: dict[str, Any] = {"state": UNFINISHED, "rounds": len(lines)}
    if folder.result.exists():
        result = folder.read_result()
        measure, score = measure_of(result)
        failed = result.get("failed", {})
        state = INTERRUPTED if result["interrupted"] else FAILED if failed else FINISHED
        facts = {
            "state": state,
            "problem": "; ".join(f"{stage}: {why}" for stage, why in failed.items()),
            "score": None if score is None else float(score),
            "rounds": int(result["rounds"]),
            "seconds": float(result["seconds"]),
            "parameters": int(result["parameters"]),
        }
    scores = [(int(line["round"]), score_of(line)) for line in lines]
    return Summary(
        path=str(folder.path),
        name=experiment.name,
        measure=measure,
        epsilon=lines[-1]["epsilon"] if lines else None,
        bytes=sum(line["bytes_up"] + line["bytes_down"] for line in lines),
        model=experiment.model.name,
        data=experiment.data.source,
        settings=experiments.flat(experiment.model_dump()),
        curve=tuple((number, float(score)) for number, score in scores if score is not None),
        **facts,
    )


def find(place: Path) -> list[Summary]:
    """Return the runs below a folder, by their paths.

    Raises:
        UsageError: there is no such folder.
    """
    if not place.is_dir():
        raise UsageError(f"{place} is not a folder: give one with runs, or a run")
    return [summary(path) for path in _runs(place, DEEPEST)]


def _runs(place: Path, deepest: int) -> list[Path]:
    if (place / "experiment.toml").is_file():
        return [place]
    if not deepest:
        return []
    try:
        inside = sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []
    return [run for path in inside for run in _runs(path, deepest - 1)]


def compare(paths: Sequence[Path]) -> Comparison:
    """Return runs beside each other.

    Raises:
        UsageError: there are fewer than two, or one is no run folder.
    """
    places = [run for path in paths for run in (_runs(path, DEEPEST) or [path])]
    if len(places) < 2:
        raise UsageError("give two runs or more to compare, or a folder that holds them")
    runs = tuple(summary(path) for path in places)
    whole = [run for run in runs if run.settings]
    keys = sorted({key for run in whole for key in run.settings})
    differences = {}
    for key in keys:
        values = tuple(run.settings.get(key) for run in runs)
        if any(value != values[0] for value in values):
            differences[key] = values
    notes = [
        f"{run.path} is {run.state}: {run.problem or 'it has no figures yet'}" for run in runs if run.score is None
    ]
    if len(found := sorted({run.measure for run in runs if run.score is not None})) > 1:
        notes.append(f"their figures do not compare: they are {' and '.join(found)}")
    sources = {run.data for run in whole}
    if len(sources) > 1 and len(found) == 1:
        notes.append(f"they were measured on other data: {', '.join(sorted(sources))}")
    return Comparison(runs, differences, tuple(notes))


def earlier(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the latest runs of the same experiment's name that lie beside a run, for its report.

    Each is told by its `path`, `score`, `measure`, the keys that differ as `differs`, and the place of its `report`.
    """
    own = experiments.load(folder.experiment)
    settings = experiments.flat(own.model_dump())
    beside = folder.path.absolute().parent
    places = [path for path in beside.glob(f"{own.name}*") if (path / "result.json").is_file()]
    places = sorted(places, key=lambda path: path.stat().st_mtime, reverse=True)[:MOST_EARLIER]
    found = []
    for path in places:
        if path == folder.path.absolute() or (one := summary(path)).state != FINISHED or one.name != own.name:
            continue
        differs = [f"{key} = {value}" for key, value in one.settings.items() if settings.get(key) != value]
        report = f"../{path.name}/report.html" if (path / "report.html").is_file() else ""
        found.append(
            {"path": path.name, "measure": one.measure, "score": one.score, "differs": differs, "report": report}
        )
    return found


def write_page(path: Path, title: str, found: Comparison, settings: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write a comparison as a page; of a sweep with its settings, the best first."""
    from edgekit.report import write_comparison  # lists of runs answer without what draws

    facts, curves = [run.facts() for run in found.runs], [run.curve for run in found.runs]
    write_comparison(path, title, facts, curves, found.differences, found.notes, settings)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation (of a sample; 0 of one value)."""
    if not values:
        raise RunFolderError("nothing to take the mean of")
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
