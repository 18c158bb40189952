"""Candidates measured and trained, each in a process.

What a candidate costs is measured by running its exported file, before anything is trained (Tan et al. 2019, MnasNet,
section 3); how good it is by short federated trainings, of which the worse end early (Li et al. 2020, ASHA).
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from edgekit.errors import EdgekitError, UsageError
from edgekit.pipeline.search.folder import COMPLETE, FAILED, OVER, PRUNED, TRIALS, Cost, Search, Trial
from edgekit.pipeline.search.study import Study
from edgekit.runfolder import append_line, locked


class EndedError(EdgekitError):
    """A worker's process ended."""


class _Worker:
    """A process that measures and trains one candidate after the other: lines of JSON go there and come back."""

    def __init__(self, search: Search, measure: str) -> None:
        self._log = open(search.path / "workers.log", "ab")  # noqa: SIM115 - as long as the process
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgekit.pipeline.search.worker", str(search.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, MEASURE: measure},
        )

    def send(self, **told: Any) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(told).encode() + b"\n")
        self._child.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise EndedError(f"its process ended with {self._child.wait()}: too little memory? see {self._log.name}")
        found: dict[str, Any] = json.loads(line)
        return found

    def kill(self) -> None:
        self._child.kill()

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        self._log.close()


MEASURE = "EDGEKIT_MEASURE"
"""Of a worker's environment: the command that measures latencies; it is never kept, since it runs whatever it says."""


def run(
    search: Search,
    trials: int,
    minutes: float,
    workers: int,
    on_trial: Callable[[Trial], None],
    measure: str = "",
) -> list[Trial]:
    """Try candidates until there are enough, or the time is over; those of earlier are there already.

    Args:
        search: the search.
        trials: how many, those before included.
        minutes: after which no more are begun; 0 is no bound.
        workers: processes.
        on_trial: called with each that ended.
        measure: command that measures latencies on another device; "" measures on this machine.

    Returns:
        All that ended.

    Raises:
        MissingExtraError: Optuna is not installed.
        UsageError: another process is at work in the folder.
        EdgekitError: the experiment itself cannot be measured.
    """
    held = UsageError(f"another edgekit is at work in {search.path}: wait until it ends, or stop it")
    with locked(search.path, held):
        try:
            return _run(search, trials, minutes, workers, on_trial, measure)
        finally:
            (search.path / "lock").unlink(missing_ok=True)


def _run(
    search: Search, trials: int, minutes: float, workers: int, on_trial: Callable[[Trial], None], measure: str
) -> list[Trial]:
    study, begun = Study(search), time.monotonic()
    done = search.trials
    study.search = search.beside(done)
    for one in done:
        study.replay(one)
    taken = {one.number for one in done}
    numbers = (number for number in range(trials) if number not in taken)
    problems: list[BaseException] = []
    live: set[_Worker] = set()

    def work() -> None:
        worker = _Worker(search, measure)
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
                try:
                    found = _tried(study.search, study, worker, number, settings)
                except (EndedError, OSError) as error:  # a candidate may take all memory, or crash a converter
                    if problems:
                        return
                    found = Trial(number, settings, FAILED, reason=str(error))
                    live.discard(worker)
                    worker.close()
                    worker = _Worker(search, measure)
                    live.add(worker)
                if number == 0 and found.state == FAILED:  # not kept: it is tried again
                    raise EdgekitError(f"the experiment as it is cannot be measured: {found.reason}")
                with study.lock:
                    study.search = search.beside([found, *done])
                    study.tell(found)
                    append_line(search.path / TRIALS, found.line())
                    done.append(found)
                    on_trial(found)
        except BaseException as error:
            problems.append(error)
        finally:
            live.discard(worker)
            worker.close()

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
    if problems:
        raise problems[0]
    return done


def _tried(search: Search, study: Study, worker: _Worker, number: int, settings: dict[str, str]) -> Trial:
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
