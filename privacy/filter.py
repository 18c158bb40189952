"""A ledger over many runs on the same data: its total is fixed first, and no run gets past it.

Within a run all noise is settled before it starts. Which run comes next, and with how much noise, is decided by people
who have seen the runs before, which plain composition does not cover. A Renyi filter does (Feldman & Zrnic 2021,
"Individual privacy accounting via a Renyi filter", section 4): one order is fixed with the total, divergences of that
order add up whoever decides what, and what would go over is not done.

The data is known by keyed hashes of its examples, the smallest of all (a bottom-k sketch). The key lies beside the
file, and neither it nor a hash goes into any report.
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, isfinite, log, log1p
from pathlib import Path
from typing import Any

from edgekit.errors import PrivacyError
from edgekit.guarantee import Charge
from edgekit.privacy.accounting import ORDERS, renyi
from edgekit.privacy.chain import ChainedLines
from edgekit.runfolder import write_whole

KEPT = 1024
"""Hashes of a run's examples, the smallest: of data that grew a hundredfold, some ten are among the new smallest."""
KEY_BYTES = 32


@dataclass(frozen=True)
class Total:
    """What all runs together may spend.

    Attributes:
        epsilon: over all runs.
        delta: the other half of the guarantee.
        unit: whose data it protects, `example` or `client`.
        order: of the Renyi divergence that is added up.
    """

    epsilon: float
    delta: float
    unit: str
    order: int

    @property
    def divergence(self) -> float:
        """What all runs may spend of it (Balle et al. 2020, theorem 21, turned round)."""
        return self.epsilon - _by_order(self.order, self.delta)


def best_order(epsilon: float, delta: float) -> int:
    """Return the order at which a Gaussian mechanism may spend most of a total."""
    found: int = max(ORDERS, key=lambda order: (epsilon - _by_order(order, delta)) / order)
    return found


def _by_order(order: int, delta: float) -> float:
    """Return how much epsilon is above the divergence of an order."""
    return log1p(-1 / order) - (log(delta) + log(order)) / (order - 1)


class Filter:
    """The charges of all runs on the same data.

    Args:
        path: the file, as `create` made it.

    Raises:
        PrivacyError: there is none, or its lines do not follow from each other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            raise PrivacyError(f"{path} is a folder: name the file that edgekit privacy ledger makes")
        self._lines = ChainedLines(path, _beside(path, "head"), always=True)
        if not self._lines.lines:
            raise PrivacyError(
                f"{path} does not exist or is empty: its total is fixed first, as in edgekit privacy ledger {path} "
                "--epsilon 8 --delta 1e-5"
            )
        try:
            total = self._lines.lines[0]["total"]
            self.total = Total(float(total["epsilon"]), float(total["delta"]), total["unit"], int(total["order"]))
            if self.total.order not in ORDERS or not self.total.divergence > 0:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise PrivacyError(f"{path} is no ledger of several runs: its first line has no total") from None
        self._spent: dict[str, float] = {}
        self._known: dict[tuple[str, int, str], tuple[float, float, int]] = {}
        self._hashes: set[str] = set()
        for line in self._lines.lines[1:]:
            try:
                self._count(line)
            except (KeyError, TypeError, ValueError):
                raise PrivacyError(f"{path} holds a line that is not a charge: {str(line)[:100]}") from None

    @classmethod
    def create(cls, path: Path, total: Total) -> "Filter":
        """Fix a total.

        Raises:
            PrivacyError: the file exists, or no order leaves anything to spend.
        """
        for there in (path, _beside(path, "key"), _beside(path, "head")):
            if there.exists():
                raise PrivacyError(f"{there} exists: a total is fixed once; give another name")
        if not (isfinite(total.epsilon) and total.order in ORDERS and total.divergence > 0):
            raise PrivacyError(
                f"at order {total.order} nothing can be spent of epsilon {total.epsilon:g} at delta {total.delta:g}: "
                f"leave --order out, which takes {best_order(total.epsilon, total.delta)}, or raise epsilon"
            )
        write_whole(_beside(path, "key"), secrets.token_hex(KEY_BYTES), mode=0o600)
        ChainedLines(path, _beside(path, "head")).append({"total": vars(total)})
        return cls(path)

    @property
    def runs(self) -> dict[str, float]:
        """Share of the total that each run has spent."""
        return {run: spent / self.total.divergence for run, spent in self._spent.items()}

    @property
    def head(self) -> str:
        """What stands for all lines so far."""
        return self._lines.head

    def holds(self, head: str) -> bool:
        """Whether this ledger goes on where `head` was that of one."""
        return self._lines.holds(head)

    @property
    def rounds(self) -> int:
        """How many rounds were charged, over all runs."""
        return len({(run, number) for run, number, _ in self._known})

    @property
    def left(self) -> float:
        """Share of the total that is left."""
        return max(0.0, 1 - sum(self._spent.values()) / self.total.divergence)

    @property
    def epsilon(self) -> float:
        """What all runs have spent so far; at most the total."""
        spent = sum(self._spent.values())
        return spent + _by_order(self.total.order, self.total.delta) if spent else 0.0

    def share(self, noise_multiplier: float, sample_rate: float, steps: int) -> float:
        """Return the share of the total that so many steps spend."""
        return steps * renyi(noise_multiplier, sample_rate, self.total.order) / self.total.divergence

    def spent_by(self, run: str) -> float:
        """Return the share of the total that a run has spent."""
        return self._spent.get(run, 0.0) / self.total.divergence

    def check_unit(self, unit: str) -> None:
        """See that charges of a unit can be counted here.

        Raises:
            PrivacyError: they cannot.
        """
        if self.total.unit == "client" and unit == "example":
            raise PrivacyError(
                f"{self.path} protects all data of a client together, which is void once single examples' is spent: "
                "use another ledger, or privacy.unit = 'client'"
            )

    def charge(self, run: str, charges: Sequence[Charge]) -> None:
        """Write down what a round spends, before it does; what was written before is not counted again.

        Raises:
            PrivacyError: there is not enough left; nothing is written then.
        """
        with self._alone() as there:
            new, spends = there._new(run, charges)
            if spends > there.left + 1e-9:
                raise PrivacyError(
                    f"{self.path} has {100 * there.left:.3g} % of its total left, and this round would spend "
                    f"{100 * spends:.3g} %: nothing more can be learnt from these data"
                )
            for one in new:
                self.check_unit(one.unit)
                there._append(
                    {
                        "run": run, "round": one.round, "draw": one.draw, "unit": one.unit,
                        "noise_multiplier": one.noise_multiplier, "sample_rate": one.sample_rate, "steps": one.steps,
                    }
                )  # fmt: skip

    def can_afford(self, run: str, charges: Sequence[Charge]) -> bool:
        """Whether there is enough left for a round, whoever has charged meanwhile."""
        there = Filter(self.path)
        return there._new(run, charges)[1] <= there.left + 1e-9

    def _new(self, run: str, charges: Sequence[Charge]) -> tuple[list[Charge], float]:
        """Return the charges that were not written before, and the share of the total that they spend."""
        new = []
        for one in charges:
            settings = (one.noise_multiplier, one.sample_rate, one.steps)
            known = self._known.get((run, one.round, one.draw))
            if known is None:
                new.append(one)
            elif known != settings:
                raise PrivacyError(
                    f"{self.path} holds round {one.round} of {run} with other settings: the privacy of a run under way "
                    "cannot be changed; start a new run"
                )
        return new, sum(self.share(one.noise_multiplier, one.sample_rate, one.steps) for one in new)

    def check_data(self, examples: Iterable[bytes]) -> None:
        """See that these are the data that were charged before, or more of them; keep what they are known by.

        Args:
            examples: the bytes of each.

        Raises:
            PrivacyError: they are others, or the key is missing.
        """
        found = self._sketch(examples)
        with self._alone() as there:
            if there._hashes and not there._hashes & found:
                raise PrivacyError(
                    f"{self.path} counts other data: none of these examples was in the runs before; give these a "
                    "ledger of their own"
                )
            if new := sorted(found - there._hashes):
                there._append({"data": new})

    def _sketch(self, examples: Iterable[bytes]) -> set[str]:
        key_file = _beside(self.path, "key")
        try:
            key = bytes.fromhex(key_file.read_text())
            if len(key) != KEY_BYTES:
                raise ValueError
        except (OSError, ValueError):
            raise PrivacyError(
                f"{key_file} cannot be read: put it back; without it nobody can tell which data {self.path} counts"
            ) from None
        hashes = {hashlib.blake2b(one, key=key, digest_size=8).hexdigest() for one in examples}
        return set(sorted(hashes)[:KEPT])

    @contextmanager
    def _alone(self) -> Iterator["Filter"]:
        """Give the ledger as it is now, which no other process writes meanwhile; then go on with it."""
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            there = Filter(self.path)
            yield there
            vars(self).update(vars(there))
        finally:
            os.close(descriptor)

    def _append(self, line: dict[str, Any]) -> None:
        self._lines.append(line)
        self._count(line)

    def _count(self, line: dict[str, Any]) -> None:
        if "data" in line:
            self._hashes |= set(line["data"])
            return
        run, noise, rate, steps = line["run"], line["noise_multiplier"], line["sample_rate"], line["steps"]
        self._known[run, line["round"], line["draw"]] = (noise, rate, steps)
        spent = steps * renyi(noise, rate, self.total.order)
        self._spent[run] = self._spent.get(run, 0.0) + (spent if spent == spent else inf)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")
