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
_WRONG = re.compile(r"In CSV column #(\d+): .*?error to (\S+): invalid value '(.*)'", re.DOTALL)


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
    types: dict[str, Any] = {name: pa.string() for name in (*settings.dates, *settings.categories)}
    types |= {one.name: pa.string() for one in settings.columns if one.kind == "category"}

    def opened() -> Any:
        return csv.open_csv(
            path,
            csv.ReadOptions(block_size=BLOCK),
            csv.ParseOptions(delimiter=separator),
            csv.ConvertOptions(
                column_types=types,
                null_values=MISSING,
                strings_can_be_null=True,
                true_values=[],  # they stay texts, as they are written
                false_values=[],
                decimal_point=decimal,
            ),
        )

    for _ in range(10_000):
        try:
            reader = opened()
            guessed = {one.name: one.type for one in reader.schema}
            # A whole number first may be followed by a broken one, and nothing by anything.
            more = {name: pa.float64() for name, kind in guessed.items() if pa.types.is_integer(kind)}
            more |= {name: pa.string() for name, kind in guessed.items() if pa.types.is_null(kind)}
            if more:
                types |= more
                reader = opened()
            yield from list(reader) if path.stat().st_size < BLOCK else _checked(opened)
            return
        except pa.ArrowInvalid as error:
            name, wrong = _column(error, reader_names(path, separator))
            if name is None or types.get(name) == pa.string():
                raise DataError(f"{path} is not a readable table: {wrong}") from None
            types[name] = pa.string()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not a readable table: {' '.join(str(error).split())}") from None


def _checked(opened: Any) -> Iterator[Any]:
    """Read a large file once for its types, before anything of it is used."""
    for _ in opened():
        pass
    yield from opened()


def _column(error: Exception, names: list[str]) -> tuple[str | None, str]:
    """Return which column a reader's complaint is about, and the complaint in words."""
    text = " ".join(str(error).split())
    if not (found := _WRONG.search(text)):
        return None, text
    name = names[int(found[1])] if int(found[1]) < len(names) else None
    return name, f"{found[3]!r} in the column {name!r} is no {'number' if found[2] == 'double' else found[2]}"


def reader_names(path: Path, separator: str) -> list[str]:
    """Return the headings of a table."""
    import csv

    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        return next(csv.reader(file, delimiter=separator), [])


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
        raise DataError(f"{path} is not a text file: a table has a line of headings, then a line a row")
    lines = start.decode("utf-8-sig", "replace").splitlines()
    separator = max(SEPARATORS, key=lines[0].count)
    names = reader_names(path, separator)
    if len(names) < 2:
        raise DataError(f"{path} has one column, {names[0][:40]!r}: a label and something to learn from are needed")
    if all(re.fullmatch(r"\s*[-+]?[\d.,]+(e[-+]?\d+)?\s*", name) for name in names):
        raise DataError(f"{path} has no line of headings: it begins with {', '.join(names[:4])}")
    commas = separator == ";" and any(re.search(r"(^|;)-?\d+,\d+(;|$)", line) for line in lines[1:50])
    return separator, "," if commas else "."
