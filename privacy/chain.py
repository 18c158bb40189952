"""Lines that follow from each other: a file to which lines are added, where one that is changed or gone shows."""

import hashlib
import json
from pathlib import Path
from typing import Any

from edgekit.errors import PrivacyError
from edgekit.runfolder import append_line, read_lines, write_whole

CHAIN = "chain"
"""Key of each line's hash."""


class ChainedLines:
    """A file of JSON lines, each with a hash of itself and of all before it.

    What does not show is a tail that is cut off. Whoever needs to know keeps the head elsewhere, in a file beside it or
    as checkpoints do, and asks whether these lines hold it. That both are rolled back together cannot be seen.

    Args:
        path: the file; "nothing yet" if there is none.
        head: where the head is kept beside it; None where somebody else does.
        always: whether every line has its hash, and the head is there: not so of files from before these were kept.

    Attributes:
        lines: without their hashes.

    Raises:
        PrivacyError: a line does not follow, or lines are missing at the end.
    """

    def __init__(self, path: Path, head: Path | None = None, *, always: bool = False) -> None:
        self.path, self._head_file = path, head
        self.lines: list[dict[str, Any]] = []
        self._heads = [""]
        # Before the lines: another process may add some meanwhile, and these lines go on where an older head was.
        kept = head.read_text().strip() if head is not None and head.exists() else None
        chained = always
        for number, line in enumerate(read_lines(path), 1):
            chain = line.pop(CHAIN, None) if isinstance(line, dict) else ""
            if chain != _next(self.head, line) and (chained or chain is not None):  # once lines had no chain
                raise PrivacyError(
                    f"{path} line {number} does not follow from those before it: lines were changed or are missing; "
                    "put the whole file back, since what was spent is not known without it"
                )
            chained = chain is not None
            self._take(line)
        if always and head is not None and (kept is not None) != bool(self.lines):
            gone = head if self.lines else path
            raise PrivacyError(f"{gone} is missing: put it back, since what was spent is not known without it")
        if kept is not None and not self.holds(kept):
            raise PrivacyError(
                f"{path} does not hold all that was spent: it was cut, deleted, or is another one; put this one's own "
                "back, since what was spent is not known without it"
            )

    @property
    def head(self) -> str:
        """What stands for all lines so far; "" before the first."""
        return self._heads[-1]

    def holds(self, head: str) -> bool:
        """Whether these lines go on where `head` was that of some."""
        return head in self._heads

    def append(self, line: dict[str, Any]) -> None:
        """Add a line, and wait until it is on the disk.

        Raises:
            RunFolderError: it cannot be written.
        """
        append_line(self.path, {**line, CHAIN: _next(self.head, line)})
        self._take(line)
        if self._head_file is not None:
            write_whole(self._head_file, f"{self.head}\n")

    def _take(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self._heads.append(_next(self.head, line))


def _next(head: str, line: object) -> str:
    """Return the hash of a line that follows a head."""
    return hashlib.sha256(f"{head} {json.dumps(line, sort_keys=True)}".encode()).hexdigest()[:32]
