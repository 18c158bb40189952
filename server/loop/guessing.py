"""Says when a network has learnt nothing: its measure is what guessing gives, a tenth of the rounds in."""

from math import ceil

from edgekit.objectives import Figures

LEAST_ROUNDS = 20
"""Shorter runs are over before anybody could change something."""
MARGIN = 0.02
"""By which the measure must have left the level of guessing."""


class Guessing:
    """Looks once, at the first measured round after a tenth of them.

    Args:
        rounds: of the run.
        rate: name of the key that sets the step size.
    """

    def __init__(self, rounds: int, rate: str) -> None:
        self._from, self._rounds, self._rate = ceil(rounds / 10), rounds, rate
        self._looked = rounds < LEAST_ROUNDS

    def notice(self, number: int, found: Figures) -> str:
        """Return a line for people, "" if nothing is to be said.

        Args:
            number: of the round.
            found: of its model on the test set.
        """
        if self._looked or not self._from <= number < self._rounds:  # at its end nothing can be changed any more
            return ""
        self._looked = True
        if not found.score < found.guess + MARGIN:
            return ""
        return (
            f"after {number} of {self._rounds} rounds {found.measure} {found.score:.3f} is what guessing gives "
            f"({found.guess:.3f}): try {self._rate} a third or three times as large, training.warm_up = "
            f"{max(2, self._rounds // 10)}, or model.norm = 'group'; edgekit new --model NAME writes what a network of "
            "the zoo learns with"
        )
