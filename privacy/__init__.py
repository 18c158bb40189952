"""Differential privacy: mechanisms, planning, the ledger, and plain words about what they cover."""

from edgekit.privacy.accounting import epsilon, solve_noise_multiplier
from edgekit.privacy.ledger import Charge, Ledger
from edgekit.privacy.plan import Plan, make_plan, sensitivity
from edgekit.privacy.statement import covered, not_covered, summary

__all__ = [
    "Charge",
    "Ledger",
    "Plan",
    "covered",
    "epsilon",
    "make_plan",
    "not_covered",
    "sensitivity",
    "solve_noise_multiplier",
    "summary",
]
