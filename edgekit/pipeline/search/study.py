"""Which candidate is tried next: Optuna's sampler within the budget, and its rule of who goes on."""

import itertools
import random
import threading
from collections.abc import Mapping
from typing import Any

from edgekit import experiment as experiments
from edgekit.errors import MissingExtraError
from edgekit.pipeline.search.folder import BASE, COMPLETE, FACTOR, FAILED, PRUNED, Search, Trial

STARTS = 8
"""Candidates drawn at random before the sampler learns from them."""
ATTEMPTS = 4
"""Of a sampler, to name what was not tried yet; then a change of one of the best is tried."""
PARENTS = 5
"""That are changed."""


class Study:
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
        self._seen: set[tuple[str, ...]] = set()
        self._begun = _as_begun(search)
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
            if not self._known(tuple(trial.params.values())):
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
            if not self._known(values := tuple(made[key] for key in space)):
                return values
        left = (values for values in itertools.product(*space.values()) if not self._known(values))
        return next(left, None)

    def _known(self, values: tuple[str, ...]) -> bool:
        """Whether these were tried, or are the experiment as it is."""
        return values in self._seen or all(one in own for one, own in zip(values, self._begun, strict=True))

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


def _as_begun(search: Search) -> list[frozenset[str]]:
    """Return by key the values that change nothing: candidate 0 is the experiment as it is."""
    experiment = experiments.load(search.path / BASE, [])
    return [
        frozenset(one for one in values if experiments.changed(experiment, [f"{key}={one}"]) == experiment)
        for key, values in search.space.items()
    ]
