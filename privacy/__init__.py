"""Differential privacy: mechanisms, accounting, the ledger, and plain words about what a guarantee covers."""

from edgekit.guarantee import Charge, Plan, Schedule, Statement
from edgekit.privacy.accounting import epsilon, solve_noise_multiplier
from edgekit.privacy.ledger import Ledger

__all__ = ["Charge", "Ledger", "Plan", "Schedule", "Statement", "epsilon", "solve_noise_multiplier"]
