"""The loop in lock step: each round asks a cohort, and waits for it."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from math import isfinite
from typing import Any

from torch import nn

from edgekit import algorithms
from edgekit.algorithms.base import Algorithm
from edgekit.algorithms.corners import Corners
from edgekit.arrays import Weights, problem_with
from edgekit.asks import BUFFERS, WEIGHTS, Ask, Scored, State, size_of
from edgekit.clients.torch_trainer import learnt, load_weights, state, trained_weights
from edgekit.compression.phases import Phase
from edgekit.data import FederatedDataset, augment
from edgekit.errors import DataError, ExperimentError, TrainingError
from edgekit.guarantee import Plan, Statement
from edgekit.local_settings import LocalSettings
from edgekit.models import batch_norms, check_private
from edgekit.models.cost import macs
from edgekit.models.requirements import moving_buffers
from edgekit.objectives import objective_of
from edgekit.randomness import generator
from edgekit.runfolder import RunFolder, append_line
from edgekit.server.attacks.attackers import Attackers
from edgekit.server.engines.base import Engine
from edgekit.server.engines.buffered import BufferedDevices
from edgekit.server.engines.local import LocalEngine
from edgekit.server.engines.virtual import Cost, VirtualDevices
from edgekit.server.loop import checkpoint
from edgekit.server.loop.answers import answers
from edgekit.server.loop.charging import Charging, planned
from edgekit.server.loop.checkpoint import Checkpoint, with_buffers_apart
from edgekit.server.loop.cohorts import Cohorts
from edgekit.server.loop.evaluation import Validation, measured
from edgekit.server.loop.guessing import Guessing
from edgekit.server.loop.merging import Merging, moved_on
from edgekit.server.loop.metrics import Outcome, RoundMetrics, by_client, keep_rounds, rounded, skips
from edgekit.server.loop.outliers import Bounding
from edgekit.server.loop.preparing import prepare
from edgekit.server.loop.reading import Reading
from edgekit.server.loop.server_trainer import ServerTrainer
from edgekit.server.loop.undoing import RUINED, Undoing
from edgekit.server.settings import Sections
from edgekit.transforms import chain
from edgekit.transforms.base import Mechanism
from edgekit.transforms.chain import Chain

FRUITLESS_ROUNDS = 3
"""A run in which every client fails this many times in a row ends: nothing would ever be learnt."""


def _nothing() -> None:
    pass


class Coordinator:
    """Trains one experiment's model across its clients.

    Args:
        experiment: the experiment.
        dataset: the clients' data.
        model: the network, with its first weights.
        run: the run folder.
        on_round: called after each round.
        on_notice: called with a line for people.
        engine: gives who trains, by method and mechanism of privacy; None simulates the dataset's clients in this
            process.
        phase: which of the run's rounds it trains, where the network changes between them; None is all of them.
        private_seed: a secret number that outlives this process, for what privacy rests on: the same after a crash,
            so that a round repeated gives the same bits and costs nothing more.

    Raises:
        ExperimentError: method, privacy and the rest do not go together.
        ModelError: the model cannot do what the experiment asks.
        PrivacyError: the privacy target cannot be reached.
    """

    def __init__(
        self,
        experiment: Sections,
        dataset: FederatedDataset,
        model: nn.Module,
        run: RunFolder,
        on_round: Callable[[RoundMetrics], None] = lambda metrics: None,
        on_notice: Callable[[str], None] = lambda line: None,
        engine: Callable[[Algorithm, Mechanism | None], Engine] | None = None,
        private_seed: int | None = None,
        phase: Phase | None = None,
    ) -> None:
        self.experiment = experiment
        rounds = experiment.federation.rounds
        self.phase = phase or Phase(until=rounds, span=rounds)
        self.dataset = dataset
        self.model = model
        self.run_folder = run
        self.on_round = on_round
        self.on_notice = on_notice
        cohort = experiment.federation.cohort or dataset.clients
        if cohort > dataset.clients:
            raise DataError(f"federation.cohort is {cohort}, but there are only {dataset.clients} clients")
        self.cohort = cohort
        self._validation = Validation(model, dataset.calibration, experiment.federation)
        central = experiment.privacy.unit == "example" and experiment.privacy.noise == "server"
        rate = "privacy.learning_rate" if central and not experiment.split.on else "training.learning_rate"
        self._guessing = Guessing(rounds, rate)
        self.scores: Mapping[int, Scored] = {}
        """How good the model is for single clients, as they told last."""
        mechanism = algorithms.mechanism_of(experiment.privacy, experiment.split)
        transforms = chain.make(experiment.federation.transforms)
        through = Chain(transforms, mechanism)
        self.algorithm = algorithms.make(
            experiment.federation,
            experiment.split,
            released=through.sums,
            measures=experiment.data.client_test_fraction > 0,
        )
        if self.algorithm.interactive and any(one.on_clients for one in transforms):
            raise ExperimentError(
                "federation.transforms: clients that have parts of a network alone have no update to transform"
            )
        if experiment.privacy.on:
            check_private(model, dataset.calibration.x)
        if self.algorithm.plain_sgd and (key := experiment.training.beyond_sgd):
            raise ExperimentError(
                f"{experiment.federation.method} reckons with steps of plain SGD: leave training.{key} out"
            )
        augment.check(experiment.training.augment, dataset.shape)
        prepare(self.algorithm, experiment, dataset, model, through, self.phase)
        self.mechanism = planned(experiment, dataset, self.algorithm, mechanism, transforms)
        self.charging = Charging(experiment, self.mechanism, run, private_seed)
        self.cohorts = Cohorts(experiment, self.mechanism, self.charging, dataset.clients)
        self.merging = Merging(
            Reading(self.algorithm, self._method, noised=self.mechanism is not None),
            through,
            cohort=self.algorithm.buffer or cohort,
            clients=dataset.clients,
            examples=self._examples,
            draw=partial(generator, self.charging.seed),
            settings=self._settings,
            trainer=ServerTrainer(model, self.algorithm, dataset, experiment.seed),
        )
        self._plain = replace(experiment.training.plain(), least_batch=2 if batch_norms(model) else 1)
        """A round's instructions before privacy; BatchNorm cannot take a single example."""
        held, trained = state(model), learnt(model)
        if self.algorithm.interactive:  # its clients have parts of the network, and all that is in them
            weights, buffers = held, {}
        else:
            weights = trained_weights(self.model)
            buffers = {name: held[name] for name in moving_buffers(model, dataset.calibration.x) if name in held}
        if buffers and not self.algorithm.statistics:
            raise ExperimentError(
                f"{experiment.federation.method}: running statistics, as of {min(buffers)!r}, are of one network "
                "alone: use a norm by example, such as GroupNorm"
            )
        begun = self.merging.begin(weights, trained)
        self._first = Checkpoint(0, begun, method=self._method, buffers=buffers, phase=self.phase.number)
        unseen = self.algorithm.interactive or self.algorithm.relays
        unseen = unseen or (self.mechanism is not None and self.mechanism.at_server)
        self._undoing = Undoing(
            self.merging,
            model,
            dataset.calibration,
            lambda state, buffers: {**self.algorithm.model(state), **buffers},
            on=engine is not None and not unseen and experiment.federation.outliers != "none",
            keeps=engine is not None,
        )
        self._bounding = Bounding(
            experiment.federation,
            real=engine is not None,
            unseen=unseen,
            say=lambda client, line: on_notice(f"{self.engine.name_of(client)} is {line}"),
        )
        self.attackers: Attackers | None = None
        if experiment.attack.on:
            if engine is not None:
                raise ExperimentError("[attack] is of simulated clients: leave it out where real devices train")
            hidden = experiment.privacy.on and experiment.privacy.noise == "server"
            self.attackers = Attackers(experiment.attack, dataset, self.algorithm, experiment.seed, hidden=hidden)
        self.engine: Engine
        if engine is not None:
            self.engine = engine(self.algorithm, self.mechanism)
            if self._never_the_same:  # nobody knows what an earlier process released
                self.charging.forget_draw()
        else:
            self.engine = LocalEngine(
                experiment,
                dataset if self.attackers is None else self.attackers.poisoned(dataset),
                model,
                run,
                self.charging.seed,
                on_notice,
                self.algorithm,
                transforms,
                self.local_settings,
                self.phase.number,
            )
            self.charging.check_data(dataset)
        if self.attackers is not None:
            self.attackers.join(self.engine)
        self.devices: VirtualDevices | None = None
        if experiment.devices.on:
            if engine is not None:
                raise ExperimentError("[devices] is of simulated clients: leave it out where real devices train")
            kind = BufferedDevices if self.algorithm.buffer else VirtualDevices
            self.engine = self.devices = kind(
                self.engine,
                experiment,
                dataset,
                self.algorithm,
                transforms,
                self.local_settings,
                Cost(macs(model, dataset.shape), size_of({WEIGHTS: weights})),
                run,
                secret=self.charging.hides_cohort,
            )
        if self.algorithm.buffer and self.devices is None:
            raise ExperimentError(
                f"{experiment.federation.method} has clients train at their own pace, which simulated devices have: "
                'give them some, as in [devices] population = {"raspberry-pi-4" = 10}'
            )
        self.cohorts.check(self.engine, losses=not (experiment.privacy.on or self.algorithm.interactive))

    @property
    def plan(self) -> Plan | None:
        """The plan of privacy; None without."""
        return None if self.mechanism is None else self.mechanism.plan_made

    @property
    def local_settings(self) -> LocalSettings:
        """A round's instructions to its clients."""
        ask = Ask({}, settings=self._plain)
        return (ask if self.mechanism is None else self.mechanism.prepare(ask, State({}))).settings

    @property
    def statement(self) -> Statement:
        """What privacy covers, in words."""
        return self.algorithm.unprotected if self.mechanism is None else self.mechanism.statement()

    def run(self) -> Outcome:
        """Train from the newest checkpoint, or from the start, to the phase's last round.

        Ctrl-C ends it after the last finished round; what is there can be used, and resumed.

        Raises:
            TrainingError: no client could train, or the method failed.
        """
        found = checkpoint.latest(self.run_folder.checkpoint, self.on_notice)
        if found is None:
            current = self._first
        elif found.phase < self.phase.number:  # the network before it changed: what was spent goes on alone
            kept = found.devices, found.history
            current = replace(self._first, round=found.round, ledger=found.ledger, devices=kept[0], history=kept[1])
        else:
            current = with_buffers_apart(found, self._first)
        whole = self._whole(current)
        if problem := problem_with(whole, self._whole(self._first)):
            raise TrainingError(f"the checkpoint is not one of this model: {problem}")
        if current.method not in ("", self._method):
            raise TrainingError(f"the run was begun with the method {current.method}, not {self._method}: start anew")
        self.charging.check_goes_on(current.ledger, current.round)
        for problem in keep_rounds(self.run_folder.metrics, current.round):
            self.on_notice(problem)
        self.cohorts.history.go_on(current.history)
        if self.devices is not None:
            self.devices.go_on(current.devices, current.round)
        rounds = self.experiment.federation.rounds
        if found is not None and found.phase == self.phase.number:
            self._validation.measured(current, whole)
        fruitless = attempt = 0
        interrupted = False
        try:
            while current.round < self.phase.until and not self._is_enough():
                number = current.round + 1
                cohort = self.cohorts.draw(self.engine, number, attempt)
                reason = self.charging.obstacle(number, self._whom(cohort), again=not self.engine.repeatable)
                if reason:
                    self.on_notice(f"stopped before round {number}: {reason}")
                    break
                after = self._round(current, cohort)
                attempt = attempt + 1 if after is None else 0
                if after is None:
                    continue  # nodes come and go: the round is run again, with who is there then
                current, metrics, reason = after
                fruitless = fruitless + 1 if metrics.failures and not metrics.replies else 0
                if fruitless == min(FRUITLESS_ROUNDS, rounds):
                    raise TrainingError(f"every client failed in {fruitless} rounds in a row; the last said: {reason}")
                if self._is_enough():
                    self.on_notice(f"stopped after round {number}: accurate enough on the server's own examples")
        except KeyboardInterrupt:
            interrupted = True
            newest = checkpoint.latest(self.run_folder.checkpoint)
            if newest is not None and newest.phase == self.phase.number:
                current = with_buffers_apart(newest, self._first)
            keep_rounds(self.run_folder.metrics, current.round)
            if self.devices is not None:
                self.devices.go_on(current.devices, current.round)
        finally:
            self.engine.close()
        chosen = (current.average or current.best) if self.phase.last else {}
        load_weights(self.model, chosen or self._whole(current))
        return Outcome(state(self.model), current.round, interrupted, self.engine.trainer)

    def _is_enough(self) -> bool:
        """Whether the run may end before its last round: not while its network is to change yet."""
        return self.phase.last and self._validation.is_enough()

    def _whole(self, checkpoint: Checkpoint) -> Weights:
        """Return all arrays of a global model that training changes."""
        return {**self.algorithm.model(checkpoint.state), **checkpoint.buffers}

    @property
    def _never_the_same(self) -> bool:
        """Whether a round that is run again releases something new: what server and devices answer each other."""
        return self.mechanism is not None and self.algorithm.interactive and not self.engine.repeatable

    def _whom(self, cohort: Sequence[int]) -> Sequence[int] | None:
        return None if self.engine.is_everyone(cohort) else cohort

    def _round(self, before: Checkpoint, cohort: list[int]) -> tuple[Checkpoint, RoundMetrics, str] | None:
        """Run one round; return the state after it, its metrics, and the last failure's reason.

        None if nobody answered and the engine is one to wait for: then nothing came of it, and the round is not lost.
        """
        started = time.perf_counter()
        number = before.round + 1
        self.charging.charge(number, self._whom(cohort), again=not self.engine.repeatable)
        # Of nobody there is nothing to ask: an empty Poisson cohort is shown as one client, which is then left alone.
        made = self.merging.asks(before.state, cohort or [0], number)
        reading = self.merging.reading
        like = reading.whole_like(number, next(iter(made.values())), before.state.bundles[WEIGHTS])
        states = before.transforms or self.merging.states(like, number)
        prepared = self._prepared(made, number, states, before.buffers)
        shown = next(iter(prepared.values()))  # transforms may change what is sent
        weights = before.state.bundles[WEIGHTS]
        like = reading.whole_like(number, shown, weights)
        if self.experiment.federation.transforms:
            weights = shown.bundles.get(WEIGHTS, weights)
        asks = prepared if cohort else {}
        if self.devices is not None:
            self.devices.show(shown)
        released = self.charging.forget_draw if self._never_the_same else _nothing
        folds = self.merging.folds and not before.buffers
        folds = folds and not (self._bounding.reads_each or self.cohorts.reads_each)
        answered = answers(self.engine, reading, number, asks, weights, folds=folds, released=released)
        reasons = answered.reasons
        self.cohorts.note(number, cohort, answered.updates)
        if answered.again and asks and not answered.updates:
            self.on_notice(f"round {number} is run again: {reasons[-1][1] if reasons else 'nobody answered'}")
            return None
        bounded = self._bounding(number, answered.updates, weights, before.buffers)
        count = answered.count - (len(answered.updates) - len(bounded))  # without those that were held back
        merged = self._undoing.merged(before.state, before.buffers, states, number, bounded, like, weights, count)
        replies = count - len(merged.left_out)
        if self.devices is not None and self.devices.secret:  # who is late is no secret: told, it tells who was drawn
            replies += len(answered.missed)
        buffers = {**before.buffers, **merged.buffers}
        after = self._after(before, Checkpoint(number, merged.state, transforms=merged.transforms, buffers=buffers))
        reasons += [(client, RUINED) for client in merged.left_out]
        loss, accuracy, metrics, objective = None, None, merged.metrics, objective_of(self.model)
        beside: Sequence[str] = ()
        if not skips(self.experiment.federation, number):
            found = measured(self.model, self._whole(after), self.dataset.test)
            loss, accuracy, beside = found.loss, found.metrics.get("accuracy"), found.beside
            told = [name for name in (found.measure, *beside) if name != "accuracy"]
            metrics = {**metrics, **{name: rounded(found.metrics[name]) for name in told}}
            if self.attackers is not None:
                metrics = {**metrics, **self.attackers.metrics(self.model, self._whole(after), self.dataset.test)}
            if said := self._guessing.notice(number, found):
                self.on_notice(said)
            after = self._validation.measured(after, self._whole(after))
        scores, own = self._measured(number, after, cohort)
        line = RoundMetrics(
            round=number,
            loss=rounded(loss),
            accuracy=rounded(accuracy),
            cohort=answered.asked if self.algorithm.buffer else len(cohort),
            replies=replies,
            failures=answered.asked - replies - (self.devices.surplus if self.devices is not None else 0),
            bytes_up=self._told_bytes(answered.bytes_up, replies),
            bytes_down=self._told_bytes(answered.bytes_down, len(asks)),
            seconds=round(time.perf_counter() - started, 4),
            epsilon=self.charging.epsilon,
            metrics={**metrics, **own, **self._validation.metrics},
            clients=by_client(scores),
            measure=objective.measure,
            beside=beside,
            devices=self.devices.metrics() if self.devices is not None else {},
            problem="the test loss is not finite" if loss is not None and not isfinite(loss) else "",
        )
        append_line(self.run_folder.metrics, asdict(line))
        checkpoint.save(self.run_folder.checkpoint, after, good=self._undoing.is_best(merged, buffers))
        self.scores = scores or self.scores
        for client, reason in reasons:
            self.on_notice(f"round {number}: {self.engine.name_of(client)} left out: {reason}")
        self.on_round(line)
        why = [reason for _, reason in (*answered.missed, *reasons)]
        return after, line, why[-1] if why else ""

    def _told_bytes(self, counted: int, clients: int) -> int:
        """Return the bytes that a round's line may tell: where nobody may learn who took part, not whose they were."""
        if isinstance(self.algorithm, Corners) and self.charging.hides_cohort:
            return round(clients * self.algorithm.bytes_of_everyone(self.dataset.clients))
        return counted

    @property
    def _method(self) -> str:
        federation = self.experiment.federation
        return " through ".join([federation.method, *(one.name for one in reversed(federation.transforms))])

    def _examples(self) -> int:
        examples = self.engine.examples()
        if examples is None:
            raise DataError("unit example with noise by the server needs to know how many examples there are in all")
        return examples

    def _after(self, before: Checkpoint, after: Checkpoint) -> Checkpoint:
        """Complete the new checkpoint; in the last rounds the running mean of the weights moves on too."""
        federation, number = self.experiment.federation, after.round
        average, averaged = before.average, before.averaged
        after = replace(after, best=before.best, best_score=before.best_score, phase=self.phase.number)
        devices = self.devices.state() if self.devices is not None else {}
        after = replace(after, devices=devices, history=self.cohorts.state())
        if number > federation.rounds * (1 - federation.averaged):
            averaged += 1
            average = moved_on(average, averaged, self._whole(after))
        if number == 1 and self.algorithm.unkept:
            names = ", ".join(self.algorithm.unkept)
            self.on_notice(f"the strategy's {names} cannot be kept in checkpoints: a resumed run starts them anew")
        head = self.charging.ledger.head
        return replace(after, average=average, averaged=averaged, method=self._method, ledger=head)

    def _settings(self, number: int) -> LocalSettings:
        """Return a round's instructions to clients, before privacy."""
        rate = self.experiment.training.rate(number - self.phase.since, self.phase.span)
        return replace(self._plain, learning_rate=rate)

    def _prepared(
        self, made: Mapping[int, Ask], number: int, states: Sequence[State], buffers: Weights
    ) -> dict[int, Ask]:
        """Return what a round's clients are asked, with the settings they train with; equal asks stay one."""
        settings = self._settings(number)
        once: dict[int, Ask] = {}
        for ask in made.values():
            if id(ask) not in once:
                one = self.merging.prepared(replace(ask, settings=settings, round=number), states)
                once[id(ask)] = replace(one, bundles={**one.bundles, BUFFERS: buffers}) if buffers else one
        return {client: once[id(ask)] for client, ask in made.items()}

    def _measured(
        self, number: int, after: Checkpoint, cohort: Sequence[int]
    ) -> tuple[Mapping[int, Scored], Mapping[str, Any]]:
        """Ask a round's clients how good the model is on what they hold back; return that, and the method's metrics."""
        if not self.experiment.data.client_test_fraction or not cohort or skips(self.experiment.federation, number):
            return {}, {}

        def measure(made: Mapping[int, Ask]) -> Mapping[int, Scored]:
            return self.engine.measure(self._prepared(made, number, after.transforms, after.buffers))

        return self.merging.scored(number, after.state, cohort, measure)
