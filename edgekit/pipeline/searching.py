"""`edgekit search`: a network that is as good as it can be within a device's budget.

What a candidate costs is measured by running its exported file, before anything is trained (Tan et al. 2019, MnasNet,
section 3); how good it is by short federated trainings, of which the worse end early (Li et al. 2020, ASHA). Which is
tried next Optuna says.
"""

import hashlib
import itertools
import json
import math
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgekit import experiment as experiments
from edgekit.devices.profile import load as load_profile
from edgekit.errors import EdgekitError, MissingExtraError, RunFolderError, UsageError
from edgekit.experiment import Experiment
from edgekit.models.kinds import searched_of
from edgekit.pipeline.sweeping import experiments_text
from edgekit.registry import MODELS, PRESETS
from edgekit.runfolder import append_line, locked, read_lines, write_whole
from edgekit.section import first_problem

BASE, PLAN, TRIALS, WINNER, PAGE = "search.toml", "search.json", "trials.jsonl", "winner.toml", "search.html"
MICRO, WHOLE = "int8-full", "int8"
"""Number formats: of microcontrollers, integers from end to end; of other devices."""
FACTOR = 3
"""One in how many candidates goes on from a rung to the next, and how many times longer that one's training is."""
RUNGS = 3
STARTS = 8
"""Candidates drawn at random before the sampler learns from them."""
ATTEMPTS = 4
"""Of a sampler, to name what was not tried yet; then a change of one of the best is tried."""
PARENTS = 5
"""That are changed."""
COMPLETE, PRUNED, OVER, FAILED = STATES = ("complete", "ended early", "over the budget", "failed")
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
        if found.state not in STATES or found.number < 0 or not all(map(math.isfinite, numbers)):
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


def budget_of(
    device: str, latency_ms: float, flash_kb: float, ram_kb: float, preset: str, share: float = 0.0
) -> tuple[Budget, str]:
    """Return a search's budget, and the number format that is measured.

    Args:
        device: a profile's name; "" is this machine.
        latency_ms, flash_kb, ram_kb: as asked for; 0 leaves them to the profile.
        preset: as asked for; "" leaves it to the kind of device.
        share: of the experiment's own latency; 0 is no bound.

    Raises:
        UsageError: there is no such profile or format, nothing is bounded, or a latency cannot be measured.
    """
    given = (("--latency-ms", latency_ms), ("--latency-share", share), ("--flash-kb", flash_kb), ("--ram-kb", ram_kb))
    for option, value in given:
        if not 0 <= value < math.inf:
            raise UsageError(f"{option} {value:g}: give a number of 0 or more")
    profile = load_profile(device) if device else None
    micro = profile is not None and bool(profile.flash_kb or profile.ram_kb)
    if profile is not None:
        flash_kb, ram_kb = flash_kb or profile.flash_kb, ram_kb or profile.ram_kb or 1024 * profile.memory_mb
    if latency_ms and share:
        raise UsageError("--latency-ms and --latency-share bound the same: leave one out")
    if micro and (latency_ms or share):
        raise UsageError(
            f"the latency of {device} cannot be measured on this machine, nor does its profile tell one: leave "
            "--latency-ms and --latency-share out; flash and memory bound the network"
        )
    if profile is not None and not (flash_kb or ram_kb or latency_ms or share):
        raise UsageError(
            f"the profile {device} tells neither flash nor memory: give --latency-ms, --flash-kb or --ram-kb"
        )
    if not (latency_ms or share or flash_kb or ram_kb):
        raise UsageError("nothing is bounded: give --device, --latency-ms, --latency-share, --flash-kb or --ram-kb")
    chosen = preset or (MICRO if micro else WHOLE)
    if chosen not in PRESETS:
        raise UsageError(f"--preset {chosen}: there are {', '.join(PRESETS)}")
    return Budget(1000 * latency_ms, round(1024 * flash_kb), round(1024 * ram_kb)), chosen


def notes(search: Search) -> list[str]:
    """Return what a reader of the figures must know."""
    budget, found = search.budget, []
    if budget.latency_us or search.share:
        where = f", which is no {search.device}: its profile tells no latency" if search.device else ""
        found.append(f"latency is that of the {search.preset} file on one thread of this machine{where}")
    bounds = [
        text
        for text, most in (
            (f"{search.share:g} of the experiment's own latency", search.share),
            (f"{budget.latency_us / 1000:g} ms", budget.latency_us),
            (f"{budget.flash / 1024:g} kB of file", budget.flash),
            (f"{budget.ram / 1024:g} kB of memory", budget.ram),
        )
        if most
    ]
    found.append(f"at most {', '.join(bounds)}")
    many = math.prod(len(values) for values in search.space.values())
    return [*found, f"{many:,} networks by {', '.join(f'{key} ({len(v)})' for key, v in search.space.items())}"]


def space_of(experiment: Experiment, grid: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return what varies: what was asked for, or what the network's family names.

    Raises:
        UsageError: nothing does, or a value is none that the experiment may have.
    """
    space = dict(grid) or {
        key: tuple(values) for key, values in searched_of(MODELS.load(experiment.model.name)).items()
    }
    if not space:
        raise UsageError(
            f"{experiment.model.name} names nothing to vary: give keys several values, as model.width=0.5,0.75,1"
        )
    for key, values in space.items():
        for value in values:
            experiments.changed(experiment, [f"{key}={value}"])
    return space


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
    if found.preset not in PRESETS or found.rounds < 1 or not found.space:
        raise RunFolderError(f"{path / PLAN} is damaged: {ANEW}")
    if _hash((path / BASE).read_text()) != found.experiment:
        raise RunFolderError(f"{path / BASE} is not the experiment that the search began with: put it back, or {ANEW}")
    return found


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Study:
    """Optuna's study, told of every trial in order; it is asked and told by one thread at a time."""

    def __init__(self, search: Search) -> None:
        try:
            import optuna
        except ImportError:
            raise MissingExtraError("optuna", "search") from None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna, self.search = optuna, search
        pruner = optuna.pruners.SuccessiveHalvingPruner(search.rungs[0], FACTOR)
        self._study = optuna.create_study(direction="maximize", pruner=pruner)
        self._kinds = {
            key: optuna.distributions.CategoricalDistribution(values) for key, values in search.space.items()
        }
        self._asked: dict[int, Any] = {}
        self._seen = _same_as_begun(search)
        self._done: list[Trial] = []
        self.lock = threading.Lock()

    def ask(self, number: int) -> dict[str, str] | None:
        """Return a candidate's settings that were not tried yet; None where there are no more."""
        if number == 0:
            return self._begin(0, {})
        for attempt in range(ATTEMPTS):
            # A sampler of its own each time, so that a search that was stopped goes on as if it had not been.
            self._study.sampler = self._optuna.samplers.TPESampler(
                seed=(self.search.seed * 1_000_003 + number * ATTEMPTS + attempt) % 2**32,
                n_startup_trials=STARTS,
                constant_liar=True,
            )
            trial = self._study.ask(self._kinds)
            if tuple(trial.params.values()) not in self._seen:
                return self._kept(number, trial)
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)  # which no sampler looks at
        values = self._near(number)
        return None if values is None else self._begin(number, dict(zip(self.search.space, values, strict=True)))

    def _near(self, number: int) -> tuple[str, ...] | None:
        """Return what differs in one key from one of the best within the budget (Real et al. 2019), or is drawn."""
        draw, space = random.Random(f"{self.search.seed} {number}"), self.search.space
        fitting = [one for one in self._done if one.settings and one.state in (COMPLETE, PRUNED)]
        fitting.sort(key=lambda one: (one.state != COMPLETE, -(one.score or 0.0)))
        for _ in range(50 * len(space)):
            if fitting:
                made = dict(draw.choice(fitting[:PARENTS]).settings)
                key = draw.choice(list(space))
                made[key] = draw.choice(space[key])
            else:
                made = {key: draw.choice(values) for key, values in space.items()}
            if (values := tuple(made[key] for key in space)) not in self._seen:
                return values
        left = (values for values in itertools.product(*space.values()) if values not in self._seen)
        return next(left, None)

    def _begin(self, number: int, settings: Mapping[str, str]) -> dict[str, str]:
        self._study.enqueue_trial(dict(settings))
        return self._kept(number, self._study.ask(self._kinds if settings else {}))

    def _kept(self, number: int, trial: Any) -> dict[str, str]:
        self._asked[number] = trial
        self._seen.add(tuple(trial.params.values()))
        return dict(trial.params)

    def goes_on(self, number: int, round_: int, score: float) -> bool:
        """Tell a score on the way; return whether the candidate is among the better ones."""
        trial = self._asked[number]
        trial.report(score, round_)
        return not trial.should_prune() or number == 0 or round_ >= self.search.rounds

    def tell(self, done: Trial) -> None:
        """Tell how a candidate ended."""
        trial, states = self._asked.pop(done.number), self._optuna.trial.TrialState
        self._done.append(done)
        excess = 0.0 if done.cost is None else self.search.budget.excess(done.cost)
        trial.set_constraint("budget", excess)
        if done.state == COMPLETE:
            self._study.tell(trial, done.score)
        else:
            self._study.tell(trial, state=states.FAIL if done.state == FAILED else states.PRUNED)

    def replay(self, done: Trial) -> None:
        """Tell of a candidate of an earlier process, in full."""
        self._begin(done.number, done.settings)
        for round_, score in done.scores.items():
            self.goes_on(done.number, round_, score)  # the pruner remembers what it was asked
        self.tell(done)


def _same_as_begun(search: Search) -> set[tuple[str, ...]]:
    """Return the settings that change nothing, if there are any: candidate 0 is the experiment as it is."""
    experiment = experiments.load(search.path / BASE, [])
    own = [
        [value for value in values if experiments.changed(experiment, [f"{key}={value}"]) == experiment]
        for key, values in search.space.items()
    ]
    return set(itertools.product(*own))


class _Worker:
    """A process that measures and trains one candidate after the other: lines of JSON go there and come back."""

    def __init__(self, search: Search) -> None:
        self._log = open(search.path / "workers.log", "ab")  # noqa: SIM115 - as long as the process
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgekit.pipeline.search_worker", str(search.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )

    def send(self, **told: Any) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(told).encode() + b"\n")
        self._child.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise EdgekitError(f"a worker ended with {self._child.wait()}; its output is in workers.log")
        found: dict[str, Any] = json.loads(line)
        return found

    def kill(self) -> None:
        self._child.kill()

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        self._log.close()


def run(search: Search, trials: int, minutes: float, workers: int, on_trial: Callable[[Trial], None]) -> list[Trial]:
    """Try candidates until there are enough, or the time is over; those of earlier are there already.

    Args:
        search: the search.
        trials: how many, those before included.
        minutes: after which no more are begun; 0 is no bound.
        workers: processes.
        on_trial: called with each that ended.

    Returns:
        All that ended.

    Raises:
        MissingExtraError: Optuna is not installed.
        UsageError: another process is at work in the folder.
        EdgekitError: the experiment itself cannot be measured.
    """
    study, begun = _Study(search), time.monotonic()
    done = search.trials
    study.search = search.beside(done)
    for one in done:
        study.replay(one)
    taken = {one.number for one in done}
    numbers = (number for number in range(trials) if number not in taken)
    problems: list[BaseException] = []
    live: set[_Worker] = set()

    def work() -> None:
        worker = _Worker(search)
        live.add(worker)
        try:
            while not problems and not (minutes and time.monotonic() - begun > 60 * minutes):
                with study.lock:
                    number = next(numbers, None)
                    if number is None:
                        return
                    settings = study.ask(number)
                    if settings is None:
                        return
                found = _tried(study.search, study, worker, number, settings)
                with study.lock:
                    study.search = search.beside([found, *done])
                    study.tell(found)
                    append_line(search.path / TRIALS, found.line())
                    done.append(found)
                    on_trial(found)
                if number == 0 and found.state == FAILED:
                    raise EdgekitError(f"the experiment as it is cannot be measured: {found.reason}")
        except BaseException as error:
            problems.append(error)
        finally:
            live.discard(worker)
            worker.close()

    with locked(
        search.path, UsageError(f"another edgekit is at work in {search.path}: wait until it ends, or stop it")
    ):
        try:
            if 0 not in taken:  # what all others are held against comes first, alone
                rest, numbers = numbers, (number for number in [0])
                work()
                numbers = rest
                next(numbers, None)
            if not problems:
                with ThreadPoolExecutor(workers) as pool:
                    asked = [pool.submit(work) for _ in range(workers)]
                    try:
                        for future in asked:
                            future.result()
                    except BaseException as error:
                        problems.append(error)
                        for worker in list(live):  # its thread hears that it ended
                            worker.kill()
        finally:
            (search.path / "lock").unlink(missing_ok=True)
    if problems:
        raise problems[0]
    return done


def _tried(search: Search, study: _Study, worker: _Worker, number: int, settings: dict[str, str]) -> Trial:
    """Have a candidate measured, and trained as far as it is worth it."""
    found = Trial(number, settings, FAILED)
    worker.send(settings=[f"{key}={value}" for key, value in settings.items()])
    cost: Cost | None = None
    scores: dict[int, float] = {}
    while True:
        heard = worker.hear()
        if "failed" in heard:
            return Trial(number, settings, FAILED, cost, scores, reason=str(heard["failed"]))
        if "cost" in heard:
            cost = Cost(**heard["cost"])
            goes = number == 0 or search.budget.excess(cost) <= 0
            found = Trial(number, settings, OVER, cost)
        elif "judged" in heard:
            return Trial(number, settings, COMPLETE, cost, scores, heard["judged"])
        else:
            scores[heard["round"]] = heard["score"]
            with study.lock:
                goes = study.goes_on(number, heard["round"], heard["score"])
            found = Trial(number, settings, PRUNED, cost, scores)
        worker.send(go=goes)
        if not goes:
            return found


def best(search: Search, trials: Sequence[Trial]) -> Trial | None:
    """Return the best that was trained to the end within the budget."""
    fitting = [one for one in trials if one.state == COMPLETE and one.cost and search.budget.excess(one.cost) <= 0]
    return max(fitting, key=lambda one: (one.score or 0.0, -one.number), default=None)


def nearest_miss(search: Search, trials: Sequence[Trial]) -> str:
    """Return which candidate is nearest to a budget that none meets, and what to relax."""
    measured = [one for one in trials if one.cost is not None]
    if not measured:
        return "no candidate could be measured"
    fitting = sum(search.budget.excess(each.cost) <= 0 for each in measured if each.cost is not None)
    if fitting:
        return f"{fitting} were within it and ended early: give more --trials"
    one = min(measured, key=lambda each: search.budget.excess(each.cost))  # type: ignore[arg-type]
    assert one.cost is not None
    over = [
        f"{option} {math.ceil(own * 100 / scale) / 100:g}"
        for option, own, most, scale in (
            ("--latency-ms", one.cost.latency_us, search.budget.latency_us, 1000),
            ("--flash-kb", one.cost.flash, search.budget.flash, 1024),
            ("--ram-kb", one.cost.ram, search.budget.ram, 1024),
        )
        if most and own > most
    ]
    return f"nearest is {one.label}: it would need {' and '.join(over)}"


def pareto(search: Search, trials: Sequence[Trial]) -> list[Trial]:
    """Return those within the budget that no other beats in both score and latency, the fastest first."""
    whole = [one for one in trials if one.state == COMPLETE and one.cost and search.budget.excess(one.cost) <= 0]
    front: list[Trial] = []
    for one in sorted(whole, key=lambda each: (each.cost.latency_us, -(each.score or 0))):  # type: ignore[union-attr]
        if not front or (one.score or 0) > (front[-1].score or 0):
            front.append(one)
    return front


def write_page(search: Search, trials: Sequence[Trial]) -> Path:
    """Write the search's page; return the file."""
    from edgekit.report import searched

    winner = best(search, trials)
    none = dict.fromkeys(("latency_us", "flash", "ram", "parameters", "macs"), 0)
    rows = [
        {**none, **({} if one.cost is None else asdict(one.cost)), "number": one.number, "state": one.state,
         "score": one.score, "judged": one.judged, "label": one.label, "reason": one.reason}
        for one in trials
    ]  # fmt: skip
    order = (COMPLETE, PRUNED, OVER, FAILED)
    rows.sort(key=lambda row: (order.index(str(row["state"])), -float(row["score"] or 0), int(row["number"] or 0)))
    drawn = searched.front(rows, [one.number for one in pareto(search, trials)], search.budget.latency_us)
    place = search.path / PAGE
    number = None if winner is None else winner.number
    searched.write_search(place, f"Search {search.path.name}", notes(search), rows, drawn, number)
    return place


def write_winner(search: Search, winner: Trial) -> Path:
    """Write the winner's experiment; return the file."""
    experiment = experiments.load(search.path / BASE, [])
    changed = experiments.changed(experiment, [f"{key}={value}" for key, value in winner.settings.items()])
    write_whole(search.path / WINNER, experiments_text(changed))
    return search.path / WINNER
