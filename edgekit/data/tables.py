"""Tables: `csv:` and `parquet:` files, folders of them (a client a file), and tables in memory, read by pyarrow.

Files are read in batches, and what is kept of them is compact: eight bytes a number, four a category's value.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Array
from edgekit.data.columns import Raw, encode, headings, learn, width
from edgekit.data.delimited import MISSING, batches_of_csv
from edgekit.data.federated import Floats, Integers, Source
from edgekit.data.files import as_labels
from edgekit.data.settings import Column, Data, Table
from edgekit.errors import DataError, MissingExtraError

LABELS = ("label", "target", "class", "y")
"""Names of columns that are taken for the label, in any case."""
PLURAL = {"category": "texts", "date": "dates", "number": "numbers"}
LARGEST_WHOLE = 2**53
FEW = 20
"""Different texts that a column may have however few rows there are."""
ISO = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?Z?)?$")
MICROSECONDS = 86_400_000_000
"""Of a day."""


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
        return _file(path, settings), None
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in (".csv", ".tsv", ".parquet"))
    if not found:
        raise DataError(f"{place} holds no .csv, .tsv or .parquet files: one a client")
    parts = [_file(file, settings) for file in found]
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
    return _of_batches([table], settings, where)


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
    known = ~_missing(raw[label])
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


def nearest(name: str, names: Sequence[str]) -> str:
    """Return a hint at the name that was meant."""
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"


def joined(parts: Sequence[Raw], where: str) -> Raw:
    """Return a column's parts as one; a part that is empty has no kind of its own.

    Raises:
        DataError: they are of different kinds.
    """
    kinds = {part.kind for part in parts if not _missing(part).all()}
    if len(kinds) > 1:
        raise DataError(f"{where} holds {' and '.join(PLURAL[kind] for kind in sorted(kinds))}: one kind is needed")
    kind = kinds.pop() if kinds else parts[0].kind
    if kind != "category":
        values = [np.full(len(part.values), np.nan) if part.kind == "category" else part.values for part in parts]
        return Raw(kind, np.concatenate(values))
    places: dict[str, int] = {}
    codes = []
    for part in parts:
        if part.kind != kind:
            codes.append(np.full(len(part.values), -1, np.int32))
            continue
        to = np.array([*(places.setdefault(name, len(places)) for name in part.names), -1], np.int32)
        codes.append(to[part.values])
    return Raw(kind, np.concatenate(codes), tuple(places))


def _rows(raw: dict[str, Raw]) -> int:
    return len(next(iter(raw.values())).values)


def _missing(raw: Raw) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = raw.values < 0 if raw.kind == "category" else np.isnan(raw.values)
    return found


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


def _file(path: Path, settings: Table) -> dict[str, Raw]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "tables") from None
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    if path.suffix.lower() != ".parquet":
        return _of_batches(batches_of_csv(path, settings), settings, str(path))
    try:
        with parquet.ParquetFile(path) as file:
            return _of_batches(file.iter_batches(), settings, str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {' '.join(str(error).split())}") from None


def _of_batches(batches: Iterable[Any], settings: Table, where: str) -> dict[str, Raw]:
    """Return the columns of record batches, or of tables, all of one schema."""
    parts: dict[str, list[Raw]] = {}
    for batch in batches:
        names = [name.strip() for name in batch.schema.names]
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"{where} has two columns {twice[0]!r}")
        for name, values in zip(names, batch.columns, strict=True):
            parts.setdefault(name, []).append(_raw(name, values, settings, where))
    if not parts or not any(len(one.values) for one in next(iter(parts.values()))):
        raise DataError(f"{where} has no rows")
    texts = {*settings.categories, *(one.name for one in settings.columns if one.kind == "category")}
    whole = {name: joined(parts.pop(name), f"{where}: {name}") for name in list(parts)}  # each lets its parts go
    return {name: raw if name in texts else _with_dates(raw) for name, raw in whole.items()}


def _with_dates(raw: Raw) -> Raw:
    """Return a column of texts as dates where all of them are in ISO's form, as programs write them."""
    there = [name for name in raw.names if name not in MISSING]
    if raw.kind != "category" or not there or not all(ISO.match(name) for name in there):
        return raw
    try:
        known = {name: np.datetime64(name.removesuffix("Z"), "us").astype(np.int64) / MICROSECONDS for name in there}
    except ValueError:
        return raw
    return Raw("date", np.array([*(known.get(name, np.nan) for name in raw.names), np.nan])[raw.values])


def _raw(name: str, values: Any, settings: Table, where: str) -> Raw:
    """Return an arrow array as a column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    learnt = {column.name: column.kind for column in settings.columns}.get(name)
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
        kind = values.type
    if name in settings.dates:
        values, kind = _dated(name, values, settings.dates[name], where), pa.timestamp("us")
    try:
        if pa.types.is_null(kind):
            return Raw("number", np.full(len(values), np.nan))
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            moments = values.cast(pa.timestamp("us", tz=getattr(kind, "tz", None)), safe=False).cast(pa.int64())
            return Raw("date", _numbers(moments) / MICROSECONDS)
        plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        if plain and name not in settings.categories and learnt != "category":
            return Raw("number", _numbers(values))
        if pa.types.is_binary(kind):
            raise DataError(
                f"{where}: the column {name!r} holds bytes that are not in UTF-8, as which it must be saved"
            )
        if not (plain or pa.types.is_boolean(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(f"{where}: the column {name!r} holds {kind}; numbers, texts and dates are read")
        whole = pa.chunked_array([values] if isinstance(values, pa.Array) else values.chunks, kind).cast(pa.string())
        texts = pc.utf8_trim_whitespace(pa.concat_arrays([*whole.chunks, pa.array([], pa.string())]))
        coded = pc.dictionary_encode(pc.if_else(pc.equal(texts, ""), None, texts))
    except pa.ArrowException as error:
        raise DataError(f"{where}: the column {name!r} cannot be read: {' '.join(str(error).split())}") from None
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    return Raw("category", codes, tuple(coded.dictionary.to_pylist()))


def _numbers(values: Any) -> Array:
    import pyarrow as pa

    found = np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    return np.where(np.isinf(found), np.nan, found)  # infinity is what databases write where they could not divide


def _dated(name: str, values: Any, form: str, where: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = values.cast(pa.string())
    found = pc.strptime(texts, format=form, unit="us", error_is_null=True)
    if (wrong := pc.and_(pc.is_null(found), pc.is_valid(texts))) and pc.any(wrong).as_py():
        first = texts.filter(wrong)[0].as_py()
        raise DataError(f"{where}: {first!r} in the column {name!r} is no date of the form {form!r} (data.table.dates)")
    return found
