"""Data whose features lie with several parties: each has a table of ids and features, the coordinator ids and labels.

From `parties:FOLDER`, or made of any other source, for simulations: then each party has a strip of every example. With
real parties the coordinator has `labels:FOLDER`: labels, and of each party a table of those people alone whom it shows,
to test with.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data import files, partition
from edgekit.data.federated import Examples, FederatedDataset, Floats, Integers, Source
from edgekit.errors import DataError
from edgekit.experiment import Data
from edgekit.randomness import generator

WHOLE, SHOWN = "parties", "labels"
"""What a `data.source` begins with that names a folder of tables: of all people, or of those whom parties show."""
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
        x: their features, (ids, ...), in the same order.
        columns: names of the features, of a .csv.
        scale: by which they were scaled, of a .csv.
    """

    name: str
    ids: Sequence[str]
    x: Floats
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
    if len({table.x.shape[1:-1] for table in tables}) > 1:
        shapes = ", ".join(f"{table.name} {table.x.shape[1:]}" for table in tables)
        raise DataError(f"{folder}: the parties' examples may differ along the last axis alone, these are {shapes}")
    text = f"{folder}, tables of {', '.join(table.name for table in tables)}"
    return _dataset(tables, ids, labels, classes, text, settings, seed, shown=shown)


def read_table(path: Path, scale: Scale | None = None) -> Table:
    """Read a party's table: .csv with a heading line, ids in the first column and numbers in the others, or .npz with
    `ids` and `x`.

    Args:
        path: of the file.
        scale: of a .csv's columns; by default it is found so that they have mean 0 and deviation 1.

    Raises:
        DataError: it cannot be read; the line and column are named.
    """
    if path.suffix == ".npz":
        held = files.read_arrays(path)
        if "ids" not in held or "x" not in held or held["ids"].shape != held["x"].shape[:1]:
            raise DataError(f"{path} holds {', '.join(held) or 'nothing'}; it needs ids and x, as many of each")
        ids = [str(one) for one in held["ids"]]
        _check_ids(ids, path)
        return Table(path.stem, ids, files.as_features(held["x"], str(path)))
    heading, rows = _csv(path)
    columns = tuple(heading[1:])
    if not columns:
        raise DataError(f"{path} has ids alone; columns of numbers are needed")
    ids = [row[0] for row in rows]
    _check_ids(ids, path)
    x = np.array([_numbers(row, heading, number, path) for number, row in enumerate(rows, 2)], np.float64)
    if scale is None:
        scale = Scale(x.mean(0).tolist(), np.where(x.std(0) > 0, x.std(0), 1.0).tolist())
    if len(scale.mean) == len(columns):  # else whoever gave the scale finds that the columns differ
        x = (x - scale.mean) / scale.std
    return Table(path.stem, ids, x.astype(np.float32), columns, scale)


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
    _check_ids(ids, path)
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
    for number, row in enumerate(rows, 2):
        if len(row) != len(heading):
            raise DataError(f"{path} line {number} has {len(row)} columns, its heading {len(heading)}")
    return heading, rows


def _numbers(row: list[str], heading: list[str], line: int, path: Path) -> list[float]:
    numbers = []
    for name, text in zip(heading[1:], row[1:], strict=True):
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not np.isfinite(number):
            raise DataError(f"{path} line {line}, column {name!r}: {text!r} is no number; fill gaps in beforehand")
        numbers.append(number)
    return numbers


def _check_ids(ids: Sequence[str], path: Path) -> None:
    seen: set[str] = set()
    for one in ids:
        if not one or one in seen:
            raise DataError(f"{path}: the id {one!r} is there twice" if one else f"{path}: an id is empty")
        seen.add(one)


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
