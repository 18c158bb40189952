"""Privacy's side of the loop: which mechanism a run has, and what its rounds are charged before they happen."""

import hashlib
import secrets
from collections.abc import Sequence

from edgekit.algorithms.base import Algorithm
from edgekit.data import FederatedDataset
from edgekit.errors import ExperimentError, PrivacyError
from edgekit.guarantee import Charge, Plan, Schedule
from edgekit.privacy import Ledger
from edgekit.runfolder import RunFolder
from edgekit.server.loop import selection
from edgekit.server.settings import Sections
from edgekit.transforms.base import Mechanism, Transform


class Charging:
    """Counts a run's privacy, each round before it happens.

    Args:
        experiment: the experiment.
        mechanism: of its privacy, planned; None without.
        run: the run folder.
        private_seed: a secret number that outlives this process; None for one of this run.

    Attributes:
        ledger: what was charged.
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

    def can_afford(self, number: int, whom: Sequence[int] | None, *, again: bool) -> bool:
        """Whether a round leaves the target unbroken; arguments as of `charge`."""
        plan, charges = self._plan, self._charges(number, whom, again=again)
        if plan is None or not charges:
            return True
        after = self.ledger.epsilon_with(charges, plan.delta, plan.accountant)
        return after <= plan.target_epsilon * (1 + 1e-6)

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
        for charge in self._charges(number, whom, again=again):
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
    mechanism.check(algorithm, which, transforms)
    sampling = selection.make(federation.selector or mechanism.selector).sampling(
        federation.cohort or dataset.clients, dataset.clients
    )
    units = dataset.clients if experiment.privacy.unit == "client" else dataset.total_examples
    if units and experiment.privacy.delta > 1 / units:
        raise PrivacyError(
            f"privacy.delta {experiment.privacy.delta:g} is above 1/{units}: so much could be given away of one of "
            f"{units} and still be called private; take less"
        )
    epochs, bundles = experiment.training.epochs, tuple(algorithm.bundles)
    mechanism.plan(Schedule(federation.rounds, sampling.amplifies, epochs, bundles, federation.method))
    return mechanism
