"""When devices are there, by a file: CSV of intervals, or JSON as FedScale's traces have it (Lai et al. 2022)."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.population.availability import DAY, HOUR, Floats, Presence
from edgekit.errors import UsageError

COLUMNS = ("device", "start", "end")
YES, NO = ("1", "true", "yes"), ("0", "false", "no", "")
LARGEST = 64 << 20
"""Bytes of a file that are read."""
SHORTEST, SHORTEST_PERIOD = 1.0, 60.0
"""Seconds of an interval, and after which traces begin anew."""


@dataclass(frozen=True)
class Interval:
    """A time at which a device is there, in seconds.

    Attributes:
        charging: whether it hangs on a charger then.
        metered: whether its network is metered.
    """

    start: float
    end: float
    charging: bool = True
    metered: bool = False


class Trace:
    """Devices that are there in intervals, over and over again.

    Args:
        devices: intervals of each, in order; a population of more devices begins with the first again.
        period: seconds after which it begins anew.
        count: devices there are.
    """

    def __init__(self, devices: Sequence[Sequence[Interval]], period: float, count: int) -> None:
        self._period, self._nothing = period, np.zeros(count)
        places = [place % len(devices) for place in range(count)]
        lengths = [len(devices[place]) for place in places]
        flat = [one for place in places for one in devices[place]]
        self._starts, self._ends = (np.array([getattr(one, key) for one in flat]) for key in ("start", "end"))
        self._charging = np.array([one.charging for one in flat])
        self._metered = np.array([one.metered for one in flat])
        self._times: Floats = np.unique(np.concatenate([[0.0, period], self._starts, self._ends]))
        self._owner = np.repeat(np.arange(count), lengths)

    def at(self, time: float) -> Presence:
        """Return who is there. Of who is not, nothing is known: such devices charge meanwhile."""
        now = time % self._period
        inside = (self._starts <= now) & (now < self._ends)
        owners = self._owner[inside]
        free, charging, metered = (np.zeros(len(self._nothing), bool) for _ in range(3))
        free[owners] = True
        charging[owners], metered[owners] = self._charging[inside], self._metered[inside]
        return Presence(free, charging | ~free, metered, self._nothing)

    def changes(self, time: float) -> float:
        """Return when the next interval begins or ends."""
        whole, now = divmod(time, self._period)
        place = int(np.searchsorted(self._times, now, side="right"))
        found = whole * self._period + (self._times[place] if place < len(self._times) else self._period)
        return float(found) if found > time else float(np.nextafter(time, np.inf))


def read(path: Path, count: int) -> Trace:
    """Read a file of traces for so many devices.

    Raises:
        UsageError: it cannot be read, or its intervals do not fit; the line or device is named.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"devices.availability: {path} is larger than {LARGEST >> 20} MB: cut it")
        text = path.read_text("utf-8-sig")  # spreadsheets begin files with a mark
    except OSError as error:
        raise UsageError(
            f"devices.availability: {path} cannot be read: {error.strerror}; give 'day', 'always', or a file of traces"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"devices.availability: {path} is no text: give CSV or JSON") from None
    found, period = _from_json(text, path) if path.suffix == ".json" else _from_csv(text, path)
    for device, intervals in found.items():
        _check(device, intervals, path)
    if not any(found.values()):
        raise _wrong(path, "no device is ever there: give each its intervals")
    return Trace(list(found.values()), period, count)


def _from_csv(text: str, path: Path) -> tuple[dict[str, list[Interval]], float]:
    """Read lines `device,start,end[,charging][,metered]`, in hours; they begin anew after whole days."""
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    try:
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise _wrong(path, f"its first line must name {', '.join(COLUMNS)}, and may name charging, metered")
        found: dict[str, list[Interval]] = {}
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row or any(row[name] in (None, "") for name in COLUMNS):
                raise _wrong(path, f"{where} has a gap: each line needs {', '.join(COLUMNS)}")
            start, end = (_number(row[name], path, where) * HOUR for name in ("start", "end"))
            charging = _flag(row.get("charging", "1"), path, where)
            found.setdefault(row["device"], []).append(
                Interval(start, end, charging, _flag(row.get("metered", "0"), path, where))
            )
    except csv.Error as error:
        raise _wrong(path, str(error)) from None
    last = max((one.end for intervals in found.values() for one in intervals), default=0.0)
    return found, max(1.0, np.ceil(last / DAY)) * DAY


def _from_json(text: str, path: Path) -> tuple[dict[str, list[Interval]], float]:
    """Read `{"1": {"active": [seconds …], "inactive": [seconds …], "finish_time": seconds}, …}`."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"it is no JSON: {error}") from None
    if not isinstance(told, dict):
        raise _wrong(path, "it must be a table of devices, each with active, inactive and finish_time")
    found: dict[str, list[Interval]] = {}
    period = 0.0
    for device, one in told.items():
        where = f"device {device[:40]!r}"
        lists = [one.get(key) if isinstance(one, dict) else None for key in ("active", "inactive")]
        if not all(isinstance(each, list) for each in lists):
            raise _wrong(path, f"{where} needs the lists active and inactive, as FedScale's traces have them")
        starts, ends = ([_number(each, path, where) for each in one or ()] for one in lists)
        if len(starts) != len(ends):
            raise _wrong(path, f"{where} has a gap: {len(starts)} times active, {len(ends)} inactive")
        found[device] = [Interval(start, end) for start, end in zip(starts, ends, strict=True)]
        period = max([period, _number(one.get("finish_time", 0), path, where), *ends])
    if period < SHORTEST_PERIOD:
        raise _wrong(path, f"its devices' times end after {period:g} s: at least {SHORTEST_PERIOD:g} are needed")
    return found, period


def _check(device: str, intervals: list[Interval], path: Path) -> None:
    before = 0.0
    for one in intervals:
        if not before <= one.start < one.end - SHORTEST:
            raise _wrong(
                path,
                f"device {device[:40]!r} has an interval from {one.start:g} to {one.end:g} s after {before:g} s: "
                f"intervals must follow each other, from 0 on, each longer than {SHORTEST:g} s",
            )
        before = one.end


def _number(told: Any, path: Path, where: str) -> float:
    try:
        value = float(told) if not isinstance(told, bool) else float("nan")
    except (TypeError, ValueError, OverflowError):
        value = float("nan")
    if not (isfinite(value) and 0 <= value < 1e10):
        raise _wrong(path, f"{where} tells {str(told)[:40]!r}, where a time is due")
    return value


def _flag(told: str | None, path: Path, where: str) -> bool:
    word = (told or "").strip().lower()
    if word not in (*YES, *NO):
        raise _wrong(path, f"{where} tells {word[:40]!r}, where yes or no is due")
    return word in YES


def _wrong(path: Path, what: str) -> UsageError:
    return UsageError(f"devices.availability: {path}: {what}")
