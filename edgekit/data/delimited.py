"""Text files of tables, in batches of arrow's: separators, decimal commas and types are found out."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.data.settings import Table
from edgekit.errors import DataError

BLOCK = 8 << 20
"""Bytes that are read at once; types are guessed by the first."""
SEPARATORS = ",;\t|"
MISSING = ["", "?", "-", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "none"]
"""What stands for a value that is not there."""
_WRONG = re.compile(r"In CSV column #\d+: .*?conversion error", re.DOTALL)


def batches_of_csv(path: Path, settings: Table) -> Iterator[Any]:
    """Yield record batches of a table in a text file.

    A column whose first numbers are followed by other texts is one of texts.

    Args:
        path: the file: UTF-8, a line of headings first, separated by commas, semicolons, tabs or bars.
        settings: of the experiment.

    Raises:
        DataError: it is no such file.
    """
    import pyarrow as pa
    from pyarrow import csv

    separator, decimal = _manner(path)
    named = {name.strip(): name for name in headings_of(path, separator)}
    texts = {*settings.dates, *settings.categories, *(one.name for one in settings.columns if one.kind == "category")}
    types: dict[str, Any] = {named[name]: pa.string() for name in texts if name in named}

    def opened() -> Any:
        return csv.open_csv(
            path,
            csv.ReadOptions(block_size=BLOCK),
            csv.ParseOptions(delimiter=separator),
            csv.ConvertOptions(
                column_types=types,
                null_values=MISSING,
                true_values=[],  # they stay texts, as they are written
                false_values=[],
                decimal_point=decimal,
            ),
        )

    try:
        try:
            guessed = {one.name: one.type for one in opened().schema}
            # A whole number first may be followed by a broken one, and nothing by anything.
            types |= {name: pa.float64() for name, kind in guessed.items() if pa.types.is_integer(kind)}
            types |= {name: pa.string() for name, kind in guessed.items() if pa.types.is_null(kind)}
            found = list(opened()) if path.stat().st_size < BLOCK else _checked(opened)
        except pa.ArrowInvalid as error:
            if not _WRONG.search(str(error)):
                raise
            known = dict(types)  # what was guessed by the first rows does not hold: look at all of them, once
            types |= {name: pa.string() for name in named.values()}
            decimal, numbers = _numbers_in(opened(), separator, decimal)
            types |= {name: pa.float64() for name in numbers if known.get(name) != pa.string()}
            found = list(opened()) if path.stat().st_size < BLOCK else _checked(opened)
        yield from found
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())
        if "UTF8" in told or "utf-8" in told:
            told = "it is not in UTF-8, as which it must be saved"
        raise DataError(f"{path} is not a readable table: {told}") from None


def _checked(opened: Any) -> Any:
    """Read a large file once for its types, before anything of it is used."""
    for _ in opened():
        pass
    return opened()


def _numbers_in(batches: Any, separator: str, decimal: str) -> tuple[str, set[str]]:
    """Return the decimal point, and the columns all of whose texts are numbers, after a look at every row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    both = {point: set(batches.schema.names) for point in ([decimal] if separator != ";" else [".", ","])}
    for batch in batches:
        for point, left in both.items():
            for name in list(left):
                texts = batch.column(batch.schema.get_field_index(name))
                texts = texts.filter(pc.invert(pc.is_in(texts, pa.array(MISSING))))
                try:
                    (texts if point == "." else pc.replace_substring(texts, ",", ".")).cast(pa.float64())
                except pa.ArrowInvalid:
                    left.discard(name)
    best = max(both, key=lambda point: len(both[point]))
    return best, both[best]


def headings_of(path: Path, separator: str) -> list[str]:
    """Return the headings of a table.

    Raises:
        DataError: they are none that can be read.
    """
    import csv

    try:
        with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
            return next(csv.reader(file, delimiter=separator), [])
    except csv.Error as error:
        raise DataError(f"{path} has no line of headings: {error}") from None


def _manner(path: Path) -> tuple[str, str]:
    """Return what separates a file's values, and its decimal point.

    Raises:
        DataError: it is empty, no text, or has no headings.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(64 << 10)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if not start.strip():
        raise DataError(f"{path} is empty")
    if b"\0" in start:
        raise DataError(f"{path} is no text in UTF-8: a table has a line of headings, then a line a row")
    lines = start.decode("utf-8-sig", "replace").splitlines()
    separator = max(SEPARATORS, key=lines[0].count)
    names = headings_of(path, separator)
    if all(re.fullmatch(r"\s*[-+]?[\d.,]+(e[-+]?\d+)?\s*", name) for name in names):
        raise DataError(f"{path} has no line of headings: it begins with {', '.join(names[:4])}")
    commas = separator == ";" and any(re.search(r"(^|;)-?\d+,\d+(;|$)", line) for line in lines[1:])
    return separator, "," if commas else "."
