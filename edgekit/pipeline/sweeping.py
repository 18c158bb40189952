"""Many runs of one experiment: a grid of settings, each a run of its own process; resumable, failures kept apart."""

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit import experiment as experiments
from edgekit.errors import RunFolderError, UsageError
from edgekit.experiment import Experiment
from edgekit.pipeline.comparing import BROKEN, FAILED, FINISHED, Summary, spread, summary
from edgekit.runfolder import locked, write_whole

MOST = 10_000
"""Runs of a sweep."""
GRID, BASE = "sweep.json", "sweep.toml"
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
OUTSIDE_BRACKETS = re.compile(r",(?![^\[{]*[\]}])")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        folder: of the run.
        settings: of the grid, as texts by key.
    """

    folder: Path
    settings: Mapping[str, str]

    @property
    def overrides(self) -> list[str]:
        """Its settings, as an experiment's overrides."""
        return [f"{key}={value}" for key, value in self.settings.items()]

    @property
    def label(self) -> str:
        """Its settings in a line."""
        return " ".join(self.overrides)


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder: `sweep.toml`, what all runs share; `sweep.json`, the grid; a folder a run.

    Attributes:
        path: of the folder.
        grid: values, as texts, by key.
    """

    path: Path
    grid: Mapping[str, tuple[str, ...]]

    @property
    def cells(self) -> list[Cell]:
        """All runs, in the grid's order."""
        whole = itertools.product(*self.grid.values())
        return [
            Cell(self.path / f"{number:04d}", dict(zip(self.grid, values, strict=True)))
            for number, values in enumerate(whole, 1)
        ]


def grid_of(overrides: Sequence[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return the values of keys with several, and the overrides with one.

    Args:
        overrides: `key=a,b,c`, `key=0..4` or `key=value`.

    Raises:
        UsageError: one is none of these, or there are too many runs.
    """
    grid: dict[str, tuple[str, ...]] = {}
    single = []
    for override in overrides:
        key, _, text = override.partition("=")
        if found := _RANGE.fullmatch(text.strip()):
            low, high = int(found[1]), int(found[2])
            if high < low or high - low >= MOST:
                raise UsageError(f"{override}: give a range that rises, as seed=0..4")
            values = [str(number) for number in range(low, high + 1)]
        else:
            values = [one.strip() for one in OUTSIDE_BRACKETS.split(text)]
        if "" in values and len(values) > 1:
            raise UsageError(f"{override}: a value between commas is missing")
        if len(set(values)) < len(values):
            raise UsageError(f"{override}: a value is there twice")
        if len(values) == 1 and not found:
            single.append(override)
        elif key in grid:
            raise UsageError(f"{key} is there twice: give all its values together, as {key}=a,b,c")
        else:
            grid[key] = tuple(values)
    many = math.prod(len(values) for values in grid.values())
    if many > MOST:
        raise UsageError(f"that is {many:,} runs; a sweep has {MOST:,} at most")
    return grid, single


def begin(experiment: Experiment, grid: Mapping[str, tuple[str, ...]], path: Path) -> Sweep:
    """Make a sweep's folder, or go on with the one that is there.

    Raises:
        UsageError: nothing varies, a run would have no valid experiment, or the folder holds another sweep.
    """
    if not grid:
        raise UsageError("nothing varies: give a key several values, as training.learning_rate=0.05,0.1 or seed=0..4")
    text = experiments_text(experiment)
    if (path / GRID).exists():
        held = open_sweep(path)
        if held.grid != grid or (path / BASE).read_text() != text:
            raise UsageError(f"{path} holds another sweep: give another --out, or go on with edgekit sweep {path}")
        return held
    if path.exists() and any(path.iterdir()):
        raise UsageError(f"{path} exists already and is not empty: give another --out")
    made = Sweep(path, dict(grid))
    for cell in made.cells:  # before any of them begins
        experiments.changed(experiment, cell.overrides)
    path.mkdir(parents=True, exist_ok=True)
    write_whole(path / BASE, text)
    write_whole(path / GRID, json.dumps({"grid": {key: list(values) for key, values in grid.items()}}, indent=1) + "\n")
    return made


def experiments_text(experiment: Experiment) -> str:
    """Return an experiment as TOML."""
    import tomli_w

    return tomli_w.dumps(experiment.model_dump())


def open_sweep(path: Path) -> Sweep:
    """Open a sweep's folder.

    Raises:
        UsageError: it is none.
        RunFolderError: its grid is damaged.
    """
    if not (path / GRID).is_file() or not (path / BASE).is_file():
        raise UsageError(f"{path} is not a sweep's folder: it has no {GRID}")
    try:
        held = json.loads((path / GRID).read_text())["grid"]
        grid = {str(key): tuple(str(value) for value in values) for key, values in held.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RunFolderError(f"{path / GRID} is damaged: give the sweep's own line again, with another --out") from None
    return Sweep(path, grid)


def run(sweep: Sweep, workers: int, on_run: Callable[[Cell, Summary], None]) -> list[tuple[Cell, Summary]]:
    """Do what is left of a sweep; what is finished stays, what was interrupted goes on.

    Args:
        sweep: the sweep.
        workers: processes at once.
        on_run: called with each run that ended, from this thread.

    Returns:
        All runs, in the grid's order.

    Raises:
        UsageError: another process is at work in it.
    """
    children: set[subprocess.Popen[bytes]] = set()
    stopped = threading.Event()
    with locked(sweep.path, UsageError(f"another edgekit is at work in {sweep.path}: wait until it ends, or stop it")):
        with ThreadPoolExecutor(workers) as pool:
            asked = {pool.submit(_one, sweep, cell, children, stopped): cell for cell in sweep.cells}
            done: dict[Path, tuple[Cell, Summary]] = {}
            try:
                for future in as_completed(asked):
                    cell = asked[future]
                    done[cell.folder] = (cell, future.result())
                    on_run(*done[cell.folder])
            except BaseException:
                stopped.set()
                for child in list(children):
                    child.send_signal(signal.SIGINT)  # each keeps its last round
                raise
        (sweep.path / "lock").unlink(missing_ok=True)
    return [done[cell.folder] for cell in sweep.cells]


def _one(sweep: Sweep, cell: Cell, children: set["subprocess.Popen[bytes]"], stopped: threading.Event) -> Summary:
    """Do one run in a process of its own."""
    begun = (cell.folder / "experiment.toml").exists()
    if begun and (held := summary(cell.folder)).state == FINISHED:
        return held
    if stopped.is_set():
        return Summary(str(cell.folder), cell.folder.name, FAILED, "stopped")
    what = (
        ["resume", str(cell.folder)]
        if begun
        else ["run", str(sweep.path / BASE), "--out", str(cell.folder), *cell.overrides]
    )
    log = sweep.path / f"{cell.folder.name}.log"
    with open(log, "wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "edgekit.cli", *what],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        children.add(child)
        code = child.wait()
        children.discard(child)
    found = summary(cell.folder) if (cell.folder / "experiment.toml").exists() else None
    if code == 0 and found is not None:
        return found
    lines = log.read_text(errors="replace").strip().splitlines()
    said = lines[-1].removeprefix("edgekit: ") if lines else ""
    why = f"ended by signal {-code}" if code < 0 else said or f"ended with {code}"
    if found is None or found.state == BROKEN:
        return Summary(str(cell.folder), cell.folder.name, FAILED, why)
    return found if found.problem else replace(found, problem=why)


@dataclass(frozen=True)
class Setting:
    """Runs of a sweep that differ in their seed alone.

    Attributes:
        settings: without the seed.
        scores: of the runs that have one.
        mean, deviation: of these; None where there are none.
        failed: runs without a score.
    """

    settings: Mapping[str, str]
    scores: tuple[float, ...]
    mean: float | None
    deviation: float | None
    failed: int


def by_setting(done: Sequence[tuple[Cell, Summary]]) -> list[Setting]:
    """Return a sweep's runs by their settings, mean and deviation over seeds, the best first."""
    groups: dict[tuple[tuple[str, str], ...], list[Summary]] = {}
    for cell, found in done:
        rest = tuple((key, value) for key, value in cell.settings.items() if key != "seed")
        groups.setdefault(rest, []).append(found)
    rows = []
    for rest, runs in groups.items():
        scores = tuple(run.score for run in runs if run.score is not None)
        mean, deviation = spread(scores) if scores else (None, None)
        rows.append(Setting(dict(rest), scores, mean, deviation, len(runs) - len(scores)))
    return sorted(rows, key=lambda row: -(row.mean if row.mean is not None else float("-inf")))
