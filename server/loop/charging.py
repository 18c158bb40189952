"""Privacy's side of the loop: what a round is charged, and what its clients are told."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import replace

from edgekit.algorithms.base import Algorithm
from edgekit.asks import LocalSettings, Work
from edgekit.clients.split.device import RELEASES
from edgekit.data import FederatedDataset
from edgekit.errors import ExperimentError, PrivacyError
from edgekit.experiment import Experiment
from edgekit.privacy import Charge, Ledger, Plan, make_plan
from edgekit.runfolder import RunFolder
from edgekit.server.loop import selection
from edgekit.server.loop.selection import Selector
from edgekit.split.codec import LARGEST


class Charging:
    """Counts a run's privacy, each round before it happens.

    Args:
        experiment: the experiment.
        plan: of its privacy; None without.
        run: the run folder.
        private_seed: a secret number that outlives this process; None for one of this run.

    Attributes:
        plan: as given.
        ledger: what was charged.
        seed: the number that privacy rests on: from the experiment's seed for a simulation that can be repeated, or
            nobody's to know.
    """

    def __init__(self, experiment: Experiment, plan: Plan | None, run: RunFolder, private_seed: int | None) -> None:
        self._experiment, self.plan = experiment, plan
        self.ledger = Ledger(run.privacy)
        seeded = experiment.privacy.randomness == "seed"
        if private_seed is not None:
            self.seed = private_seed
            self._draw = hashlib.sha256(f"draw {private_seed}".encode()).hexdigest()[:16]
        else:
            self.seed = experiment.seed if seeded else secrets.randbits(128)
            self._draw = f"seed {experiment.seed}" if seeded else secrets.token_hex(8)

    @property
    def by_client(self) -> bool:
        """Whether clients are the protected unit of a trusted server, which samples them as privacy counts on: then who
        is drawn is secret, and a round is charged to everybody."""
        plan = self.plan
        return plan is not None and (plan.unit, plan.noise) == ("client", "server") and plan.sample_rate < 1

    @property
    def epsilon(self) -> float | None:
        """What is spent so far; None without privacy."""
        if self.plan is None:
            return None
        return round(self.ledger.epsilon(self.plan.delta, self.plan.accountant), 4)

    def forget_draw(self) -> None:
        """Name the random numbers anew: what was released with them is never the same again."""
        self._draw = secrets.token_hex(8)

    def can_afford(self, number: int, whom: Sequence[int] | None, *, again: bool) -> bool:
        """Whether a round leaves the target unbroken; arguments as of `charge`."""
        charge = self._charge(number, whom, again=again)
        if self.plan is None or charge is None:
            return True
        after = self.ledger.epsilon_with(charge, self.plan.delta, self.plan.accountant)
        return after <= self.plan.target_epsilon * (1 + 1e-6)

    def charge(self, number: int, whom: Sequence[int] | None, *, again: bool) -> None:
        """Write down what a round uses.

        Args:
            number: of the round.
            whom: clients that take part; None is everybody.
            again: whether the round may be one that is run again with other clients, since nobody answered. Those who
                were charged for it before are not charged again: of them nothing was released.

        Raises:
            RunFolderError: it cannot be written; then the data must not be used.
        """
        charge = self._charge(number, whom, again=again)
        if charge is not None:
            self.ledger.charge(charge)

    def _charge(self, number: int, whom: Sequence[int] | None, *, again: bool) -> Charge | None:
        plan, draw = self.plan, self._draw
        if plan is None:
            return None
        charged = None if whom is None or self.by_client else tuple(whom)
        if again and charged is not None:
            before = self.ledger.charged(number, self._draw)
            charged = tuple(client for client in charged if client not in before)
            draw = f"{self._draw} {len(before)}" if before else self._draw
            if not charged:
                return None
        return Charge(number, plan.unit, plan.noise, plan.noise_multiplier, plan.sample_rate, plan.steps, charged, draw)

    def local_settings(self) -> LocalSettings:
        """Return a round's instructions to its clients."""
        training, privacy, plan = self._experiment.training, self._experiment.privacy, self.plan
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
            bounds = plan.bounds if len(plan.bounds) > 1 else {}
            return replace(common, update_clip=plan.clip, update_noise=noise, update_bounds=bounds)
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


def releases_aggregate(experiment: Experiment) -> bool:
    """Whether a method gets nothing but what noise by the server released."""
    return experiment.privacy.on and experiment.privacy.noise == "server" and not experiment.split.cut


def check_method(experiment: Experiment, algorithm: Algorithm) -> None:
    """See that a method goes with the rest of an experiment.

    Raises:
        ExperimentError: it does not; the message tells what would.
    """
    privacy, federation, split = experiment.privacy, experiment.federation, experiment.split
    which = f"federation.{'strategy' if federation.strategy else 'algorithm'} {federation.method}"
    if (split.cut or split.parties) and not algorithm.plain:
        raise ExperimentError(f"{which} has a client half of its own, which split learning leaves no room for")
    if privacy.on and algorithm.losses:
        raise ExperimentError(f"{which} needs the clients' losses, which private clients keep")
    if privacy.unit == "example" and privacy.noise == "server" and not split.cut:
        if algorithm.proximal:
            raise ExperimentError(
                f"{which} has no effect here: with unit example and noise by the server a round is a single gradient "
                "step, taken at the global weights"
            )
        if not algorithm.plain:
            raise ExperimentError(
                f"{which} has a client half of its own, but with unit example and noise by the server a round is a "
                "single gradient step: use privacy.noise = 'client', or privacy.unit = 'client'"
            )


def selector_of(experiment: Experiment) -> Selector:
    """Return who draws an experiment's cohorts.

    Raises:
        ExperimentError: there is no such selector.
    """
    trusted = (experiment.privacy.unit, experiment.privacy.noise) == ("client", "server")
    return selection.make(experiment.federation.selector or ("poisson" if trusted else "uniform"))


def bounds_of(experiment: Experiment, bundles: Sequence[str]) -> dict[str, float]:
    """Return how far one client may move each bundle that it sends; {} where clients are not the protected unit.

    Raises:
        ExperimentError: one has no bound, or there is a bound of none.
    """
    privacy = experiment.privacy
    if privacy.unit != "client":
        return {}
    first, *others = bundles
    for bundle in others:
        if bundle not in privacy.clips:
            raise ExperimentError(
                f"federation.algorithm {experiment.federation.method} sends {bundle} beside {first}: say in "
                f"privacy.clips.{bundle} how far one client may move it, as privacy.clip says of {first}"
            )
    if unknown := sorted(set(privacy.clips) - set(others)):
        raise ExperimentError(
            f"privacy.clips.{unknown[0]}: {experiment.federation.method} sends no {unknown[0]} beside {first}"
        )
    return {first: privacy.clip, **{bundle: privacy.clips[bundle] for bundle in others}}


def plan_of(experiment: Experiment, dataset: FederatedDataset, algorithm: Algorithm) -> Plan | None:
    """Return the plan of an experiment's privacy; None without privacy.

    Raises:
        PrivacyError: the target cannot be reached.
        ExperimentError: a bundle of the method has no bound.
    """
    if not experiment.privacy.on:
        return None
    federation = experiment.federation
    rate = selector_of(experiment).sampling(federation.cohort or dataset.clients, dataset.clients).amplifies
    releases = RELEASES if experiment.split.cut else None
    plan = make_plan(experiment.privacy, federation.rounds, rate, experiment.training.epochs, releases)
    plan = replace(plan, bounds=bounds_of(experiment, algorithm.bundles))
    deviation = 2 * plan.noise_multiplier * experiment.split.activation_clip
    if plan.split and plan.noise == "client" and not deviation < LARGEST / 10:
        raise PrivacyError(
            f"activations would have noise of deviation {deviation:.3g}: lower split.activation_clip, or raise "
            "privacy.epsilon"
        )
    return plan
