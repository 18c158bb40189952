"""A plan without an experiment: what noise so many rounds need, or what epsilon a noise gives."""

from typing import Any

from pydantic import ValidationError

from edgekit.errors import PrivacyError
from edgekit.guarantee import Plan, Schedule
from edgekit.privacy.mechanisms import make
from edgekit.privacy.settings import Privacy
from edgekit.section import first_problem


def plan(*, rounds: int, clients: int, cohort: int = 0, epochs: int = 1, unit: str = "client", **settings: Any) -> Plan:
    """Return what a training of so many rounds must add as noise, and what it spends.

    Args:
        rounds: of the training.
        clients: in all.
        cohort: of a round, on average; 0 is everybody.
        epochs: local passes; of unit example they set the steps of a round.
        unit: whose data one step protects, `example` or `client`.
        settings: more keys of [privacy]: `epsilon`, `delta`, `noise`, `clip`, `sample_rate`, `accountant`.

    Raises:
        PrivacyError: a number is out of range, or the target cannot be reached.

    Example:
        >>> import edgekit
        >>> made = edgekit.privacy.plan(rounds=50, clients=1000, cohort=100, epsilon=4)
        >>> round(made.noise_multiplier, 2), made.epsilon <= 4
        (0.98, True)
    """
    if not all(isinstance(one, int) for one in (rounds, clients, cohort, epochs)):
        raise PrivacyError("rounds, clients, cohort and epochs are whole numbers")
    if rounds < 1 or clients < 1 or epochs < 1 or not 0 <= cohort <= clients:
        raise PrivacyError(
            f"{rounds} rounds of {cohort} of {clients} clients: take 1 or more, and a cohort within them"
        )
    try:
        mechanism = make(Privacy.model_validate({"unit": unit, **settings}))
    except ValidationError as error:
        raise PrivacyError(f"privacy.{first_problem(error)}") from None
    if mechanism is None:
        raise PrivacyError("unit is example or client")
    return mechanism.plan(Schedule(rounds, (cohort or clients) / clients, epochs, ("weights",)))
