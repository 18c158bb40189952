"""Arrow's columns as ours: from files in batches, and from tables in memory."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.arrays import Array
from edgekit.data.columns import Raw
from edgekit.data.delimited import MISSING, batches_of_csv
from edgekit.data.settings import Table
from edgekit.errors import DataError, MissingExtraError

PLURAL = {"category": "texts", "date": "dates", "number": "numbers"}
ISO = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d+)?)?Z?)?$")
MICROSECONDS = 86_400_000_000
"""Of a day."""


def missing(raw: Raw) -> NDArray[np.bool_]:
    """Return which rows have no value, (rows,)."""
    found: NDArray[np.bool_] = raw.values < 0 if raw.kind == "category" else np.isnan(raw.values)
    return found


def joined(parts: Sequence[Raw], where: str) -> Raw:
    """Return a column's parts as one; a part that is empty has no kind of its own.

    Raises:
        DataError: they are of different kinds.
    """
    kinds = {part.kind for part in parts if not missing(part).all()}
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


def read_file(path: Path, settings: Table) -> dict[str, Raw]:
    """Return the columns of a table's file.

    Raises:
        MissingExtraError: pyarrow is not installed.
        DataError: the file is missing or broken.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "tables") from None
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    if path.suffix.lower() != ".parquet":
        return of_batches(batches_of_csv(path, settings), settings, str(path))
    try:
        with parquet.ParquetFile(path) as file:
            return of_batches(file.iter_batches(), settings, str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {' '.join(str(error).split())}") from None


def of_batches(batches: Iterable[Any], settings: Table, where: str) -> dict[str, Raw]:
    """Return the columns of record batches, or of tables, all of one schema.

    Raises:
        DataError: there are no rows, two columns of one name, or values that are none of a table's.
    """
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
