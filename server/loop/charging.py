"""Privacy's side of the loop: which mechanism a run has, and what its rounds are charged before they happen."""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgekit.algorithms.base import Algorithm
from edgekit.data import FederatedDataset
from edgekit.errors import EdgekitError, ExperimentError, PrivacyError
from edgekit.guarantee import Charge, Plan, Schedule
from edgekit.privacy import Ledger
from edgekit.privacy.filter import Filter
from edgekit.runfolder import RunFolder, secret_number, write_whole
from edgekit.server.loop import selection
from edgekit.server.settings import Sections
from edgekit.transforms.base import Mechanism, Transform

RUN, HEAD = "run.txt", "ledger.head"
"""In a run's checkpoints: the number by which the ledger of all runs on the same data knows it, and that one's head."""


class Charging:
    """Counts a run's privacy, each round before it happens.

    Args:
        experiment: the experiment.
        mechanism: of its privacy, planned; None without.
        run: the run folder.
        private_seed: a secret number that outlives this process; None for one of this run.

    Raises:
        PrivacyError: the ledger of all runs on these data has not enough left, or does not fit.

    Attributes:
        ledger: what was charged.
        shared: the ledger of all runs on the same data; None of an experiment that names none.
        seed: the number that privacy rests on: from the experiment's seed for a simulation that can be repeated, or
            nobody's to know.
    """

    def __init__(
        self, experiment: Sections, mechanism: Mechanism | None, run: RunFolder, private_seed: int | None
    ) -> None:
        self._mechanism = mechanism
        self.ledger = Ledger(run.privacy)
        seeded = experiment.privacy.randomness == "seed"
        if private_seed is not None:
            self.seed = private_seed
            self._draw = hashlib.sha256(f"draw {private_seed}".encode()).hexdigest()[:16]
        else:
            self.seed = experiment.seed if seeded else secrets.randbits(128)
            self._draw = f"seed {experiment.seed}" if seeded else secrets.token_hex(8)
        self.shared: Filter | None = None
        if mechanism is not None and experiment.privacy.ledger:
            if private_seed is None and seeded:
                raise PrivacyError(
                    "privacy.ledger adds up runs whose noise is new in each, but the experiment's seed would draw the "
                    "same again: set privacy.randomness = 'system'"
                )
            self.shared = Filter(Path(experiment.privacy.ledger).absolute())
            self._name, self._run_file, self._shared_head = experiment.name, run.checkpoint / RUN, run.checkpoint / HEAD
            if self._shared_head.exists() and not self.shared.holds(self._shared_head.read_text().strip()):
                raise PrivacyError(
                    f"{self.shared.path} is not the ledger that this run was charged to, or was rolled back: name that "
                    "one in privacy.ledger, or put it back"
                )
            self._check_room(self.shared, mechanism.plan_made)

    @property
    def _run(self) -> str:
        """What the ledger of all runs knows this one by, over restarts."""
        lost = PrivacyError(f"{self._run_file} cannot be read: put it back, or start a new run")
        return f"{self._name} {secret_number(self._run_file, 64, lost):016x}"

    def _check_room(self, shared: Filter, plan: Plan) -> None:
        """See that the whole run has room in the ledger of all runs: one that ends half-way is worth nothing."""
        shared.check_unit(plan.unit)
        whole = shared.share(plan.noise_multiplier, plan.sample_rate, plan.steps * plan.rounds)
        more = whole - shared.spent_by(self._run) if self._run_file.exists() else whole
        if more > shared.left + 1e-9:
            raise PrivacyError(
                f"{shared.path} has {100 * shared.left:.3g} % of its total left (epsilon {shared.total.epsilon:g} at "
                f"delta {shared.total.delta:g} over all runs on these data), and this run plans to spend "
                f"{100 * more:.3g} %: lower privacy.epsilon, or take fewer rounds"
            )

    def check_data(self, dataset: FederatedDataset) -> None:
        """See that the ledger of all runs counts these data, where an experiment names one.

        Raises:
            PrivacyError: it counts others, or too much could be given away of one of so few.
        """
        if self.shared is None:
            return
        units = dataset.clients if self.shared.total.unit == "client" else dataset.total_examples
        if units and self.shared.total.delta > 1 / units:
            raise PrivacyError(
                f"{self.shared.path} has delta {self.shared.total.delta:g}, above 1/{units}: so much could be given "
                f"away of one of {units} and still be called private; make one with less"
            )
        self.shared.check_data(_bytes_of(dataset, whole=self.shared.total.unit == "client"))

    @property
    def hides_cohort(self) -> bool:
        """Whether who is drawn is secret, and a round is charged to everybody."""
        return self._mechanism is not None and self._mechanism.hides_cohort

    @property
    def epsilon(self) -> float | None:
        """What is spent so far; None without privacy."""
        plan = self._plan
        return None if plan is None else round(self.ledger.epsilon(plan.delta, plan.accountant), 4)

    def check_goes_on(self, head: str, number: int) -> None:
        """See that the ledger holds what was spent until a checkpoint.

        Args:
            head: of the ledger, as the checkpoint keeps it.
            number: of its round.

        Raises:
            PrivacyError: it does not.
        """
        if not self.ledger.holds(head):
            raise PrivacyError(
                f"{self.ledger.path} does not hold what was spent until round {number}: it was cut, deleted, or is "
                "another run's; put this run's own back, or start a new run"
            )

    def forget_draw(self) -> None:
        """Name the random numbers anew: what was released with them is never the same again."""
        self._draw = secrets.token_hex(8)

    def obstacle(self, number: int, whom: Sequence[int] | None, *, again: bool) -> str:
        """Return why a round would go too far, "" if it would not; arguments as of `charge`."""
        plan, charges = self._plan, self._charges(number, whom, again=again)
        if plan is None or not charges:
            return ""
        if self.shared is not None and not self.shared.can_afford(self._run, charges):
            return f"{self.shared.path} has not enough left, which other runs on the same data have spent"
        if self.ledger.epsilon_with(charges, plan.delta, plan.accountant) <= plan.target_epsilon * (1 + 1e-6):
            return ""
        target = f"epsilon {plan.target_epsilon:g}"
        return f"it would spend more than {target}, since rounds repeated with fresh noise count too"

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
        charges = self._charges(number, whom, again=again)
        if self.shared is not None:
            self.shared.charge(self._run, charges)
            write_whole(self._shared_head, f"{self.shared.head}\n")
        for charge in charges:
            self.ledger.charge(charge)

    @property
    def _plan(self) -> Plan | None:
        return None if self._mechanism is None else self._mechanism.planned

    def _charges(self, number: int, whom: Sequence[int] | None, *, again: bool) -> list[Charge]:
        if self._mechanism is None:
            return []
        draw = self._draw
        charged = None if whom is None or self.hides_cohort else tuple(whom)
        if again and charged is not None:
            before = self.ledger.charged(number, self._draw)
            charged = tuple(client for client in charged if client not in before)
            draw = f"{self._draw} {len(before)}" if before else self._draw
            if not charged:
                return []
        return self._mechanism.charges(number, charged, draw)


def _bytes_of(dataset: FederatedDataset, *, whole: bool) -> Iterator[bytes]:
    """Yield each example's bytes, or all of each client's together; of clients that cannot be loaded none."""
    for client in range(dataset.clients):
        try:
            examples = dataset.load_client(client)
        except EdgekitError:
            continue
        each = [x.tobytes() + y.tobytes() for x, y in zip(examples.x, examples.y, strict=False)]
        yield from [b"".join(sorted(each))] if whole else each


def planned(
    experiment: Sections,
    dataset: FederatedDataset,
    algorithm: Algorithm,
    mechanism: Mechanism | None,
    transforms: Sequence[Transform] = (),
) -> Mechanism | None:
    """Let a mechanism plan for an experiment; return it.

    Raises:
        PrivacyError: the target cannot be reached.
        ExperimentError: it does not go with the method; the message tells what would.
    """
    if mechanism is None:
        return None
    federation = experiment.federation
    which = f"federation.{'strategy' if federation.strategy else 'algorithm'} {federation.method}"
    if algorithm.losses:
        raise ExperimentError(f"{which} needs the clients' losses, which private clients keep")
    if experiment.privacy.noise == "client" and (small := [one for one in transforms if one.compacts]):
        raise ExperimentError(
            f"federation.transforms: {type(small[0]).__name__} makes updates small, which noise by the client undoes: "
            "use privacy.noise = 'server', or leave it out"
        )
    if algorithm.trainings > 1:
        raise ExperimentError(
            f"{which} has clients train {algorithm.trainings} times a round, privacy is planned for one: use another"
        )
    mechanism.check(algorithm, which, transforms)
    selector = selection.make(federation.selector or mechanism.selector)
    if "losses" in selection.reads_of(selector):
        raise ExperimentError(
            f"federation.selector {federation.selector!r} goes by the clients' losses, so that one client's data would "
            "change who else takes part: use uniform, poisson, round-robin, fair or battery-aware"
        )
    sampling = selector.sampling(federation.cohort or dataset.clients, dataset.clients)
    units = dataset.clients if experiment.privacy.unit == "client" else dataset.total_examples
    if units and experiment.privacy.delta > 1 / units:
        raise PrivacyError(
            f"privacy.delta {experiment.privacy.delta:g} is above 1/{units}: so much could be given away of one of "
            f"{units} and still be called private; take less"
        )
    epochs, bundles = experiment.training.epochs, tuple(algorithm.bundles)
    # With devices time depends on who takes part, and so does who is there then.
    displaces = (sampling.kind == "fixed" and sampling.rate < 1) or (experiment.devices.on and sampling.amplifies == 1)
    mechanism.plan(Schedule(federation.rounds, sampling.amplifies, epochs, bundles, federation.method, displaces))
    return mechanism
