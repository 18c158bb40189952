"""The ledger: every use of data is written down, on the disk, before it happens."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from operator import le
from pathlib import Path

from edgekit.errors import PrivacyError
from edgekit.guarantee import Charge
from edgekit.privacy.accounting import History, epsilon
from edgekit.privacy.chain import ChainedLines

_Steps = tuple[tuple[float, float, int], ...]
"""A history: (noise multiplier, sample rate, steps) by kind."""

MONOTONE = ("pld", "rdp")
"""Accountants that never find less for more steps."""


class Ledger:
    """Charges of one run, or of a node, in `privacy.jsonl`: lines that follow from each other.

    Args:
        path: the file; charges already there count.
        head: where the head is kept beside it; None where checkpoints do.

    Raises:
        PrivacyError: the file holds a line that is not a charge, or does not follow, or ends too early. Nothing is
            guessed about spent privacy.
    """

    def __init__(self, path: Path, head: Path | None = None) -> None:
        self.path = path
        self._lines = ChainedLines(path, head)
        self._charges: dict[Charge, None] = {}
        self._everyone: Counter[tuple[float, float]] = Counter()
        self._own: dict[int, Counter[tuple[float, float]]] = {}
        self._epsilons: dict[tuple[object, ...], float] = {}
        for line in self._lines.lines:
            try:
                clients = line["clients"]
                self._count(Charge(**{**line, "clients": None if clients is None else tuple(clients)}))
            except (KeyError, TypeError):
                raise PrivacyError(f"{path} holds a line that is not a charge: {line}") from None

    def charge(self, charge: Charge) -> None:
        """Write a charge down, and count it; one written before, with the same random numbers, is not counted again.

        Raises:
            RunFolderError: it cannot be written; then the data must not be used.
            PrivacyError: the round was charged with the same random numbers and other settings.
        """
        if charge in self._charges:
            return
        if any((made.round, made.draw) == (charge.round, charge.draw) for made in self._charges):
            raise PrivacyError(
                f"{self.path} holds round {charge.round} with other settings: the privacy of a run under way cannot be "
                "changed; start a new run"
            )
        # As lines always were, where a charge is of no plan.
        self._lines.append({key: value for key, value in asdict(charge).items() if key != "plan" or value})
        self._count(charge)

    @property
    def head(self) -> str:
        """What stands for all charges so far; "" before the first."""
        return self._lines.head

    def holds(self, head: str) -> bool:
        """Whether this ledger goes on where `head` was that of one."""
        return self._lines.holds(head)

    def epsilon(self, delta: float, accountant: str) -> float:
        """Return what the most-charged unit has spent."""
        return self._spent(tuple(self.most_charged(delta, accountant)), delta, accountant)

    def most_charged(self, delta: float, accountant: str) -> History:
        """Return what was done with the most-charged unit's data: (noise multiplier, sample rate, steps) by kind."""
        histories = {self._history(own) for own in self._own.values()} or {self._history(Counter())}
        return max(_undominated(histories, accountant), key=lambda history: self._spent(history, delta, accountant))

    def epsilon_with(self, charges: Sequence[Charge], delta: float, accountant: str) -> float:
        """Return what the most-charged unit would have spent after further charges."""
        more: dict[int | None, Counter[tuple[float, float]]] = {None: Counter()}
        for charge in charges:
            if charge not in self._charges:
                kind = Counter({(charge.noise_multiplier, charge.sample_rate): charge.steps})
                for client in (None,) if charge.clients is None else charge.clients:
                    more[client] = more.get(client, Counter()) + kind
        everybody = more[None]
        histories = {
            self._history(self._own.get(client, Counter()) + everybody + more.get(client, Counter()))
            for client in {*self._own, *(client for client in more if client is not None)}
        } or {self._history(everybody)}
        return max(self._spent(history, delta, accountant) for history in _undominated(histories, accountant))

    @property
    def charges(self) -> Sequence[Charge]:
        """All that was charged, in the order in which it was."""
        return tuple(self._charges)

    def round_of(self, draw: str) -> int | None:
        """Return the round that was charged under these random numbers; None if none was."""
        return next((charge.round for charge in self._charges if charge.draw == draw), None)

    def charged(self, number: int, draw: str) -> set[int]:
        """Return the clients that a round was charged to so far, under random numbers whose name begins so."""
        found = [charge for charge in self._charges if charge.round == number and charge.draw.startswith(draw)]
        return {client for charge in found for client in charge.clients or ()}

    @property
    def rounds(self) -> int:
        """How many rounds were charged."""
        return len({charge.round for charge in self._charges})

    def _count(self, charge: Charge) -> None:
        self._charges[charge] = None
        key = (charge.noise_multiplier, charge.sample_rate)
        for counter in self._counters(charge.clients):
            counter[key] += charge.steps

    def _counters(self, clients: tuple[int, ...] | None) -> Iterable[Counter[tuple[float, float]]]:
        return [self._everyone] if clients is None else [self._own.setdefault(client, Counter()) for client in clients]

    def _history(self, own: Counter[tuple[float, float]]) -> _Steps:
        return _history(own + self._everyone)

    def _spent(self, history: _Steps, delta: float, accountant: str) -> float:
        key = (history, delta, accountant)
        if key not in self._epsilons:
            self._epsilons[key] = epsilon(history, delta, accountant)
        return self._epsilons[key]


def _undominated(histories: Iterable[_Steps], accountant: str) -> list[_Steps]:
    """Return the histories that may have spent most: more steps of the same kinds do not spend less.

    But for `prv`, whose figures go up and down by its grid.
    """
    if accountant not in MONOTONE:
        return list(histories)
    kinds: dict[tuple[tuple[float, float], ...], set[tuple[int, ...]]] = {}
    for history in histories:
        steps = kinds.setdefault(tuple((noise, rate) for noise, rate, _ in history), set())
        steps.add(tuple(number for _, _, number in history))
    return [
        tuple((*one, number) for one, number in zip(kind, own, strict=True))
        for kind, each in kinds.items()
        for own in each
        if not any(other != own and all(map(le, own, other)) for other in each)
    ]


def _history(counted: Counter[tuple[float, float]]) -> _Steps:
    return tuple(sorted((noise, rate, steps) for (noise, rate), steps in counted.items()))
