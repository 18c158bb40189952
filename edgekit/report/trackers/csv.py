"""A table of the rounds, for spreadsheets: it is written anew each round, since later rounds may have more columns."""

import csv
import io
from collections.abc import Mapping

from edgekit.report.trackers.base import Tracker
from edgekit.runfolder import write_whole


class Csv(Tracker):
    """RUN/tracking/rounds.csv."""

    def begin(self) -> None:
        """Go on with the table that is there."""
        self._path = self.place / "rounds.csv"
        self._rows: dict[int, dict[str, str]] = {}
        if self._path.exists():
            with open(self._path, newline="") as file:
                self._rows = {int(row["round"]): row for row in csv.DictReader(file)}

    def round(self, number: int, figures: Mapping[str, float]) -> None:
        """Write the table with one more row."""
        self._rows[number] = {"round": str(number), **{name: f"{value:.10g}" for name, value in figures.items()}}
        kept = [self._rows[one] for one in sorted(self._rows)]
        names = list(dict.fromkeys(name for row in kept for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        write_whole(self._path, text.getvalue())
