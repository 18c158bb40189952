"""Reads clients' replies: what is wrong with an update, and the one form that all updates have from there on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgekit.algorithms.base import Algorithm, answer_like, expected_of
from edgekit.arrays import Weights
from edgekit.asks import BUFFERS, Ask, Bundles, Reply, Update, check_noisable, mean_of, problem_with_update
from edgekit.errors import DataError, ExperimentError, ModelError, TrainingError
from edgekit.server.engines.base import Taken

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """Reads replies for a method; what the method does wrong says that it is its fault.

    Attributes:
        algorithm: the method.
        method: its name, for messages.
        noised: whether privacy adds noise to all that clients send.
    """

    algorithm: Algorithm
    method: str
    noised: bool

    def expected(self, number: int, ask: Ask) -> Bundles:
        """Return arrays such as an ask's answer must have."""
        like: Bundles = self.tried(number, "could not say what it expects", lambda: expected_of(self.algorithm, ask))
        if BUFFERS in like:
            raise TrainingError(f"round {number}: {self.method} may not call a bundle {BUFFERS!r}: that is taken")
        if set(like) != set(self.algorithm.bundles):
            raise TrainingError(
                f"round {number}: {self.method} expects the bundles {', '.join(like)}, but declares "
                f"{', '.join(self.algorithm.bundles)} (bundles = …)"
            )
        if self.noised:
            check_noisable(like)
        return like

    def taken(self, number: int, replies: Sequence[Reply], asks: Mapping[int, Ask], weights: Weights) -> Taken:
        """Return valid updates in the one form that all have from here on, and who gave none.

        Args:
            number: of the round.
            replies: to be read.
            asks: what each client was asked.
            weights: that clients began with.
        """
        accepted: dict[int, Update] = {}
        reasons = []
        like: dict[int, Bundles] = {}  # of asks, which most clients share
        for reply in replies:
            problem = reply.problem
            if reply.update is not None:
                ask = asks[reply.client]
                if id(ask) not in like:
                    self.expected(number, ask)
                    like[id(ask)] = answer_like(self.algorithm, ask)
                problem = problem_with_update(reply.update, like[id(ask)])
            if reply.update is not None and not problem:
                variances = [n for n in reply.update.bundles.get(BUFFERS, {}) if n.endswith("running_var")]
                if below := [n for n in variances if (reply.update.bundles[BUFFERS][n] < 0).any()]:
                    problem = f"{below[0]!r} is a variance below zero"
            if reply.update is None or problem:
                reasons.append((reply.client, problem))
            else:
                accepted[reply.client] = reply.update
        whole = self.algorithm.whole
        updates = self.tried(
            number,
            "could not read the updates",
            lambda: {client: whole(update, asks[client], weights) for client, update in accepted.items()},
        )
        return Taken(updates, len(updates), reasons)

    def whole_like(self, number: int, ask: Ask, weights: Weights) -> Bundles:
        """Return arrays such as updates have in that form."""
        like = self.expected(number, ask)
        if not self.algorithm.unequal:
            return like
        return self.tried(number, "could not say what it expects", lambda: self.algorithm.whole_like(ask, weights))

    def tried(self, number: int, problem: str, call: Callable[[], T]) -> T:
        """Call what may be the user's own; what goes wrong there says whose fault it is."""
        try:
            return call()
        except (DataError, ExperimentError, ModelError):
            raise
        except Exception as error:
            if isinstance(error, TrainingError) and str(error).startswith("round "):
                raise
            told = " ".join(str(error).split()) or type(error).__name__
            raise TrainingError(f"round {number}: {self.method} {problem}: {told}") from error


@dataclass(frozen=True)
class Folding:
    """Reads replies, and keeps the mean of them alone.

    Attributes:
        reading: for which method.
        number: of the round.
        weights: that clients began with.
    """

    reading: Reading
    number: int
    weights: Weights

    def __call__(self, replies: Sequence[Reply], asks: Mapping[int, Ask]) -> Taken:
        """Return the mean of the valid updates, under the first one's client's number."""
        taken = self.reading.taken(self.number, replies, asks, self.weights)
        if not taken.updates:
            return taken
        bundles, facts = mean_of(list(taken.updates.values()))
        weight = sum(one.weight for one in taken.updates.values())
        return Taken({next(iter(taken.updates)): Update(bundles, weight, facts)}, taken.count, taken.reasons)
