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
from edgekit.privacy.accounting import History
from edgekit.privacy.mechanisms.client_by_client import sensitivity

ACCOUNTANT = "pld-numpy"
"""What a device reckons with: it needs no package."""


ALONE = "alone "
"""Beginning of the plan of a charge that is part of none."""


@dataclass(frozen=True)
class PlannedRun:
    """What one task plans to spend of a device's privacy, settled before it begins.

    Attributes:
        name: of the plan.
        steps: how many there are of each kind: (noise multiplier, sample rate) -> steps.
    """

    name: str
    steps: Mapping[tuple[float, float], int]

    @property
    def history(self) -> History:
        """All of it."""
        return tuple(sorted((noise, rate, steps) for (noise, rate), steps in self.steps.items()))

    def to_text(self) -> str:
        """Return it as it stands in a ledger."""
        return f"{self.name} " + ";".join(f"{noise!r},{rate!r},{steps}" for noise, rate, steps in self.history)

    @classmethod
    def from_text(cls, text: str) -> "PlannedRun":
        """Read what `to_text` gave.

        Raises:
            PrivacyError: it is no plan.
        """
        name, _, kinds = text.partition(" ")
        try:
            found = [kind.split(",") for kind in kinds.split(";")]
            return cls(name, {(float(noise), float(rate)): int(steps) for noise, rate, steps in found})
        except ValueError:
            raise PrivacyError(f"a ledger holds a plan that cannot be read: {text[:100]!r}") from None


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
        """Return what was spent, and would be with further charges: of each plan that was begun all of it.

        A plan is one history, since it was settled beforehand, and it counts whole from its first round on: when it
        ends early may depend on what was seen. So may which one comes next, and what goes beyond a plan, charge by
        charge. Their epsilons add up, the first at `delta`, each further one at half the delta of that before it, so
        that all of them together stay below twice `delta` (Rogers et al. 2016, basic composition as a filter).
        """
        return sum(
            epsilon(history, self.delta / 2**place, ACCOUNTANT)
            for place, history in enumerate(self.histories(*charges).values())
        )

    def histories(self, *charges: Charge) -> dict[str, History]:
        """Return what counts together, in the order in which it was begun, and with further charges."""
        found: dict[str, History] = {}
        earlier: dict[tuple[float, float], int] = {}  # as devices wrote it once: without plans
        for charge in (*self.ledger.charges, *(one for one in charges if one not in self.ledger.charges)):
            kind = (charge.noise_multiplier, charge.sample_rate)
            if not charge.plan:
                earlier[kind] = earlier.get(kind, 0) + charge.steps
                found["earlier"] = PlannedRun("earlier", earlier).history
            elif charge.plan.startswith(ALONE):
                found[charge.plan] = ((*kind, charge.steps),)
            elif charge.plan not in found:
                found[charge.plan] = PlannedRun.from_text(charge.plan).history
        if self._planned is not None and earlier and self._planned.to_text() in found:
            made = self._made()
            if all(made.get(kind, 0) <= self._planned.steps.get(kind, 0) for kind in {*earlier, *made}):
                del found["earlier"]  # rounds of the same plan, from before plans were written down
        return found

    def _made(self) -> dict[tuple[float, float], int]:
        """Return the steps of each kind that the plan has made, also before plans were written down."""
        made: dict[tuple[float, float], int] = {}
        assert self._planned is not None
        for one in self.ledger.charges:
            if one.plan in ("", self._planned.to_text()):
                own = (one.noise_multiplier, one.sample_rate)
                kind = next((kind for kind in self._planned.steps if _alike(one, kind)), own)
                made[kind] = made.get(kind, 0) + one.steps
        return made

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
                f"round it would have spent {after:.4g}, all that was planned with it"
            )
        self.ledger.charge(charge)

    def _as_planned(self, charge: Charge) -> Charge:
        """Return a charge as it was written before, or as part of the plan as far as that reaches."""
        for before in self.ledger.charges:
            same = (before.draw, before.unit, before.steps) == (charge.draw, charge.unit, charge.steps)
            if same and _alike(before, (charge.noise_multiplier, charge.sample_rate)):
                return before
        if self._planned is not None:
            for kind, steps in self._planned.steps.items():
                if _alike(charge, kind) and self._made().get(kind, 0) + charge.steps <= steps:
                    # In the plan's own number, which rounding may have moved by its last digit.
                    noise = min(kind[0], charge.noise_multiplier)
                    return replace(charge, noise_multiplier=noise, plan=self._planned.to_text())
        return replace(charge, plan=f"{ALONE}{charge.draw}")


def _alike(charge: Charge, kind: tuple[float, float]) -> bool:
    return charge.sample_rate == kind[1] and isclose(charge.noise_multiplier, kind[0], rel_tol=1e-6)


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
