"""The ledger: every use of data is written down, on the disk, before it happens."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

from edgekit.errors import PrivacyError
from edgekit.privacy.accounting import History, epsilon
from edgekit.runfolder import append_line, read_lines


@dataclass(frozen=True)
class Charge:
    """One round's use of data.

    Attributes:
        round: the round.
        unit: `example` or `client`.
        noise: `server` or `client`.
        noise_multiplier: of the Gaussian mechanism.
        sample_rate: Poisson rate of a unit in a step.
        steps: mechanism steps.
        clients: whose data is charged; None is everybody's.
        draw: names the random numbers, so that a round repeated with the same ones, which releases nothing new, is
            told from one with fresh numbers, which does.
    """

    round: int
    unit: str
    noise: str
    noise_multiplier: float
    sample_rate: float
    steps: int
    clients: tuple[int, ...] | None
    draw: str

    def __post_init__(self) -> None:
        """Refuse what cannot be counted.

        Raises:
            PrivacyError: a number is out of range.
        """
        if not (isfinite(self.noise_multiplier) and 0 < self.sample_rate <= 1 and self.steps >= 1):
            raise PrivacyError(f"this is not a charge that can be counted: {self}")


class Ledger:
    """Charges of one run, in `privacy.jsonl`.

    Args:
        path: the file; charges already there count.

    Raises:
        PrivacyError: the file holds a line that is not a charge. Nothing is guessed about spent privacy.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._charges: set[Charge] = set()
        self._everyone: Counter[tuple[float, float]] = Counter()
        self._own: dict[int, Counter[tuple[float, float]]] = {}
        self._epsilons: dict[tuple[object, ...], float] = {}
        for line in read_lines(path):
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
        append_line(self.path, asdict(charge))
        self._count(charge)

    def epsilon(self, delta: float, accountant: str) -> float:
        """Return what the most-charged unit has spent."""
        return self._spent(tuple(self.most_charged(delta, accountant)), delta, accountant)

    def most_charged(self, delta: float, accountant: str) -> History:
        """Return what was done with the most-charged unit's data: (noise multiplier, sample rate, steps) by kind."""
        histories = {self._history(own) for own in self._own.values()} or {self._history(Counter())}
        return max(histories, key=lambda history: self._spent(history, delta, accountant))

    def epsilon_with(self, charge: Charge, delta: float, accountant: str) -> float:
        """Return what the most-charged unit would have spent after another charge."""
        if charge in self._charges:
            return self.epsilon(delta, accountant)
        clients = self._own if charge.clients is None else charge.clients
        more = Counter({(charge.noise_multiplier, charge.sample_rate): charge.steps})
        histories = {self._history(self._own.get(client, Counter()) + more) for client in clients}
        histories = histories or {self._history(more)}
        return max(
            [self._spent(history, delta, accountant) for history in histories] + [self.epsilon(delta, accountant)]
        )

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
        self._charges.add(charge)
        key = (charge.noise_multiplier, charge.sample_rate)
        for counter in self._counters(charge.clients):
            counter[key] += charge.steps

    def _counters(self, clients: tuple[int, ...] | None) -> Iterable[Counter[tuple[float, float]]]:
        return [self._everyone] if clients is None else [self._own.setdefault(client, Counter()) for client in clients]

    def _history(self, own: Counter[tuple[float, float]]) -> tuple[tuple[float, float, int], ...]:
        return tuple(sorted((noise, rate, steps) for (noise, rate), steps in (own + self._everyone).items()))

    def _spent(self, history: tuple[tuple[float, float, int], ...], delta: float, accountant: str) -> float:
        key = (history, delta, accountant)
        if key not in self._epsilons:
            self._epsilons[key] = epsilon(history, delta, accountant)
        return self._epsilons[key]
