"""A virtual clock: who is there, how long a round's devices take, and what becomes of their batteries."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Weights
from edgekit.devices.population.availability import HOUR, Availability, Presence
from edgekit.devices.population.kinds import CHARGE_HOURS, Floats, Places, Population, Work
from edgekit.errors import TrainingError
from edgekit.randomness import generator
from edgekit.runfolder import read_lines

LONGEST_WAIT = 14 * 24 * HOUR
"""Seconds after which nobody is waited for any more."""
LATEST = 1e10
"""Seconds that a clock can show; a run of three hundred years is none."""
COLUMNS = 7
"""Of a row of devices.jsonl."""
DONE, LATE, LEFT, EMPTY, SURPLUS = "done", "late", "left", "empty", "surplus"
"""How a device's round can end: its update counts; it was not done by the deadline; its owner took it, or its battery
was empty, before it was done; enough others had answered before."""


@dataclass(frozen=True)
class Outcome:
    """How a round would end for some devices, each by itself; arrays are in the order of `clients`.

    Attributes:
        clients: who.
        ends: how.
        download, compute, upload: seconds that each would take.
        stops: seconds after which each does no more.
    """

    clients: Places
    ends: Sequence[str]
    download: Floats
    compute: Floats
    upload: Floats
    stops: Floats

    @property
    def takes(self) -> Floats:
        """Seconds that each would take to be done."""
        return self.download + self.compute + self.upload


@dataclass(frozen=True)
class Played:
    """A round as devices played it; arrays are in the order of `clients`.

    Attributes:
        clients: who was asked.
        ends: how each one's round ended.
        starts: seconds of the clock at which it began.
        download, compute, upload: seconds that each would take, or took.
        joules: that each drew beside what idling draws.
        over: seconds of the clock at which the round was over.
        began: seconds of the clock at which each began, where they did not begin together.
    """

    clients: Places
    ends: Sequence[str]
    starts: float
    download: Floats
    compute: Floats
    upload: Floats
    joules: Floats
    over: float
    began: Sequence[float] = ()

    @property
    def done(self) -> list[int]:
        """Whose updates count."""
        return [int(one) for one, end in zip(self.clients, self.ends, strict=True) if end == DONE]

    def rows(self) -> list[list[Any]]:
        """Return [client, when it began, seconds of download, training and upload, joules, how it ended] of each."""
        began = self.began or [self.starts] * len(self.clients)
        columns = (began, self.download, self.compute, self.upload, self.joules)
        figures = [[round(float(value), 3) for value in row] for row in zip(*columns, strict=True)]
        return [[int(c), *row, end] for c, row, end in zip(self.clients, figures, self.ends, strict=True)]


@dataclass(frozen=True)
class Loads:
    """What training draws of some devices, evenly from its begin to its end; arrays have a value for each.

    Attributes:
        clients: who.
        watts: that it draws.
        starts, stops: seconds of the clock.
    """

    clients: Places
    watts: Floats
    starts: Floats
    stops: Floats

    @classmethod
    def of(cls, clients: Places, joules: Floats, starts: Floats, stops: Floats) -> "Loads":
        """Return loads that draw so many joules in all."""
        lasts = stops - starts
        watts = np.divide(joules, lasts, out=np.zeros_like(joules), where=lasts > 0)
        return cls(clients, watts, starts, stops)

    def joules(self, since: float, until: float) -> Floats:
        """Return what they draw in a while."""
        found: Floats = self.watts * np.clip(np.minimum(self.stops, until) - np.maximum(self.starts, since), 0.0, None)
        return found


class VirtualClock:
    """The devices' time, in seconds from midnight of the first day.

    Args:
        population: the devices.
        availability: when they are there.
        seed: of how full batteries are at first.
        start: seconds at which round 1 begins.
        least_battery: share of a battery below which a device takes part only when charging.
        metered: whether devices take part when their network is metered.

    Attributes:
        time: now.
        level: how full each battery is, 0 to 1; 1 without one.
        joules: that each device drew for training so far.
        rounds: in which each device's update counted.
    """

    def __init__(
        self,
        population: Population,
        availability: Availability,
        seed: int,
        *,
        start: float = 0.0,
        least_battery: float = 0.3,
        metered: bool = False,
    ) -> None:
        self.population, self._availability = population, availability
        self._least, self._metered = least_battery, metered
        self.time = start
        drawn = generator(seed, "devices", "battery").uniform(0.3, 1.0, len(population))
        self.level = np.where(population.on_battery, drawn, 1.0)
        self.joules, self.rounds = np.zeros(len(population)), np.zeros(len(population))

    def state(self) -> Weights:
        """Return what a checkpoint keeps."""
        return {"time": np.array([self.time]), "level": self.level, "joules": self.joules, "rounds": self.rounds}

    def go_on(self, state: Weights) -> None:
        """Go on from a checkpoint.

        Raises:
            TrainingError: it is of other devices.
        """
        own = self.state()
        if set(state) != set(own) or any(state[name].shape != own[name].shape for name in own):
            raise TrainingError("the checkpoint is of other devices: leave [devices] as it was, or start a new run")
        time, fits = float(state["time"][0]), all(bool(np.isfinite(one).all()) for one in state.values())
        fits = fits and 0 <= time <= LATEST and not any((state[name] < 0).any() for name in own)
        if not fits or state["level"].max() > 1:
            raise TrainingError("the checkpoint's devices are none that can be: it is damaged; start a new run")
        self.time = time
        self.level, self.joules, self.rounds = (np.array(state[name]) for name in ("level", "joules", "rounds"))

    def presence(self) -> Presence:
        """Return how devices are now."""
        return self._availability.at(self.time)

    def there(self) -> Places:
        """Return who can take part now."""
        return np.flatnonzero(self._able(self.presence()))

    def wait(self, wanted: int, longest: float) -> Places:
        """Go on until so many are there, or after so many seconds until somebody is; return them.

        Raises:
            TrainingError: nobody comes.
        """
        started = self.time
        while True:
            there = self.there()
            waited = self.time - started
            if len(there) >= wanted or (len(there) and waited >= longest):
                return there
            until = self._availability.changes(self.time)
            if waited > LONGEST_WAIT or (not np.isfinite(until) and not len(there)):
                raise TrainingError(
                    f"no device is there in {waited / HOUR:.0f} hours of the virtual clock: see devices.availability, "
                    "least_battery and metered"
                )
            patience = started + longest
            self.advance(min(until, patience) if self.time < patience and len(there) else until)

    def play(self, clients: Places, work: Work, *, wanted: int, deadline: float, least: float = 0.0) -> Played:
        """Have devices do their work, and the clock go on until the round is over.

        Args:
            clients: who is asked.
            work: a value for each of them.
            wanted: how many updates are waited for.
            deadline: seconds that are waited for them; 0 is as long as it takes.
            least: seconds after which the next round may begin.
        """
        alone = self.outcome(clients, work, deadline)
        takes, stops = alone.takes, alone.stops
        reason = np.array(alone.ends, dtype=object)
        done = reason == DONE
        order = np.argsort(np.where(done, takes, np.inf), kind="stable")
        counted = order[: min(wanted, int(done.sum()))]
        enough = 0 < wanted <= len(counted)
        over = float(takes[counted[-1]]) if enough else float(stops.max(initial=0.0))
        surplus = done | (stops > over)  # the others were too, whatever would have become of them
        surplus[counted] = False
        reason[surplus] = SURPLUS
        stops = np.minimum(stops, over)
        joules = self.drawn(alone, stops)
        starts = self.time
        self.advance(starts + over, Loads.of(clients, joules, np.full(len(clients), starts), starts + stops))
        self.joules[clients] += joules
        self.rounds[clients[counted]] += 1
        ended = self.time
        self.advance(starts + least)
        times = alone.download, alone.compute, alone.upload
        return Played(clients, [str(one) for one in reason], starts, *times, joules, ended)

    def play_hidden(self, clients: Places, work: Work, seconds: float) -> list[int]:
        """Have devices do their work in a round of a fixed length, of which nobody can tell who took part.

        Time goes on as if nobody did, and batteries feel only what their owners do; so who is there later does not
        depend on who took part.

        Args:
            clients: who is asked.
            work: a value for each of them.
            seconds: that the round lasts.

        Returns:
            Whose updates count.
        """
        found = self.outcome(clients, work, seconds)
        self.advance(self.time + seconds)
        return [int(one) for one, end in zip(clients, found.ends, strict=True) if end == DONE]

    def outcome(self, clients: Places, work: Work, deadline: float) -> Outcome:
        """Return how it would end for devices that begin now, each by itself.

        Args:
            clients: who begins.
            work: a value for each of them.
            deadline: seconds after which each is late; 0 never.
        """
        download, compute, upload = self.population.seconds(clients, work)
        stops = download + compute + upload
        reason = np.full(len(clients), DONE, dtype=object)
        if deadline:
            late = stops > deadline
            reason[late], stops[late] = LATE, deadline
        if len(stops) and stops.max() > LONGEST_WAIT:
            kind = self.population.kinds[self.population.kind[clients[int(stops.argmax())]]]
            raise TrainingError(
                f"a round would take a {kind} {stops.max() / 24 / HOUR:.3g} days of the virtual clock: set "
                "devices.deadline_seconds, or see its profile's figures"
            )
        self._leaving(clients, stops, reason)
        self._running_dry(clients, stops, reason, download, compute, upload)
        return Outcome(clients, [str(one) for one in reason], download, compute, upload, stops)

    def drawn(self, outcome: Outcome, stops: Floats) -> Floats:
        """Return the joules that devices have drawn when they stop after so many seconds."""
        computing = np.clip(stops - outcome.download, 0, outcome.compute)
        return self.population.joules(outcome.clients, computing, stops - computing)

    def advance(self, until: float, loads: "Loads | None" = None) -> None:
        """Let time pass: batteries empty, and fill on chargers.

        Args:
            until: seconds of the clock.
            loads: what training draws meanwhile.
        """
        people, full = self.population, self.population.battery
        while self.time < until:
            to = min(until, max(self._availability.changes(self.time), float(np.nextafter(self.time, np.inf))))
            now = self.presence()
            charger = np.where(now.charging, full / (CHARGE_HOURS * HOUR), 0.0)
            joules = (charger - people.idle - now.used) * (to - self.time)
            if loads is not None:
                np.subtract.at(joules, loads.clients, loads.joules(self.time, to))
            change = np.divide(joules, full, out=np.zeros_like(full), where=full > 0)
            self.level = np.clip(self.level + change, 0.0, 1.0)
            self.time = to

    def _able(self, now: Presence) -> Any:
        """Whether each device is free, has a network that may be used, and a battery that is full enough."""
        able = now.free & (now.charging | (self.level >= self._least) | ~self.population.on_battery)
        return able if self._metered else able & ~now.metered

    def _leaving(self, clients: Places, stops: Floats, reason: Any) -> None:
        """See who is taken by its owner before it is done."""
        start, last = self.time, float(stops.max(initial=0.0))
        at = start
        while (at := self._availability.changes(at)) < start + last:
            now = self._availability.at(at)
            free = now.free if self._metered else now.free & ~now.metered
            gone = ~free[clients] & (stops > at - start)
            stops[gone] = at - start
            reason[gone] = LEFT

    def _running_dry(
        self, clients: Places, stops: Floats, reason: Any, download: Floats, compute: Floats, upload: Floats
    ) -> None:
        """See whose battery is empty before it is done."""
        full = self.population.battery[clients]
        now = self.presence()
        left = self.level[clients] * full
        nothing = np.zeros_like(left)
        beside = self.population.idle[clients] + now.used[clients]
        first = self.population.joules(clients, nothing, download) + beside * download
        second = self.population.joules(clients, compute, nothing) + beside * compute
        third = self.population.joules(clients, nothing, upload) + beside * upload
        ends = _share(left, first) * download
        ends += _share(left - first, second) * compute + _share(left - first - second, third) * upload
        dry = (full > 0) & ~now.charging[clients] & (first + second + third > left) & (ends < stops)
        stops[dry] = ends[dry]
        reason[dry] = EMPTY


def _share(left: Floats, needs: Floats) -> Floats:
    """Return the share of what something needs that is there, 0 to 1."""
    found: Floats = np.divide(np.clip(left, 0.0, needs), needs, out=np.ones_like(needs), where=needs > 0)
    return found


def read_played(path: Path) -> list[dict[str, Any]]:
    """Read devices.jsonl; lines that are none of a round are left out."""
    if not path.exists():
        return []
    return [line for line in read_lines(path) if isinstance(line, dict) and _is_round(line)]


def _is_round(line: dict[str, Any]) -> bool:
    numbers = [line.get(name) for name in ("round", "clock", "seconds")]
    rows = line.get("devices")
    if not isinstance(rows, list):
        return False
    for row in rows:
        if not isinstance(row, list) or len(row) != COLUMNS or not isinstance(row[-1], str):
            return False
        numbers += row[:-1]
    return all(isinstance(one, int | float) and not isinstance(one, bool) and abs(one) <= LATEST for one in numbers)
