"""What a device lets be spent of its own data's privacy. No torch: every device keeps one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isclose

from edgekit.asks import Train
from edgekit.clients.trainer import Trainer
from edgekit.data import Examples
from edgekit.errors import PrivacyError
from edgekit.local_settings import LocalSettings
from edgekit.privacy import Charge, Ledger, epsilon
from edgekit.privacy.mechanisms.client_by_client import sensitivity

ACCOUNTANT = "pld-numpy"
"""What a device reckons with: it needs no package."""


@dataclass(frozen=True)
class PlannedRun:
    """What one task plans to spend of a device's privacy, settled before it begins.

    Attributes:
        name: of the plan.
        steps: how many there are of each kind: (noise multiplier, sample rate) -> steps.
        delta: with which it was planned.
    """

    name: str
    steps: Mapping[tuple[float, float], int]
    delta: float

    @property
    def epsilon(self) -> float:
        """What all of it spends."""
        history = [(noise, rate, steps) for (noise, rate), steps in self.steps.items()]
        return epsilon(history, self.delta, ACCOUNTANT)


class Budget:
    """What a device lets be spent of its data's privacy, and the ledger that counts it.

    Args:
        ledger: the device's own, on its disk. What it counts holds as far as the training file clips as it says, so
            the file must come from somebody the device trusts.
        epsilon: over all rounds, whoever asks.
        delta: the other half of the guarantee.
        unit: whose data it limits: one example's, which a charge for all of the device's spends too, or all of it.
        planned: of the task; what goes beyond it is counted by itself.
    """

    def __init__(
        self, ledger: Ledger, epsilon: float, delta: float, unit: str = "example", planned: PlannedRun | None = None
    ) -> None:
        self.ledger, self.epsilon, self.delta, self.unit = ledger, epsilon, delta, unit
        self._planned = planned

    def spent(self, *charges: Charge) -> float:
        """Return what was spent, and would be with further charges.

        Each planned run is one history, counted together, since it was settled beforehand. Which run comes next, or
        what goes beyond a plan, may depend on what was seen: their epsilons, at delta each, add up (Rogers et al.
        2016, basic composition).
        """
        whole = self._planned
        found = 0.0
        for name, history in self.ledger.by_plan(*charges).items():
            own = epsilon(history, self.delta, ACCOUNTANT)
            if whole is not None and name == whole.name and whole.delta <= self.delta:
                own = min(own, whole.epsilon)  # a part of a plan spends no more than all of it
            found += own
        return found

    def spend(self, settings: LocalSettings, draw: str, releases: int = 1) -> None:
        """Write down what a round will spend, before it does.

        Args:
            settings: the round's instructions.
            draw: names the round's random numbers. The same work on the same weights with the same numbers releases
                nothing new, so it is charged once however often it is repeated.
            releases: of `local-dp`, how often an example takes part in something noised, in one epoch.

        Raises:
            PrivacyError: the round does not protect the data, or there is not enough left; nothing is spent then.
        """
        charge = _charge(settings, self.ledger.round_of(draw) or self.ledger.rounds + 1, draw, releases)
        if charge is None:
            raise PrivacyError(
                "this device protects its data itself, but the round asks for an update without noise of its own: "
                "set privacy.noise = 'client'"
            )
        self.charge(charge)

    def charge(self, charge: Charge) -> None:
        """Write a charge down, if there is enough left.

        Raises:
            PrivacyError: there is not; nothing is spent then.
        """
        charge = self._as_planned(charge)
        if self.unit == "client" and any(one.unit == "example" for one in (*self.ledger.charges, charge)):
            raise PrivacyError(
                "a guarantee for all of this device's data together is void once single examples' were spent: take "
                "part with another --folder and other data"
            )
        after = self.spent(charge)
        if not after <= self.epsilon:
            raise PrivacyError(
                f"this device will spend epsilon {self.epsilon:.4g} at delta {self.delta:g} and no more; with this "
                f"round it would have spent {after:.4g}"
            )
        self.ledger.charge(charge)

    def _as_planned(self, charge: Charge) -> Charge:
        """Return a charge as it was written before, or as part of the plan as far as that reaches."""
        for before in self.ledger.charges:
            if replace(before, plan="") == charge:
                return before
        if self._planned is None:
            return charge
        for (noise, rate), steps in self._planned.steps.items():

            def alike(one: Charge, noise: float = noise, rate: float = rate) -> bool:
                return one.sample_rate == rate and isclose(one.noise_multiplier, noise, rel_tol=1e-6)

            if alike(charge):
                made = sum(one.steps for one in self.ledger.charges if one.plan == self._planned.name and alike(one))
                if made + charge.steps <= steps:
                    # In the plan's own number, which rounding may have moved by its last digit.
                    return replace(
                        charge, noise_multiplier=min(noise, charge.noise_multiplier), plan=self._planned.name
                    )
        return charge


def _charge(settings: LocalSettings, number: int, draw: str, releases: int) -> Charge | None:
    """Return what a round spends by noise that this client adds; None if it adds none."""
    if settings.work == "local-dp" and settings.noise_multiplier > 0:
        steps = settings.epochs * releases
        return Charge(number, "example", "client", settings.noise_multiplier, 1.0, steps, None, draw)
    if settings.work == "dp-sgd" and settings.noise_multiplier > 0:
        noise, rate, steps = settings.noise_multiplier, settings.sample_rate, settings.steps
        return Charge(number, "example", "client", noise, rate, steps, None, draw)
    if settings.work == "sgd" and settings.update_clip and settings.update_noise:
        noise = settings.update_noise / sensitivity(settings.update_clip)
        return Charge(number, "client", "client", noise, 1.0, 1, None, draw)
    return None


def charge_for(trainer: Trainer, budget: Budget, asked: Train, examples: Examples, draw: str) -> None:
    """Charge a round before anything is done for it, whatever is then done: what cannot be done is found out first.

    Args:
        trainer: the device's.
        budget: what may be spent.
        asked: weights, and the round's instructions.
        examples: that it trains on.
        draw: names the round's random numbers, as in `Budget.spend`.

    Raises:
        EdgekitError: it cannot be done, does not protect the data, or would overspend; nothing is charged then.
    """
    trainer.check(asked, examples)
    budget.spend(asked.settings, draw)
