"""Data whose features lie with several parties: each has a table of ids and features, the coordinator ids and labels.

From `parties:FOLDER`, or made of any other source, for simulations: then each party has a strip of every example. With
real parties the coordinator has `labels:FOLDER`: labels, and of each party a table of those people alone whom it shows,
to test with.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.arrays import Array
from edgekit.data import files, partition
from edgekit.data.federated import Examples, FederatedDataset, Integers, Source
from edgekit.data.numbers import as_features
from edgekit.data.settings import Data
from edgekit.errors import DataError
from edgekit.randomness import generator

WHOLE, SHOWN = "parties", "labels"
"""What a `data.source` begins with that names a folder of tables: of all people, or of those whom parties show."""
FIRST_LINE = 2
"""Of a .csv, behind its heading."""
LABELS = "labels"
"""The name of the file of ids and labels in a folder of tables."""


@dataclass(frozen=True)
class Scale:
    """What a table's columns are scaled by: x = (raw - mean) / std."""

    mean: Sequence[float]
    std: Sequence[float]


@dataclass(frozen=True)
class Table:
    """What one party has.

    Attributes:
        name: of the party.
        ids: of its people (or things), each once.
        x: their features, (ids, ...), in the same order; of a .csv float64 until it is scaled.
        columns: names of the features, of a .csv.
        scale: by which they were scaled, of a .csv.
    """

    name: str
    ids: Sequence[str]
    x: Array
    columns: Sequence[str] = ()
    scale: Scale | None = None


@dataclass(frozen=True, kw_only=True)
class VerticalDataset(FederatedDataset):
    """Features of several parties, and the coordinator's labels; `test` and `calibration` are of people whom all know.

    Attributes:
        parties: their tables.
        ids: whom the coordinator has labels of, without those that are held out for test and calibration.
        labels: class indices, in the same order.
    """

    parties: Sequence[Table]
    ids: Sequence[str]
    labels: Integers

    @property
    def widths(self) -> list[int]:
        """Sizes of the parties' features along the last axis."""
        return [table.x.shape[-1] for table in self.parties]


def divide(source: Source, parties: int, coverage: float, settings: Data, seed: int) -> VerticalDataset:
    """Make vertical data of examples that are complete: each party has a strip along their last axis.

    Args:
        source: of examples.
        parties: how many.
        coverage: share of the people whom each party knows.
        settings: the [data] section: how many are held out.
        seed: of the experiment.

    Raises:
        DataError: there are fewer features than parties.
    """
    everybody = np.arange(len(source.labels))
    x = source.load(everybody)
    if x.shape[-1] < parties:
        raise DataError(f"examples of shape {x.shape[1:]} have {x.shape[-1]} columns: too few for {parties} parties")
    ids = [f"{number:08}" for number in everybody]
    tables = []
    for place, strip in enumerate(np.array_split(x, parties, -1)):
        rng = generator(seed, "party", place)
        rows = rng.permutation(len(ids))[: max(1, round(coverage * len(ids)))]
        tables.append(Table(f"party {place}", [ids[row] for row in rows], np.ascontiguousarray(strip[rows])))
    return _dataset(tables, ids, source.labels, source.classes, source.description, settings, seed)


def read_folder(folder: Path, parties: int, settings: Data, seed: int, *, shown: bool = False) -> VerticalDataset:
    """Read the tables in a folder: `labels.csv` or `labels.npz`, and one of each party.

    Args:
        folder: of the tables.
        parties: how many there must be.
        settings, seed: as of `divide`.
        shown: whether the parties' tables hold those people alone whom they show for testing.

    Raises:
        DataError: tables are missing or cannot be read, or have nobody in common.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder of tables: labels.csv, and one .csv or .npz of each party")
    found = sorted(path for path in folder.iterdir() if path.suffix in (".csv", ".npz"))
    own = [path for path in found if path.stem == LABELS]
    others = [path for path in found if path.stem != LABELS]
    if len(own) != 1:
        raise DataError(f"{folder} needs one table of labels: {LABELS}.csv (id, label) or {LABELS}.npz (ids, y)")
    if len(others) != parties:
        raise DataError(f"{folder} has tables of {len(others)} parties, split.parties is {parties}")
    ids, labels, classes = _labels(own[0])
    tables = [read_table(path) for path in others]
    tables = [scaled(table, scale_of(table)) if table.columns else table for table in tables]
    if len({table.x.shape[1:-1] for table in tables}) > 1:
        shapes = ", ".join(f"{table.name} {table.x.shape[1:]}" for table in tables)
        raise DataError(f"{folder}: the parties' examples may differ along the last axis alone, these are {shapes}")
    text = f"{folder}, tables of {', '.join(table.name for table in tables)}"
    return _dataset(tables, ids, labels, classes, text, settings, seed, shown=shown)


def read_table(path: Path) -> Table:
    """Read a party's table: .csv with a heading line, ids in the first column and numbers in the others, or .npz with
    `ids` and `x`. What it says of a wrong one names no id and no value: others may read it.

    Raises:
        DataError: it cannot be read; the line and column are named.
    """
    if path.suffix == ".npz":
        held = files.read_arrays(path)
        if "ids" not in held or "x" not in held or held["ids"].shape != held["x"].shape[:1]:
            raise DataError(f"{path} holds {', '.join(held) or 'nothing'}; it needs ids and x, as many of each")
        ids = [str(one) for one in held["ids"]]
        _check_ids(ids, path, 0)
        return Table(path.stem, ids, as_features(held["x"], str(path)))
    heading, rows = _csv(path)
    if len(heading) < 2:
        raise DataError(f"{path} has ids alone; columns of numbers are needed")
    ids = [row[0] for row in rows]
    _check_ids(ids, path, FIRST_LINE)
    x = [_numbers(row, number, path) for number, row in enumerate(rows, FIRST_LINE)]
    return Table(path.stem, ids, np.array(x, np.float64), tuple(heading[1:]))


def scale_of(table: Table) -> Scale:
    """Return the scale by which a table's columns have mean 0 and deviation 1."""
    spread = np.where(np.ptp(table.x, 0) > 0, table.x.std(0), 1.0)  # of equal numbers it is not always exactly 0
    return Scale(table.x.mean(0).tolist(), spread.tolist())


def scaled(table: Table, scale: Scale) -> Table:
    """Return a table with its columns scaled."""
    x = ((table.x - np.array(scale.mean)) / np.array(scale.std)).astype(np.float32)
    return replace(table, x=x, scale=scale)


def _labels(path: Path) -> tuple[list[str], Integers, list[str]]:
    if path.suffix == ".npz":
        held = files.read_arrays(path)
        if "ids" not in held or "y" not in held or held["ids"].shape != held["y"].shape:
            raise DataError(f"{path} holds {', '.join(held) or 'nothing'}; it needs ids and y, as many of each")
        ids, names = [str(one) for one in held["ids"]], [str(one) for one in held["y"]]
    else:
        heading, rows = _csv(path)
        if len(heading) != 2:
            raise DataError(f"{path} has the columns {', '.join(heading)}; an id and a label are needed")
        ids, names = [row[0] for row in rows], [row[1] for row in rows]
    _check_ids(ids, path, 0 if path.suffix == ".npz" else FIRST_LINE)
    whole = all(name.lstrip("-").isdigit() for name in names)
    classes = sorted(set(names), key=lambda name: (int(name), name) if whole else (0, name))
    if len(classes) < 2:
        raise DataError(f"{path}: all labels are the same; training needs at least two classes")
    places = {name: place for place, name in enumerate(classes)}
    return ids, np.array([places[name] for name in names], np.int64), classes


def _csv(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            heading, *rows = [row for row in csv.reader(file) if row] or [[]]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a readable .csv file: {error}") from None
    if not rows:
        raise DataError(f"{path} holds no rows: a heading line and one line for each id are needed")
    for number, row in enumerate(rows, FIRST_LINE):
        if len(row) != len(heading):
            raise DataError(f"{path} line {number} has {len(row)} columns, its heading {len(heading)}")
    return heading, rows


def _numbers(row: list[str], line: int, path: Path) -> list[float]:
    numbers = []
    for column, text in enumerate(row[1:], 2):
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not np.isfinite(number):
            raise DataError(f"{path} line {line}, column {column} holds no number; fill gaps in beforehand")
        numbers.append(number)
    return numbers


def _check_ids(ids: Sequence[str], path: Path, first: int) -> None:
    """See that there is an id in each line, and each once; `first` is the first one's line."""
    what = "line" if first else "place"
    seen: dict[str, int] = {}
    for number, one in enumerate(ids, first):
        if not one:
            raise DataError(f"{path} {what} {number}: the id is empty")
        if one in seen:
            raise DataError(f"{path}: {what}s {seen[one]} and {number} have the same id")
        seen[one] = number


def _dataset(
    tables: list[Table],
    ids: Sequence[str],
    labels: Integers,
    classes: list[str],
    description: str,
    settings: Data,
    seed: int,
    *,
    shown: bool = False,
) -> VerticalDataset:
    """Hold out test and calibration sets of those whom all know; the others the parties align by themselves."""
    rows = [{one: row for row, one in enumerate(table.ids)} for table in tables]
    known = np.array([row for row, one in enumerate(ids) if all(one in of for of in rows)], np.int64)
    if len(known) < 10:
        raise DataError(f"only {len(known)} ids have a label and a row in each party's table")

    def hold_out(of: Integers, share: float | int, purpose: str) -> tuple[Integers, Integers]:
        kept, held = partition.hold_out(labels[of], share, generator(seed, purpose))
        return of[kept], of[held]

    rest, test = hold_out(known, settings.test_fraction, "test")
    if shown:  # all whom the parties show are to test with
        test, rest = known, known
    _, calibration = hold_out(rest, min(settings.calibration_examples, len(rest) // 10), "calibration")
    if not len(calibration) or not len(test):
        raise DataError(f"{description}: {len(known)} people whom all know are too few to hold out a test set")

    def joined(chosen: Integers) -> Examples:
        pieces = [table.x[[of[ids[row]] for row in chosen]] for table, of in zip(tables, rows, strict=True)]
        return Examples(np.concatenate(pieces, -1), labels[chosen])

    held = set(test.tolist()) | set(calibration.tolist())
    trained = [row for row in range(len(ids)) if row not in held]
    return VerticalDataset(
        clients=len(tables),
        load_client=_nothing_of_its_own,
        test=joined(test),
        calibration=joined(calibration),
        classes=classes,
        description=f"{description}; features of {len(tables)} parties",
        parties=tables,
        ids=[ids[row] for row in trained],
        labels=labels[trained],
    )


def _nothing_of_its_own(index: int) -> Any:
    raise DataError("a party has features alone, without the others' they are no examples")
