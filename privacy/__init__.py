"""Differential privacy: mechanisms, accounting, the ledger, and plain words about what a guarantee covers."""

from typing import Any

from edgekit.guarantee import Charge, Plan, Schedule, Statement
from edgekit.privacy.accounting import epsilon, solve_noise_multiplier
from edgekit.privacy.ledger import Ledger

__all__ = ["Charge", "Ledger", "Plan", "Schedule", "Statement", "epsilon", "plan", "solve_noise_multiplier"]


def __getattr__(name: str) -> Any:
    # Planning knows all mechanisms, which know this package.
    if name == "plan":
        from edgekit.privacy.planning import plan

        return plan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
