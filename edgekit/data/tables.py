"""Tables: `csv:` and `parquet:` files, folders of them (a client a file), and tables in memory, read by pyarrow.

Files are read in batches, and what is kept of them is compact: eight bytes a number, four a category's value.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Array
from edgekit.data.arrow import joined, missing, of_batches, read_file
from edgekit.data.columns import Raw, encode, headings, learn, width
from edgekit.data.federated import Floats, Integers, Source
from edgekit.data.files import as_labels
from edgekit.data.settings import Column, Data, Table
from edgekit.errors import DataError, nearest

LABELS = ("label", "target", "class", "y")
"""Names of columns that are taken for the label, in any case."""
LARGEST_WHOLE = 2**53
FEW = 20
"""Different texts that a column may have however few rows there are."""


@dataclass(frozen=True)
class TableSource:
    """Rows of a table with a label each; they become numbers once it is learnt how (`fitted`).

    Attributes:
        raw: features, by column.
        labels: class indices, (rows,); all 0 where there are no classes.
        classes: their names; none where labels are numbers that can be no classes.
        where: for messages.
        settings: how the table is read.
        columns: how columns become numbers; () is not learnt yet.
        groups: who owns a row, if that is known.
        times: what orders rows, if there is such a column.
        values: labels as numbers, (rows, 1), where they are some.
        notes: words on what was left out.
        label: the column of the labels.
    """

    raw: dict[str, Raw]
    labels: Integers
    classes: list[str]
    where: str
    settings: Table
    columns: tuple[Column, ...] = ()
    groups: NDArray[np.str_] | None = None
    times: Array | None = None
    values: Floats | None = None
    notes: tuple[str, ...] = ()
    label: str = ""

    def fitted(self, rows: Integers) -> "TableSource":
        """Return it with what these rows tell of how columns become numbers; what is known already stays.

        Raises:
            DataError: nothing tells rows apart.
        """
        if self.columns:
            return self
        columns = [learn(name, raw.take(rows), self.settings.most_values) for name, raw in self.raw.items()]
        kept = tuple(one for one in columns if width(one))
        if not kept:
            raise DataError(f"{self.where}: no column is left to learn from")
        empty = [f"{one.name} (empty)" for one in columns if not width(one)]
        return replace(self, columns=kept, notes=(*self.notes, *empty))

    @property
    def description(self) -> str:
        """One line for people."""
        numbers = sum(width(column) for column in self.columns)
        text = f"{self.where}, {len(self.labels)} rows, {numbers} numbers of {len(self.columns)} columns"
        return text + (f"; left out: {', '.join(self.notes)}" if self.notes else "")

    @property
    def normalisation(self) -> dict[str, Any]:
        """How rows become examples, for the files made for devices."""
        columns = [column.model_dump() for column in self.columns]
        return {"mean": 0.0, "std": 1.0, "columns": columns, "headings": headings(self.columns), "label": self.label}

    def load(self, indices: Integers) -> Floats:
        """Return rows as numbers, (examples, numbers)."""
        return encode(self.columns, self.raw, indices)


def read(place: str, settings: Table) -> TableSource:
    """Read a table's file, or a folder of them, each of which is a client's.

    Args:
        place: a .csv, .tsv or .parquet, or a folder of such files.
        settings: of the experiment.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: a file is missing or broken, or has no such columns.
    """
    raw, files = read_raw(place, settings)
    return source(raw, settings, place, files)


def read_raw(place: str, settings: Table) -> tuple[dict[str, Raw], NDArray[np.str_] | None]:
    """Read columns of a table's file, or of a folder of them, and of a folder which file each row is from.

    Raises:
        MissingExtraError, DataError: as of `read`.
    """
    path = Path(place)
    if not path.is_dir():
        return read_file(path, settings), None
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in (".csv", ".tsv", ".parquet"))
    if not found:
        raise DataError(f"{place} holds no .csv, .tsv or .parquet files: one a client")
    parts = [read_file(file, settings) for file in found]
    for file, part in zip(found, parts, strict=True):
        if other := set(parts[0]) ^ set(part):
            raise DataError(f"{file} and {found[0]} differ in their columns: {min(other)!r} is in one of them")
    names = np.repeat([file.stem for file in found], [_rows(part) for part in parts])
    return {name: joined([part[name] for part in parts], f"{place}: {name}") for name in parts[0]}, names


def of_table(table: Any, settings: Table, where: str) -> TableSource:
    """Return a source of a pyarrow table.

    Raises:
        DataError: as of `read`.
    """
    return source(raw_of(table, settings, where), settings, where, None)


def raw_of(table: Any, settings: Table, where: str) -> dict[str, Raw]:
    """Return the columns of a pyarrow table; errors as of `read`."""
    return of_batches([table], settings, where)


def source(raw: dict[str, Raw], settings: Table, where: str, files: NDArray[np.str_] | None) -> TableSource:
    """Choose the label, owners and features of columns.

    Args:
        raw: columns.
        settings: of the experiment.
        where: for messages.
        files: which file each row is from.

    Raises:
        DataError: a column that is named is not there, or no row has a label.
    """
    names = list(raw)
    for key in ("label", "group", "time", "features", "drop", "dates", "categories"):
        given = getattr(settings, key)
        for name in [given] if isinstance(given, str) else given:
            if name and name not in raw:
                raise DataError(f"{where} has no column {name!r} (data.table.{key}); {nearest(name, names)}")
    usual = {name.lower(): name for name in reversed(names)}
    label = settings.label or next((usual[name] for name in LABELS if name in usual), names[-1])
    if len(names) < 2:
        raise DataError(f"{where} has one column, {label[:40]!r}: a label and something to learn from are needed")
    beside = {label, settings.group, settings.time, *settings.drop}
    chosen = settings.features or [one.name for one in settings.columns] or names
    if label in settings.features:
        raise DataError(f"{where}: {label!r} is the label: data.table.features cannot have it too")
    if lacking := [name for name in chosen if name not in raw]:
        raise DataError(f"{where} has no column {lacking[0]!r}; {nearest(lacking[0], names)}")
    known = ~missing(raw[label])
    if not known.any():
        raise DataError(f"{where}: the column {label!r}, the label, is empty")
    kept, notes = np.flatnonzero(known), []
    if not known.all():
        notes.append(f"{int((~known).sum())} rows without {label}")
    raw = {name: one.take(kept) for name, one in raw.items()}
    features = {}
    for name in chosen:
        if name in beside:
            continue
        different = len(np.unique(raw[name].values)) if raw[name].kind == "category" else 0
        told = bool(settings.features or settings.columns) or name in settings.categories
        if different > max(FEW, len(kept) // 2) and not told:
            notes.append(f"{name} ({different} different texts)")
            continue
        features[name] = raw[name]
    if not features:
        raise DataError(f"{where}: no column is left to learn from beside {label!r}")
    labels, classes, values = _labels(raw[label], f"{where}, column {label!r}")
    groups = _text(raw[settings.group]) if settings.group else None
    if groups is None and files is not None:
        groups = files[kept]
    times = None
    if settings.time:
        times = raw[settings.time].values if raw[settings.time].kind != "category" else None
        if times is None or np.isnan(times).any():
            raise DataError(f"{where}: the column {settings.time!r} (data.table.time) must hold a date or number a row")
    return TableSource(
        features, labels, classes, where, settings, tuple(settings.columns), groups, times, values, tuple(notes), label
    )


def learnt_on(source: Source, rows: Integers) -> Source:
    """Return a source that knows how its rows become numbers, from some of them where it has to learn that."""
    return source.fitted(rows) if isinstance(source, TableSource) else source


def with_columns(data: Data, normalisation: Mapping[str, Any]) -> Data:
    """Return a [data] section that says how a table's columns become numbers, as it was learnt."""
    columns = [Column.model_validate(one) for one in normalisation.get("columns", [])]
    return data.model_copy(update={"table": data.table.model_copy(update={"columns": columns})}) if columns else data


def _rows(raw: dict[str, Raw]) -> int:
    return len(next(iter(raw.values())).values)


def _labels(raw: Raw, where: str) -> tuple[Integers, list[str], Floats | None]:
    many = len(raw.values)
    different = len(np.unique(raw.values))
    repeats = different <= max(FEW, many // 2)
    if raw.kind == "category":
        if not repeats:
            raise DataError(
                f"{where} has {different} different texts in {many} rows, as names have: learn another column"
            )
        return *as_labels(_text(raw), where)[:2], None
    if raw.kind == "date":
        raise DataError(f"{where} holds dates: a label is a class or a number")
    values = raw.values.astype(np.float32).reshape(-1, 1)
    if not np.isfinite(values).all():
        raise DataError(f"{where} holds numbers that are not finite")
    whole = bool((raw.values == np.rint(raw.values)).all())
    if whole and np.abs(raw.values).max() > LARGEST_WHOLE:
        raise DataError(
            f"{where} holds numbers beyond 2^53: as names they need data.table.categories, and rows to repeat"
        )
    if not whole or not repeats or (raw.values.min() < 0 and different > FEW):
        return np.zeros(many, np.int64), [], values
    found, labels = np.unique(raw.values.astype(np.int64), return_inverse=True)
    return labels.astype(np.int64), [str(one) for one in found], values


def _text(raw: Raw) -> NDArray[np.str_]:
    if raw.kind == "category":
        return np.array([*raw.names, ""])[raw.values]
    return np.array([str(int(value)) if value == np.rint(value) else str(value) for value in raw.values])
