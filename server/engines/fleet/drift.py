"""Drift watch: whether the nodes' inputs, or the network's confidence in them, move away from where they were."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Array
from edgekit.clients.node.statistics import NAMES, SENSITIVITY
from edgekit.runfolder import append_line, read_lines

DEVIATIONS = 4.0
"""Deviations of the reports' own noise and sampling beyond which a change counts: one false alarm in 16,000."""
LEAST_CHANGE = 0.03
"""Smaller changes, on scales of 0 to 1, are never worth a word."""
SPREAD = 0.25
"""Assumed standard deviation of one example's statistic; 0.5 is the most that numbers in 0..1 can have."""


class DriftWatch:
    """Compares each report of a fleet with its first.

    Args:
        path: `drift.jsonl` of the run; reports already there count.
        on_notice: called with a line for people when something drifted.
    """

    def __init__(self, path: Path, on_notice: Callable[[str], None]) -> None:
        self._path, self._on_notice = path, on_notice
        self._first: dict[str, Any] | None = next(iter(read_lines(path)), None)

    def add(self, number: int, sums: list[Any], noise_multiplier: float) -> list[str]:
        """Take a round's reports; return the names of what drifted.

        Args:
            number: of the round.
            sums: of each node, four numbers; others are left out.
            noise_multiplier: of the nodes' noise.
        """
        taken = [total for total in sums if _fits(total)]
        if not taken:
            return []
        total: Array = np.sum(np.array(taken, np.float64), 0)
        noise = noise_multiplier * SENSITIVITY * math.sqrt(len(taken))
        count = total[-1]
        if count < 3 * noise:  # fewer examples than noise: nothing can be said
            return []
        means = total[:-1] / count
        # Of a ratio, to first order: the sum's noise, the count's noise times the mean, and the sampling.
        errors = np.sqrt((noise**2) * (1 + means**2) / count**2 + SPREAD**2 / count)
        report: dict[str, Any] = {
            "round": number,
            "nodes": len(taken),
            "means": dict(zip(NAMES, means.round(4).tolist(), strict=False)),
            "errors": dict(zip(NAMES, errors.round(4).tolist(), strict=False)),
        }
        drifted = self._compare(report)
        append_line(self._path, {**report, "drifted": drifted})
        self._first = self._first or report
        for name in drifted:
            assert self._first is not None
            before, now = self._first["means"][name], report["means"][name]
            self._on_notice(
                f"drift: the nodes' {name} moved from {before:.3f} to {now:.3f} since round {self._first['round']} "
                "(inputs changed, a sensor is broken, or the network no longer fits them)"
            )
        return drifted

    def _compare(self, report: dict[str, Any]) -> list[str]:
        first = self._first
        if first is None:
            return []
        drifted = []
        for name, now in report["means"].items():
            error = math.hypot(report["errors"][name], first["errors"][name])
            change = now - first["means"][name]
            # A network in training grows more confident, which is no drift.
            change = min(change, 0.0) if name == "confidence" else change
            if abs(change) > max(DEVIATIONS * error, LEAST_CHANGE):
                drifted.append(name)
        return drifted


def _fits(total: Any) -> bool:
    return (
        isinstance(total, list)
        and len(total) == len(NAMES)
        and all(isinstance(value, int | float) and math.isfinite(value) for value in total)
    )
