"""A search's folder: what is searched for, and what was found of each candidate."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgekit.errors import RunFolderError, UsageError
from edgekit.experiment import Experiment
from edgekit.pipeline.sweeping import experiments_text
from edgekit.registry import PRESETS
from edgekit.runfolder import read_lines, write_whole
from edgekit.section import first_problem

BASE, PLAN, TRIALS = "search.toml", "search.json", "trials.jsonl"
FACTOR = 3
"""One in how many candidates goes on from a rung to the next, and how many times longer that one's training is."""
RUNGS = 3
COMPLETE, PRUNED, OVER, FAILED = STATES = ("complete", "ended early", "over the budget", "failed")
ARENA, ALIVE = "the arena of TFLite Micro on this machine", "what is alive at the same time, as reckoned"
MOST_VALUES, MOST_ROUNDS = 10_000, 10_000
ANEW = "begin again with another --out"


@dataclass(frozen=True)
class Budget:
    """What a candidate may cost; 0 is no bound.

    Attributes:
        latency_us: of one inference, on one thread.
        flash: bytes of the file (with the kernels' code on a microcontroller).
        ram: bytes that are needed at the same time while it runs.
    """

    latency_us: float = 0.0
    flash: int = 0
    ram: int = 0

    def excess(self, cost: "Cost") -> float:
        """Return by which share a cost is over the budget, at worst; 0 or less is within it."""
        parts = [
            own / most - 1
            for own, most in ((cost.latency_us, self.latency_us), (cost.flash, self.flash), (cost.ram, self.ram))
            if most
        ]
        return max(parts, default=0.0)


@dataclass(frozen=True)
class Cost:
    """What a candidate costs, as measured; see `Budget`."""

    latency_us: float
    flash: int
    ram: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class Trial:
    """A candidate and what was found.

    Attributes:
        number: from 0, the experiment as it is.
        settings: what differs from the experiment, as texts by key.
        state: COMPLETE, PRUNED, OVER or FAILED.
        cost: None where no file could be made.
        scores: on the half of the test set by which candidates are chosen, by round.
        judged: on the other half, of complete ones.
        reason: of one that failed.
    """

    number: int
    settings: dict[str, str]
    state: str
    cost: Cost | None = None
    scores: dict[int, float] = field(default_factory=dict)
    judged: float | None = None
    reason: str = ""

    @property
    def score(self) -> float | None:
        """The last."""
        return self.scores[max(self.scores)] if self.scores else None

    @property
    def label(self) -> str:
        """Its settings in a line."""
        return " ".join(f"{key}={value}" for key, value in self.settings.items()) or "the experiment as it is"

    def line(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> "Trial":
        """Return what plain data tells.

        Raises:
            RunFolderError: it is no trial.
        """
        try:
            found = TypeAdapter(cls).validate_python(line)
        except ValidationError as error:
            raise RunFolderError(f"{TRIALS} is damaged: {first_problem(error)}; {ANEW}") from None
        numbers = [*found.scores.values(), 0.0 if found.judged is None else found.judged]
        costs = [] if found.cost is None else list(asdict(found.cost).values())
        sound = all(map(math.isfinite, numbers)) and all(0 <= one < math.inf for one in costs)
        if found.state not in STATES or found.number < 0 or not sound:
            raise RunFolderError(f"{TRIALS} is damaged: trial {found.number} cannot be; {ANEW}")
        return found


@dataclass(frozen=True)
class Search:
    """A search's folder.

    Attributes:
        path: of the folder.
        space: values, as texts, by key.
        budget: of the device.
        device: its profile; "" is this machine.
        preset: number format of the files that are measured.
        rounds: of a whole training.
        seed: of what is drawn.
        experiment: hash of `search.toml`.
        share: of the experiment's own latency, the most that a candidate may have; 0 is no bound.
        memory: how it is measured: ARENA or ALIVE.
        remote: whether a command of the user's measures latency, on another device.
        supernet: rounds in which all candidates are trained together first, sharing their weights; 0 is none.
    """

    path: Path
    space: Mapping[str, tuple[str, ...]]
    budget: Budget
    device: str
    preset: str
    rounds: int
    seed: int
    experiment: str = ""
    share: float = 0.0
    memory: str = ALIVE
    supernet: int = 0
    remote: bool = False

    @property
    def rungs(self) -> list[int]:
        """Rounds after which candidates are compared; the last is the end."""
        first = max(1, self.rounds // FACTOR ** (RUNGS - 1))
        return sorted({min(first * FACTOR**place, self.rounds) for place in range(RUNGS - 1)} | {self.rounds})

    @property
    def trials(self) -> list[Trial]:
        """What was found so far."""
        place = self.path / TRIALS
        found = [Trial.of(line) for line in read_lines(place)] if place.exists() else []
        taken: set[int] = set()
        for one in found:
            fits = set(one.settings) == (set(self.space) if one.number else set())
            fits &= all(one.settings[key] in self.space[key] for key in one.settings if key in self.space)
            if not fits or one.number in taken:
                raise RunFolderError(f"{place} is damaged: trial {one.number} is none of this search; {ANEW}")
            taken.add(one.number)
        return found

    def beside(self, trials: Sequence[Trial]) -> "Search":
        """Return the search with its latency's bound, where that is a share of the experiment's own."""
        own = next((one.cost for one in trials if one.number == 0 and one.cost is not None), None)
        if not self.share or own is None:
            return self
        return replace(self, budget=replace(self.budget, latency_us=round(self.share * own.latency_us, 1)))

    def told(self) -> dict[str, Any]:
        """Return it as plain data, without its place."""
        return {key: value for key, value in asdict(self).items() if key != "path"}


def begin(experiment: Experiment, search: Search) -> Search:
    """Make a search's folder, or go on with the one that is there.

    Raises:
        UsageError: the folder holds another search.
    """
    path, text = search.path, experiments_text(experiment)
    search = replace(search, experiment=_hash(text))
    if (path / PLAN).exists():
        if open_search(path).told() != search.told() or (path / BASE).read_text() != text:
            raise UsageError(f"{path} holds another search: give another --out, or go on with edgekit search {path}")
        return search
    if path.exists() and any(path.iterdir()):
        raise UsageError(f"{path} exists already and is not empty: give another --out")
    path.mkdir(parents=True, exist_ok=True)
    write_whole(path / BASE, text)
    write_whole(path / PLAN, json.dumps(search.told(), indent=1) + "\n")
    return search


def open_search(path: Path) -> Search:
    """Open a search's folder.

    Raises:
        UsageError: it is none.
        RunFolderError: it is damaged.
    """
    if not (path / PLAN).is_file() or not (path / BASE).is_file():
        raise UsageError(f"{path} is not a search's folder: it has no {PLAN}")
    try:
        found = TypeAdapter(Search).validate_python({**json.loads((path / PLAN).read_text()), "path": path})
    except (OSError, ValueError, TypeError):
        raise RunFolderError(f"{path / PLAN} is damaged: {ANEW}") from None
    many = [len(values) for values in found.space.values()]
    numbers = (*asdict(found.budget).values(), found.share)
    sound = found.preset in PRESETS and 1 <= found.rounds <= MOST_ROUNDS and found.memory in (ARENA, ALIVE)
    sound &= 0 <= found.supernet <= MOST_ROUNDS
    sound &= bool(many) and min(many) > 0 and sum(many) <= MOST_VALUES and all(0 <= one < math.inf for one in numbers)
    sound &= all(len(set(values)) == len(values) for values in found.space.values())
    if not sound:
        raise RunFolderError(f"{path / PLAN} is damaged: {ANEW}")
    if _hash((path / BASE).read_text()) != found.experiment:
        raise RunFolderError(f"{path / BASE} is not the experiment that the search began with: put it back, or {ANEW}")
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
