"""The coordinator: rounds of a Flower strategy over a grid, with privacy, metrics and checkpoints."""

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message
from torch import nn

from edgekit.arrays import Weights, problem_with
from edgekit.clients import LocalSettings
from edgekit.clients.app import read_arrays, to_record
from edgekit.clients.split.device import RELEASES
from edgekit.clients.torch_trainer import state
from edgekit.clients.trainer import Work
from edgekit.data import FederatedDataset
from edgekit.errors import DataError, PrivacyError, TrainingError
from edgekit.experiment import Experiment
from edgekit.models import check_private
from edgekit.privacy import Charge, Ledger, Plan, make_plan
from edgekit.randomness import generator
from edgekit.runfolder import RunFolder, append_line, read_lines, write_whole
from edgekit.server import checkpoint, strategies
from edgekit.server.checkpoint import Checkpoint
from edgekit.server.crew import Crew, SimulatedCrew
from edgekit.server.evaluation import evaluate
from edgekit.server.private import as_only_reply, noised_mean
from edgekit.server.selection import draw_cohort
from edgekit.split.codec import LARGEST

FRUITLESS_ROUNDS = 3
"""A run in which every client fails this many times in a row ends: nothing would ever be learnt."""


@dataclass(frozen=True)
class RoundMetrics:
    """One line of metrics.jsonl.

    Attributes:
        round: from 1.
        loss: of the global model on the test set, None in rounds without evaluation.
        accuracy: likewise.
        cohort: clients asked.
        replies: updates accepted.
        failures: clients that raised, or whose update was refused.
        bytes_up: size of the arrays that came, of split learning's stream too.
        bytes_down: size of the arrays that were sent.
        seconds: the round took.
        epsilon: spent so far, None without privacy.
    """

    round: int
    loss: float | None
    accuracy: float | None
    cohort: int
    replies: int
    failures: int
    bytes_up: int
    bytes_down: int
    seconds: float
    epsilon: float | None


@dataclass(frozen=True)
class Outcome:
    """How training ended.

    Attributes:
        weights: of the model to release.
        rounds: finished rounds.
        interrupted: whether Ctrl-C ended it early.
        trainer: which trainer ran, and why.
    """

    weights: Weights
    rounds: int
    interrupted: bool
    trainer: str


class Coordinator:
    """Trains one experiment's model across its clients.

    Args:
        experiment: the experiment.
        dataset: the clients' data.
        model: the network, with its first weights.
        run: the run folder.
        on_round: called after each round.
        on_notice: called with a line for people.
        crew: gives who trains, by the privacy plan; None simulates the dataset's clients in this process.
        private_seed: a secret number that outlives this process, for what privacy rests on: the same after a crash,
            so that a round repeated gives the same bits and costs nothing more.

    Raises:
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
        crew: Callable[[Plan | None], Crew] | None = None,
        private_seed: int | None = None,
    ) -> None:
        self.experiment = experiment
        self.dataset = dataset
        self.model = model
        self.run_folder = run
        self.on_round = on_round
        self.on_notice = on_notice
        privacy, federation = experiment.privacy, experiment.federation
        cohort = federation.cohort or dataset.clients
        if cohort > dataset.clients:
            raise DataError(f"federation.cohort is {cohort}, but there are only {dataset.clients} clients")
        self.cohort = cohort
        self.strategy = strategies.build(federation, privacy, split=bool(experiment.split.cut))
        if privacy.on:
            check_private(model)
        self.plan = plan_of(experiment, dataset)
        self.ledger = Ledger(run.privacy)
        # The numbers that privacy rests on: from the seed for a simulation that can be repeated, or nobody's to know.
        if private_seed is not None:
            self.private_seed = private_seed
            self.draw = hashlib.sha256(f"draw {private_seed}".encode()).hexdigest()[:16]
        else:
            self.private_seed = experiment.seed if privacy.randomness == "seed" else secrets.randbits(128)
            self.draw = f"seed {experiment.seed}" if privacy.randomness == "seed" else secrets.token_hex(8)
        self.crew: Crew
        if crew is not None:
            self.crew = crew(self.plan)
            if self._never_the_same:  # nobody knows what an earlier process released
                self.draw = secrets.token_hex(8)
        else:
            self.crew = SimulatedCrew(experiment, dataset, model, run, self.private_seed, on_notice)

    def run(self) -> Outcome:
        """Train from the newest checkpoint, or from the start, to the last round.

        Ctrl-C ends it after the last finished round; what is there can be used, and resumed.

        Raises:
            TrainingError: no client could train.
        """
        found = checkpoint.latest(self.run_folder.checkpoint)
        current = found or Checkpoint(0, state(self.model))
        if problem := problem_with(current.weights, state(self.model)):
            raise TrainingError(f"the checkpoint is not one of this model: {problem}")
        if found:
            strategies.restore(self.strategy, found.strategy_arrays, found.strategy)
        _keep_rounds(self.run_folder.metrics, current.round)
        rounds = self.experiment.federation.rounds
        fruitless = attempt = 0
        interrupted = False
        try:
            while current.round < rounds:
                cohort = self._draw_cohort(current.round + 1, attempt)
                if not self._can_afford(current.round + 1, cohort):
                    self.on_notice(
                        f"stopped before round {current.round + 1}: it would spend more than epsilon "
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
            _keep_rounds(self.run_folder.metrics, current.round)
        return Outcome(current.average or current.weights, current.round, interrupted, self.crew.trainer)

    def _draw_cohort(self, number: int, attempt: int) -> list[int]:
        if self._by_client:  # a round that is run again asks the same, who were charged for it
            rng = generator(self.private_seed, "cohort", number)
        else:  # others than those who did not answer
            rng = generator(self.experiment.seed, "cohort", number, *((attempt,) if attempt else ()))

        def draw(clients: int) -> list[int]:
            # Of a fleet not everyone is there: clients join with their chance, or as many as wanted do.
            wanted = self.cohort / self.dataset.clients * clients if self._by_client else min(self.cohort, clients)
            return draw_cohort(clients, wanted, poisson=self._by_client, rng=rng)

        return self.crew.choose(number, draw)

    @property
    def _never_the_same(self) -> bool:
        """Whether a round that is run again releases something new: what split server and devices answer each other."""
        return self.plan is not None and self.plan.split and self.crew.patient

    @property
    def _by_client(self) -> bool:
        """Whether clients are the protected unit of a trusted server, which samples them as privacy counts on."""
        return self.plan is not None and (self.plan.unit, self.plan.noise) == ("client", "server")

    def _round(self, before: Checkpoint, cohort: list[int]) -> tuple[Checkpoint, RoundMetrics, str] | None:
        """Run one round; return the state after it, its metrics, and the last failure's reason.

        None if nobody answered and the crew is one to wait for: then nothing came of it, and the round is not lost.
        """
        started = time.perf_counter()
        number = before.round + 1
        if self.plan is not None:
            charge = self._charge(self.plan, number, cohort)
            if charge is not None:
                self.ledger.charge(charge)

        # Flower's strategies cannot configure a round of nobody: an empty Poisson cohort is shown one client, which
        # is then not asked.
        grid = self.crew.grid(cohort or [0])
        config = ConfigRecord({"local-settings": self.local_settings().to_json()})
        messages = list(self.strategy.configure_train(number, to_record(before.weights), config, grid))
        messages = messages if cohort else []
        replies = self.crew.train(messages)
        if self._never_the_same and self.crew.released:
            self.draw = secrets.token_hex(8)
        accepted, reasons = self._check(replies, before.weights)
        if self.crew.patient and messages and not accepted:
            self.on_notice(f"round {number} is run again: {reasons[-1][1] if reasons else 'nobody answered'}")
            return None
        weights = self._aggregate(number, accepted, before.weights)

        after = self._after(before, number, weights)
        loss, accuracy = self._evaluate(number, weights)
        size = sum(array.nbytes for array in before.weights.values())
        bytes_up, bytes_down = self.crew.moved(size, len(messages), len(accepted))
        metrics = RoundMetrics(
            round=number,
            loss=loss,
            accuracy=accuracy,
            cohort=len(cohort),
            replies=len(accepted),
            failures=len(messages) - len(accepted),
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            seconds=round(time.perf_counter() - started, 4),
            epsilon=None if self.plan is None else round(self.ledger.epsilon(self.plan.delta, self.plan.accountant), 4),
        )
        append_line(self.run_folder.metrics, asdict(metrics))
        checkpoint.save(self.run_folder.checkpoint, after)
        for client, reason in reasons:
            self.on_notice(f"round {number}: {self.crew.name_of(client)} left out: {reason}")
        self.on_round(metrics)
        return after, metrics, reasons[-1][1] if reasons else ""

    def _can_afford(self, number: int, cohort: list[int]) -> bool:
        if self.plan is None:
            return True
        charge = self._charge(self.plan, number, cohort)
        if charge is None:
            return True
        after = self.ledger.epsilon_with(charge, self.plan.delta, self.plan.accountant)
        return after <= self.plan.target_epsilon * (1 + 1e-6)

    def _charge(self, plan: Plan, number: int, cohort: list[int]) -> Charge | None:
        """Return what a round uses; None if all of it was charged before.

        A round that is run again with other clients, since nobody answered, charges those who were not charged yet:
        of the others nothing was released.
        """
        whom = None if self._by_client or self.crew.is_everyone(cohort) else tuple(cohort)
        draw = self.draw
        if self.crew.patient and whom is not None:
            before = self.ledger.charged(number, self.draw)
            whom = tuple(client for client in whom if client not in before)
            draw = f"{self.draw} {len(before)}" if before else self.draw
            if not whom:
                return None
        return Charge(number, plan.unit, plan.noise, plan.noise_multiplier, plan.sample_rate, plan.steps, whom, draw)

    def local_settings(self) -> LocalSettings:
        """Return a round's instructions to its clients."""
        training, privacy, plan = self.experiment.training, self.experiment.privacy, self.plan
        common = LocalSettings(
            epochs=training.epochs,
            batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            momentum=training.momentum,
        )
        if plan is None:
            return common
        if plan.unit == "client":
            noise = plan.noise_multiplier * plan.sensitivity if plan.noise == "client" else 0.0
            return replace(common, update_clip=plan.clip, update_noise=noise)
        works: dict[str, Work] = {"server": "clipped-sum", "client": "dp-sgd"}
        if plan.split:
            works = {"server": "dp-sgd", "client": "local-dp"}
        return replace(
            common,
            work=works[plan.noise],
            steps=plan.steps,
            clip=plan.clip,
            sample_rate=privacy.sample_rate,
            noise_multiplier=plan.noise_multiplier,
        )

    def _check(self, replies: list[Message], weights: Weights) -> tuple[list[Message], list[tuple[int, str]]]:
        """Sort replies into accepted ones, and (client, reason) of those that cost their update."""
        accepted, reasons = [], []
        for reply in replies:
            problem = reply.error.reason if reply.has_error() else problem_with(read_arrays(reply), weights)
            if problem is None:
                accepted.append(reply)
            else:
                reasons.append((self.crew.client_of(reply.metadata.src_node_id), problem))
        return accepted, reasons

    def _aggregate(self, number: int, replies: list[Message], weights: Weights) -> Weights:
        privacy, plan = self.experiment.privacy, self.plan
        if plan is not None and plan.noise == "server" and not plan.split:
            if plan.unit == "client":
                expected = float(self.cohort)
            else:
                expected = plan.sample_rate * self._examples() * self.cohort / self.dataset.clients
            # Noise of another scale is other noise: the same at two scales could be taken off by subtraction.
            scale = f"{plan.noise_multiplier!r} {plan.clip!r}"
            rng = generator(self.private_seed, "server noise", scale, number)
            mean = noised_mean(replies, weights, plan, expected, privacy.learning_rate, rng)
            replies = [as_only_reply(mean, 0)]
        if not replies:
            return weights
        try:
            record, _ = self.strategy.aggregate_train(number, replies)
        except Exception as error:  # strategies raise many kinds, and may be the user's own
            name = self.experiment.federation.strategy
            raise TrainingError(f"round {number}: {name} could not aggregate the updates: {error}") from error
        if record is None:
            return weights
        assert isinstance(record, ArrayRecord)
        new = {name: array.numpy().astype(weights[name].dtype) for name, array in record.items()}
        if problem := problem_with(new, weights):
            raise TrainingError(
                f"round {number}: {self.experiment.federation.strategy} gave unusable weights ({problem}): "
                "lower the learning rate"
            )
        return new

    def _examples(self) -> int:
        examples = self.crew.examples()
        if examples is None:
            raise DataError("unit example with noise by the server needs to know how many examples there are in all")
        return examples

    def _after(self, before: Checkpoint, number: int, weights: Weights) -> Checkpoint:
        """Return the new state; in the last rounds the running mean of the weights moves on too."""
        federation = self.experiment.federation
        average, averaged = before.average, before.averaged
        if number > federation.rounds * (1 - federation.average_last):
            averaged += 1
            old = average or weights
            average = {name: old[name] + (w - old[name]) / averaged for name, w in weights.items()}
            average = {name: array.astype(weights[name].dtype) for name, array in average.items()}
        arrays, description, skipped = strategies.state(self.strategy)
        if number == 1 and skipped:
            self.on_notice(
                f"the strategy's {', '.join(skipped)} cannot be kept in checkpoints: a resumed run starts them anew"
            )
        return Checkpoint(number, weights, average, averaged, arrays, description)

    def _evaluate(self, number: int, weights: Weights) -> tuple[float | None, float | None]:
        federation = self.experiment.federation
        if number % federation.evaluate_every and number != federation.rounds:
            return None, None
        loss, accuracy = evaluate(self.model, weights, self.dataset.test)
        return round(loss, 6) if isfinite(loss) else None, round(accuracy, 6)


def plan_of(experiment: Experiment, dataset: FederatedDataset) -> Plan | None:
    """Return the plan of an experiment's privacy; None without privacy.

    Raises:
        PrivacyError: the target cannot be reached.
    """
    if not experiment.privacy.on:
        return None
    federation = experiment.federation
    rate = (federation.cohort or dataset.clients) / dataset.clients
    releases = RELEASES if experiment.split.cut else None
    plan = make_plan(experiment.privacy, federation.rounds, rate, experiment.training.epochs, releases)
    deviation = 2 * plan.noise_multiplier * experiment.split.activation_clip
    if plan.split and plan.noise == "client" and not deviation < LARGEST / 10:
        raise PrivacyError(
            f"activations would have noise of deviation {deviation:.3g}: lower split.activation_clip, or raise "
            "privacy.epsilon"
        )
    return plan


def _keep_rounds(path: Path, last: int) -> None:
    """Drop the metrics of rounds after the checkpoint: they will be run again."""
    lines = [line for line in read_lines(path) if line["round"] <= last]
    if path.exists():
        write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))
