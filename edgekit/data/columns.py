"""How a table's columns become numbers: learnt from some rows, the same for all others, and on devices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.arrays import Array
from edgekit.data.federated import Floats, Integers
from edgekit.data.settings import Column
from edgekit.errors import DataError

YEAR, WEEK = 365.2425, 7.0
LARGEST = 1e30
"""Number of a column: their squares are still finite in 32 bits where they are scaled by their deviation."""
THURSDAY = 3
"""Of the week's days from 0, Monday: 1970 began with it."""


@dataclass(frozen=True)
class Raw:
    """A column as it was read.

    Attributes:
        kind: of `Column`.
        values: (rows,): float64 numbers, or days since 1970, NaN where they are missing; of a category the int32 place
            in `names`, -1 where it is missing.
        names: of a category.
    """

    kind: str
    values: Array
    names: tuple[str, ...] = ()

    def take(self, rows: Integers) -> "Raw":
        """Return some rows of it."""
        return Raw(self.kind, self.values[rows], self.names)


def learn(name: str, raw: Raw, most_values: int) -> Column:
    """Return how a column becomes numbers, by the rows given.

    Args:
        name: the column's.
        raw: those rows.
        most_values: of a category that have a number of their own.

    Raises:
        DataError: it holds numbers that nothing can be reckoned with.
    """
    if raw.kind == "category":
        counts = np.bincount(raw.values[raw.values >= 0], minlength=len(raw.names))
        common = [raw.names[place] for place in np.argsort(-counts, kind="stable")[:most_values] if counts[place]]
        return Column(name=name, kind="category", values=sorted(common))
    known = raw.values[~np.isnan(raw.values)]
    if len(known) and np.abs(known).max() > LARGEST:
        raise DataError(
            f"the column {name!r} holds {float(known[np.abs(known).argmax()]):.3g}: leave it out (data.table.drop), or "
            "write it in larger units"
        )
    mean = float(known.mean()) if len(known) else 0.0
    std = float(known.std()) if len(known) else 0.0
    missing = len(known) < len(raw.values)
    std = std if std > 1e-9 * max(1.0, abs(mean)) else 1.0
    clock = raw.kind == "date" and bool((known % 1 != 0).any())
    return Column(
        name=name, kind="date" if raw.kind == "date" else "number", mean=mean, std=std, missing=missing, clock=clock
    )


def width(column: Column) -> int:
    """Return how many numbers a column becomes."""
    if column.kind == "category":
        return len(column.values)
    return 1 + column.missing + (4 + 2 * column.clock if column.kind == "date" else 0)


def headings(columns: Sequence[Column]) -> list[str]:
    """Return a name for each number that columns become."""
    found = []
    for column in columns:
        if column.kind == "category":
            found += [f"{column.name}={value}" for value in column.values]
            continue
        found.append(column.name)
        found += [f"{column.name} missing"] if column.missing else []
        if column.kind == "date":
            cycles = ["year", "week", *(["day"] if column.clock else [])]
            found += [f"{column.name} {turn} of {cycle}" for cycle in cycles for turn in ("sine", "cosine")]
    return found


def encode(columns: Sequence[Column], raw: Mapping[str, Raw], rows: Integers) -> Floats:
    """Return rows of a table as numbers, (rows, numbers).

    Args:
        columns: in their order.
        raw: a table's columns, by name.
        rows: which ones.

    Raises:
        DataError: a column is missing, is of another kind, or holds what is too large beside what was learnt.
    """
    parts = []
    for column in columns:
        if column.name not in raw:
            raise DataError(f"there is no column {column.name!r}: the network learnt with it")
        found = raw[column.name].take(rows)
        part = _category(column, found) if column.kind == "category" else _numbers(column, found)
        if not (np.abs(part) < LARGEST).all():
            worst = float(found.values[int((~(np.abs(part) < LARGEST)).any(1).argmax())])
            raise DataError(f"the column {column.name!r} holds {worst:.3g}, far beyond what was learnt")
        parts.append(part)
    made = np.concatenate(parts, 1) if parts else np.zeros((len(rows), 0))
    return np.ascontiguousarray(made, np.float32)


def _category(column: Column, found: Raw) -> Array:
    # The last place is for what is missing, and for values that nobody learnt.
    places = {value: place for place, value in enumerate(column.values)}
    if found.kind == "category":
        to = np.array([*(places.get(name, -1) for name in found.names), -1])
        codes = to[found.values]
    else:
        names = [_as_name(value) for value in found.values]
        codes = np.array([places.get(name, -1) for name in names], np.int64)
    made: Array = np.eye(len(column.values) + 1)[codes][:, :-1]
    return made


def _as_name(value: float) -> str:
    return str(int(value)) if value == np.rint(value) else str(value)


def _numbers(column: Column, found: Raw) -> Array:
    # A column that is empty as a whole has no kind of its own.
    if found.kind == "category" and (found.values >= 0).any():
        example = found.names[int(found.values[found.values >= 0][0])]
        raise DataError(f"the column {column.name!r} holds {example!r} where a {column.kind} is needed")
    if found.kind not in ("category", column.kind) and not np.isnan(found.values).all():
        raise DataError(f"the column {column.name!r} holds {found.kind}s where {column.kind}s are needed")
    values = np.full(len(found.values), np.nan) if found.kind == "category" else found.values
    lost = np.isnan(values)
    filled = np.where(lost, column.mean, values)
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large is said
        made = [(filled - column.mean) / column.std]
    made += [lost.astype(np.float64)] if column.missing else []
    if column.kind == "date":
        for cycle in (YEAR, WEEK, *([1.0] if column.clock else [])):
            days = filled if cycle == 1.0 else np.floor(filled) + (THURSDAY if cycle == WEEK else 0)
            turn = 2 * np.pi * (days % cycle) / cycle
            made += [np.where(lost, 0.0, np.sin(turn)), np.where(lost, 0.0, np.cos(turn))]
    return np.stack(made, 1)


def readable(columns: Sequence[Column], row: Array) -> list[str]:
    """Return an encoded row as people wrote it: a text a column; what was missing, or not learnt, is "–".

    Args:
        columns: in their order.
        row: its numbers, (numbers,).
    """
    said, place = [], 0
    for column in columns:
        part = row[place : place + width(column)]
        place += width(column)
        if column.kind == "category":
            said.append(column.values[int(part.argmax())] if part.size and part.max() > 0.5 else "–")
        elif column.missing and part[1] > 0.5:
            said.append("–")
        else:
            value = column.mean + column.std * float(part[0])
            said.append(_moment(value, column.clock) if column.kind == "date" else f"{value:.4g}")
    return said


def _moment(days: float, clock: bool) -> str:
    seconds = np.datetime64(round(days * 86400), "s")
    return str(seconds if clock else seconds.astype("datetime64[D]"))


def strange(column: Column, raw: Raw) -> str:
    """Return a line on values of a category that nobody learnt, "" if there are none."""
    if column.kind != "category" or raw.kind != "category":
        return ""
    unknown = [place for place, name in enumerate(raw.names) if name not in set(column.values)]
    rows = int(np.isin(raw.values, unknown).sum())
    if not rows:
        return ""
    shown = ", ".join(repr(raw.names[place]) for place in unknown[:3]) + (", …" if len(unknown) > 3 else "")
    return f"{rows} rows have a value of {column.name!r} that was not learnt ({shown}): it counts as none"
