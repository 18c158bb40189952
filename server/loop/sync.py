"""The loop in lock step: each round asks a cohort, and waits for it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

import numpy as np
from torch import nn

from edgekit import algorithms
from edgekit.algorithms.base import Algorithm, State, checked, checked_asks
from edgekit.arrays import problem_with
from edgekit.asks import (
    WEIGHTS,
    Aggregate,
    Ask,
    Bundles,
    Reply,
    Scored,
    Update,
    check_noisable,
    mean_of,
    problem_with_update,
)
from edgekit.clients.torch_trainer import learnt, state
from edgekit.data import FederatedDataset
from edgekit.errors import DataError, ExperimentError, ModelError, TrainingError
from edgekit.experiment import Experiment
from edgekit.models import check_private
from edgekit.privacy import Plan
from edgekit.randomness import generator
from edgekit.runfolder import RunFolder, append_line
from edgekit.server.engines.base import Engine
from edgekit.server.engines.local import LocalEngine
from edgekit.server.loop import checkpoint, selection
from edgekit.server.loop.charging import Charging, check_method, plan_of, releases_aggregate, selector_of
from edgekit.server.loop.checkpoint import Checkpoint
from edgekit.server.loop.evaluation import evaluate
from edgekit.server.loop.metrics import Outcome, RoundMetrics, by_client, keep_rounds, rounded, rounded_all, skips
from edgekit.server.loop.private import released

T = TypeVar("T")
FRUITLESS_ROUNDS = 3
"""A run in which every client fails this many times in a row ends: nothing would ever be learnt."""


class Coordinator:
    """Trains one experiment's model across its clients.

    Args:
        experiment: the experiment.
        dataset: the clients' data.
        model: the network, with its first weights.
        run: the run folder.
        on_round: called after each round.
        on_notice: called with a line for people.
        engine: gives who trains, by method and privacy plan; None simulates the dataset's clients in this process.
        private_seed: a secret number that outlives this process, for what privacy rests on: the same after a crash,
            so that a round repeated gives the same bits and costs nothing more.

    Raises:
        ExperimentError: method, privacy and the rest do not go together.
        ModelError: the model cannot do what the experiment asks.
        PrivacyError: the privacy target cannot be reached.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: FederatedDataset,
        model: nn.Module,
        run: RunFolder,
        on_round: Callable[[RoundMetrics], None] = lambda metrics: None,
        on_notice: Callable[[str], None] = lambda line: None,
        engine: Callable[[Algorithm, Plan | None], Engine] | None = None,
        private_seed: int | None = None,
    ) -> None:
        self.experiment = experiment
        self.dataset = dataset
        self.model = model
        self.run_folder = run
        self.on_round = on_round
        self.on_notice = on_notice
        cohort = experiment.federation.cohort or dataset.clients
        if cohort > dataset.clients:
            raise DataError(f"federation.cohort is {cohort}, but there are only {dataset.clients} clients")
        self.cohort = cohort
        self.scores: Mapping[int, Scored] = {}
        """How good the model is for single clients, as they told last."""
        self.algorithm = algorithms.make(
            experiment.federation,
            released=releases_aggregate(experiment),
            measures=experiment.data.client_test_fraction > 0,
        )
        check_method(experiment, self.algorithm)
        if experiment.privacy.on:
            check_private(model)
        self.selector = selector_of(experiment)
        self.plan = plan_of(experiment, dataset, self.algorithm)
        self._first = self._tried(
            0, "could not begin", lambda: checked(self.algorithm.begin(state(model), learnt(model)))
        )
        self.charging = Charging(experiment, self.plan, run, private_seed)
        self.engine: Engine
        if engine is not None:
            self.engine = engine(self.algorithm, self.plan)
            if self._never_the_same:  # nobody knows what an earlier process released
                self.charging.forget_draw()
        else:
            self.engine = LocalEngine(
                experiment, dataset, model, run, self.charging.seed, on_notice, algorithm=self.algorithm
            )

    def run(self) -> Outcome:
        """Train from the newest checkpoint, or from the start, to the last round.

        Ctrl-C ends it after the last finished round; what is there can be used, and resumed.

        Raises:
            TrainingError: no client could train, or the method failed.
        """
        found = checkpoint.latest(self.run_folder.checkpoint)
        current = found or Checkpoint(0, self._first, method=self._method)
        if problem := problem_with(self.algorithm.model(current.state), state(self.model)):
            raise TrainingError(f"the checkpoint is not one of this model: {problem}")
        if current.method not in ("", self._method):
            raise TrainingError(f"the run was begun with the method {current.method}, not {self._method}: start anew")
        keep_rounds(self.run_folder.metrics, current.round)
        rounds = self.experiment.federation.rounds
        fruitless = attempt = 0
        interrupted = False
        try:
            while current.round < rounds:
                number = current.round + 1
                cohort = self._draw_cohort(number, attempt)
                if not self.charging.can_afford(number, self._whom(cohort), again=not self.engine.repeatable):
                    self.on_notice(
                        f"stopped before round {number}: it would spend more than epsilon "
                        f"{self.experiment.privacy.epsilon:g}, since rounds repeated with fresh noise count too"
                    )
                    break
                after = self._round(current, cohort)
                attempt = attempt + 1 if after is None else 0
                if after is None:
                    continue  # nodes come and go: the round is run again, with who is there then
                current, metrics, reason = after
                fruitless = fruitless + 1 if metrics.failures and not metrics.replies else 0
                if fruitless == min(FRUITLESS_ROUNDS, rounds):
                    raise TrainingError(f"every client failed in {fruitless} rounds in a row; the last said: {reason}")
        except KeyboardInterrupt:
            interrupted = True
            current = checkpoint.latest(self.run_folder.checkpoint) or current
            keep_rounds(self.run_folder.metrics, current.round)
        weights = current.average or self.algorithm.model(current.state)
        return Outcome(weights, current.round, interrupted, self.engine.trainer)

    def _draw_cohort(self, number: int, attempt: int) -> list[int]:
        by_client = self.charging.by_client
        if by_client:  # a round that is run again asks the same, who were charged for it
            rng = generator(self.charging.seed, "cohort", number)
        else:  # others than those who did not answer
            rng = generator(self.experiment.seed, "cohort", number, *((attempt,) if attempt else ()))

        def draw(clients: int) -> list[int]:
            # Of a fleet not everyone is there: clients join with their chance, or as many as wanted do.
            wanted = self.cohort / self.dataset.clients * clients if by_client else min(self.cohort, clients)
            return selection.checked(self.selector.choose(wanted, clients, number, rng), clients)

        return self.engine.choose(number, draw)

    @property
    def _never_the_same(self) -> bool:
        """Whether a round that is run again releases something new: what split server and devices answer each other."""
        return self.plan is not None and self.plan.split and not self.engine.repeatable

    def _whom(self, cohort: Sequence[int]) -> Sequence[int] | None:
        return None if self.engine.is_everyone(cohort) else cohort

    def _round(self, before: Checkpoint, cohort: list[int]) -> tuple[Checkpoint, RoundMetrics, str] | None:
        """Run one round; return the state after it, its metrics, and the last failure's reason.

        None if nobody answered and the engine is one to wait for: then nothing came of it, and the round is not lost.
        """
        started = time.perf_counter()
        number = before.round + 1
        self.charging.charge(number, self._whom(cohort), again=not self.engine.repeatable)
        settings = self.charging.local_settings()
        # Of nobody there is nothing to ask: an empty Poisson cohort is shown as one client, which is then left alone.
        shown = cohort or [0]
        made = self._tried(
            number,
            "could not configure the round",
            lambda: checked_asks(self.algorithm.ask(before.state, shown, number), shown),
        )
        like = self._expected(number, next(iter(made.values())))
        asks = {client: replace(ask, settings=settings, round=number) for client, ask in made.items() if cohort}
        exchanged = self.engine.exchange(asks)
        if self._never_the_same and exchanged.released:
            self.charging.forget_draw()
        accepted, reasons = self._sorted(number, exchanged.replies, asks)
        if exchanged.again and asks and not accepted:
            self.on_notice(f"round {number} is run again: {reasons[-1][1] if reasons else 'nobody answered'}")
            return None
        state, metrics = self._merged(before.state, number, accepted, like)
        after = self._after(before, number, state)
        loss = accuracy = None
        if not skips(self.experiment.federation, number):
            loss, accuracy = evaluate(self.model, self.algorithm.model(after.state), self.dataset.test)
        scores, own = self._measured(number, after.state, cohort)
        line = RoundMetrics(
            round=number,
            loss=rounded(loss),
            accuracy=rounded(accuracy),
            cohort=len(cohort),
            replies=len(accepted),
            failures=len(asks) - len(accepted),
            bytes_up=exchanged.bytes_up,
            bytes_down=exchanged.bytes_down,
            seconds=round(time.perf_counter() - started, 4),
            epsilon=self.charging.epsilon,
            metrics={**metrics, **own},
            clients=by_client(scores),
        )
        append_line(self.run_folder.metrics, asdict(line))
        checkpoint.save(self.run_folder.checkpoint, after)
        self.scores = scores or self.scores
        for client, reason in reasons:
            self.on_notice(f"round {number}: {self.engine.name_of(client)} left out: {reason}")
        self.on_round(line)
        return after, line, reasons[-1][1] if reasons else ""

    def _expected(self, number: int, ask: Ask) -> Bundles:
        """Return arrays such as an ask's answer must have."""
        like: Bundles = self._tried(number, "could not say what it expects", lambda: dict(self.algorithm.expects(ask)))
        if set(like) != set(self.algorithm.bundles):
            raise TrainingError(
                f"round {number}: {self._method} expects the bundles {', '.join(like)}, but declares "
                f"{', '.join(self.algorithm.bundles)} (bundles = …)"
            )
        if self.plan is not None:
            check_noisable(like)
        return like

    def _sorted(
        self, number: int, replies: Sequence[Reply], asks: Mapping[int, Ask]
    ) -> tuple[dict[int, Update], list[tuple[int, str]]]:
        """Sort replies into accepted updates, and (client, reason) of those that cost their update."""
        accepted, reasons = {}, []
        for reply in replies:
            problem = reply.problem
            if reply.update is not None:
                problem = problem_with_update(reply.update, self._expected(number, asks[reply.client]))
            if reply.update is None or problem:
                reasons.append((reply.client, problem))
            else:
                accepted[reply.client] = reply.update
        return accepted, reasons

    def _merged(
        self, before: State, number: int, updates: Mapping[int, Update], like: Bundles
    ) -> tuple[State, Mapping[str, Any]]:
        """Let the method make the next state of what it may see; return it with the round's metrics."""
        plan, clients = self.plan, self.dataset.clients
        if plan is not None and releases_aggregate(self.experiment):
            got = Aggregate(self._released(plan, before, like, number, updates), {}, self.cohort, clients)
        elif not updates:
            return before, {}
        elif self.algorithm.reads == "each":
            got = Aggregate({}, {}, len(updates), clients, updates)
        else:
            bundles, facts = mean_of(list(updates.values()))
            got = Aggregate(bundles, facts, len(updates), clients)

        def merge() -> tuple[State, Any, dict[str, Any]]:
            after = checked(self.algorithm.merge(before, got, number))
            return after, dict(self.algorithm.model(after)), rounded_all(after.facts.get("metrics", got.facts))

        after, model, metrics = self._tried(number, "could not aggregate the updates", merge)
        if problem := problem_with(model, self.algorithm.model(before)):
            told = f"{self._method} gave unusable weights ({problem}): lower the learning rate"
            raise TrainingError(f"round {number}: {told}")
        return after, metrics

    def _released(
        self, plan: Plan, before: State, like: Bundles, number: int, updates: Mapping[int, Update]
    ) -> Bundles:
        if plan.unit == "client":
            expected = float(self.cohort)
        else:
            expected = plan.sample_rate * self._examples() * self.cohort / self.dataset.clients
        # Noise of another scale is other noise: the same at two scales could be taken off by subtraction.
        scale = f"{plan.noise_multiplier!r} {plan.clip!r}"
        rng = generator(self.charging.seed, "server noise", scale, number)
        rate = self.experiment.privacy.learning_rate
        return released(list(updates.values()), like, before.bundles[WEIGHTS], plan, expected, rate, rng)

    def _tried(self, number: int, problem: str, call: Callable[[], T]) -> T:
        """Call what may be the user's own; what goes wrong there says whose fault it is."""
        try:
            return call()
        except (ExperimentError, ModelError):
            raise
        except Exception as error:
            if isinstance(error, TrainingError) and str(error).startswith("round "):
                raise
            told = " ".join(str(error).split()) or type(error).__name__
            raise TrainingError(f"round {number}: {self._method} {problem}: {told}") from error

    @property
    def _method(self) -> str:
        return self.experiment.federation.method

    def _examples(self) -> int:
        examples = self.engine.examples()
        if examples is None:
            raise DataError("unit example with noise by the server needs to know how many examples there are in all")
        return examples

    def _after(self, before: Checkpoint, number: int, after: State) -> Checkpoint:
        """Return the new checkpoint; in the last rounds the running mean of the weights moves on too."""
        federation = self.experiment.federation
        average, averaged = before.average, before.averaged
        weights = self.algorithm.model(after)
        if number > federation.rounds * (1 - federation.average_last):
            averaged += 1
            old = average or weights
            average = {n: np.asarray(old[n] + (w - old[n]) / averaged, w.dtype) for n, w in weights.items()}
        if number == 1 and self.algorithm.unkept:
            names = ", ".join(self.algorithm.unkept)
            self.on_notice(f"the strategy's {names} cannot be kept in checkpoints: a resumed run starts them anew")
        return Checkpoint(number, after, average, averaged, self._method)

    def _measured(
        self, number: int, after: State, cohort: Sequence[int]
    ) -> tuple[Mapping[int, Scored], Mapping[str, Any]]:
        """Ask a round's clients how good the model is on what they hold back; return that, and the method's metrics."""
        if not self.experiment.data.client_test_fraction or not cohort or skips(self.experiment.federation, number):
            return {}, {}
        ask_scores, settings = self.algorithm.ask_scores, self.charging.local_settings()
        made = self._tried(number, "could not configure the round", lambda: ask_scores(after, cohort, number))
        scores = self.engine.measure({c: replace(ask, settings=settings, round=number) for c, ask in made.items()})
        if not scores:
            return scores, {}
        return scores, self._tried(
            number,
            "could not aggregate the clients' scores",
            lambda: rounded_all(self.algorithm.tell_scores(scores, number)),
        )
