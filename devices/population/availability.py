"""When devices are there: at all times, or by a day's pattern. Traces of files are in `traces`."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.randomness import generator

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Places = NDArray[np.int64]
HOUR, DAY = 3600.0, 86400.0
SLOT = HOUR / 2
"""Seconds over which a day's pattern stays as it is."""
EVENING, MORNING, HABITS = 22.5, 7.0, 1.0
"""Hours at which phones are plugged in and unplugged, and how much people differ in both."""
USED_BY_DAY, USED_BY_NIGHT, PLUGGED_BY_DAY = 0.6, 0.05, 0.15
"""Chance of a phone to be in its owner's hands, or on a charger by day, in a slot. Four times as many are free at night
as by day, as in Bonawitz et al. 2019 (section 9)."""
AWAY, LEAVES, RETURNS = 0.6, 8.5, 18.0
"""Share of phones that are away from their own network by day, and the hours at which they leave and return."""
USE_WATTS = 1.0
"""That a phone draws in its owner's hands."""


@dataclass(frozen=True)
class Presence:
    """How devices are at one time, a value for each.

    Attributes:
        free: whether its owner leaves it to us.
        charging: whether it hangs on a charger; devices without a battery always do.
        metered: whether its network is metered.
        used: watts that its owner's use draws.
    """

    free: Booleans
    charging: Booleans
    metered: Booleans
    used: Floats


class Availability(Protocol):
    """When devices are there."""

    def at(self, time: float) -> Presence:
        """Return how devices are, so many seconds after midnight of the first day."""

    def changes(self, time: float) -> float:
        """Return the next time, after this one, at which it may be otherwise."""


class Always:
    """All devices are there, on mains."""

    def __init__(self, devices: int) -> None:
        yes, no = np.ones(devices, bool), np.zeros(devices, bool)
        self._found = Presence(yes, yes, no, np.zeros(devices))

    def at(self, time: float) -> Presence:
        """Return that they are."""
        return self._found

    def changes(self, time: float) -> float:
        """Return that they always are."""
        return np.inf


class Day:
    """Phones are free when nobody uses them, mostly at night, when they charge at home; boards are always there.

    Args:
        phones: which devices are phones.
        seed: of habits, and of each half-hour's chances.
    """

    def __init__(self, phones: Booleans, seed: int) -> None:
        self._phones, self._seed = phones, seed
        rng = generator(seed, "devices", "habits")
        evening, morning = rng.normal((EVENING, MORNING), HABITS, (len(phones), 2)).T
        self._evening, self._morning = evening % 24, morning % 24
        self._away = rng.random(len(phones)) < AWAY
        self._kept: tuple[int, Presence] | None = None

    def at(self, time: float) -> Presence:
        """Return how devices are in this half-hour."""
        slot = int(time // SLOT)
        if self._kept is None or self._kept[0] != slot:
            self._kept = slot, self._drawn(slot)
        return self._kept[1]

    def changes(self, time: float) -> float:
        """Return the next half-hour's begin."""
        return (time // SLOT + 1) * SLOT

    def _drawn(self, slot: int) -> Presence:
        hour = slot * SLOT % DAY / HOUR
        asleep = _between(hour, self._evening, self._morning)
        used, plugged = generator(self._seed, "devices", "slot", slot).random((2, len(self._phones)))
        in_hand = self._phones & (used < np.where(asleep, USED_BY_NIGHT, USED_BY_DAY))
        charging = ~self._phones | asleep | (plugged < PLUGGED_BY_DAY)
        metered = self._phones & self._away & (LEAVES <= hour < RETURNS)
        return Presence(~in_hand, charging, metered, np.where(in_hand, USE_WATTS, 0.0))


def _between(hour: float, start: Floats, end: Floats) -> Booleans:
    """Whether an hour of the day is from one to the other, perhaps over midnight."""
    return np.where(start <= end, (start <= hour) & (hour < end), (hour >= start) | (hour < end))
