"""The logs of our processes: a line a record, strangers' words in few letters, and files that do not grow for ever."""

import contextlib
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

MOST_LETTERS = 200
"""Of what a record quotes."""
MOST_BYTES = 10 << 20
"""Of a log; then it goes on in a new one."""
KEPT = 5
"""Logs of each kind: the newest, and four older ones."""


class Formatter(logging.Formatter):
    """Formats records of one line each; what they quote is cut short, and has no control characters."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's text."""
        given = record.args
        if isinstance(given, tuple):
            record = logging.makeLogRecord({**vars(record), "args": tuple(map(_quoted, given))})
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Return a record's first line."""
        return one_line(super().formatMessage(record), most=10 * MOST_LETTERS)


def begin(*, ours: int = logging.INFO, others: int = logging.INFO) -> None:
    """Log this process's records to its stderr.

    Args:
        ours: least level of edgekit's records.
        others: least level of the libraries' records.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter())
    logging.basicConfig(level=others, handlers=[handler])
    logging.getLogger("edgekit").setLevel(ours)


def one_line(text: str, most: int = MOST_LETTERS) -> str:
    """Return a text without control characters and the like, in so many letters at the most."""
    short = text if len(text) <= most else f"{text[: most - 1]}…"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in short)


def rotate(path: Path, most: int = MOST_BYTES) -> None:
    """Begin a log anew that has grown too long; whoever appends to it goes on.

    The older ones are PATH.1, PATH.2, and so on.
    """
    with contextlib.suppress(OSError):  # a full disk, say: it is looked at again
        if path.stat().st_size <= most:
            return
        for number in range(KEPT - 2, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        os.truncate(path, 0)


def _quoted(value: Any) -> Any:
    return value if isinstance(value, int | float) else one_line(str(value))
