"""How often somebody may do something: what the network reaches is not to be tried out by the million."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable

MOST_KEYS = 10_000


class Throttle:
    """Counts what each of many does in the last minute.

    Args:
        a_minute: how often each may.
        clock: seconds.
    """

    def __init__(self, a_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = a_minute, clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def too_often(self, who: str) -> bool:
        """Count one more; return whether that is too many."""
        now = self._clock()
        times = self._times.setdefault(who, deque())
        self._times.move_to_end(who)
        while times and times[0] < now - 60:
            times.popleft()
        while len(self._times) > MOST_KEYS:
            self._times.popitem(last=False)
        if len(times) >= self._most:
            return True
        times.append(now)
        return False
