"""Examples to use a trained network on: pictures, recordings, rows of a table or arrays, as raw as people have them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

from edgekit.arrays import Array, why_unreadable
from edgekit.data import columns, objects, tables
from edgekit.data.federated import Floats, Integers
from edgekit.data.files import read_arrays
from edgekit.data.numbers import as_features
from edgekit.data.packed import PARTS, packed
from edgekit.data.settings import LOG_MEL, PICTURES, SOUND, TABLES, Data, Images, Table, audio_of
from edgekit.errors import DataError, UsageError, nearest
from edgekit.section import Section, first_problem

ARRAYS = {".npz", ".npy"}
KINDS = "a picture or .wav, a folder of them, a .csv or .parquet, an .npz with x or an .npy"


class Inputs(Section):
    """What a trained network takes, and what its scores mean: kept in a run's result.json and in files for devices.

    Attributes:
        shape: of one example.
        classes: names of the scores.
        normalisation: how raw values become examples.
    """

    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(max_length=8)]
    classes: list[str]
    normalisation: dict[str, Any]

    @classmethod
    def read(cls, record: Any, where: str) -> "Inputs":
        """Return what a file holds, checked.

        Raises:
            DataError: it is something else.
        """
        try:
            made = cls.model_validate(record)
            made.scale()
            made.settings(Data())
        except (ValidationError, TypeError, ValueError) as error:
            told = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise DataError(f"{where} does not say what its network takes: {told}") from None
        return made

    def scale(self) -> float:
        """Return what raw numbers are divided by.

        Raises:
            ValueError: no number above zero.
        """
        found = float(self.normalisation.get("std", 1.0))
        if not 0 < found < np.inf:
            raise ValueError(f"normalisation.std is {found}")
        return found

    def settings(self, data: Data) -> Data:
        """Return a [data] section by which raw data becomes what the network takes.

        Args:
            data: of the run, or defaults.

        Raises:
            ValidationError: the facts are none of a network's.
        """
        facts = self.normalisation
        changed: dict[str, Section] = {}
        if facts.get("features") in (LOG_MEL, SOUND):
            changed["audio"] = audio_of(facts, data.audio)
        if facts.get("columns"):
            changed["table"] = Table.model_validate(
                {**data.table.model_dump(), "columns": facts["columns"], "label": facts.get("label", "")}
            )
        if kind_of(self.shape, facts) == "image":
            channels, height, width = self.shape
            changed["images"] = Images(height=height, width=width, grayscale=channels == 1)
        return data.model_copy(update=changed)


def kind_of(shape: Sequence[int], normalisation: Mapping[str, Any]) -> str:
    """Return what raw data a network's examples are made of: `table`, `audio`, `image`, or `array` of anything else."""
    if normalisation.get("columns"):
        return "table"
    features = normalisation.get("features")
    if features in (LOG_MEL, SOUND):
        return "audio"
    return "image" if not features and len(shape) == 3 and shape[0] in (1, 3) else "array"


@dataclass(frozen=True)
class Unlabelled:
    """Examples without labels, read as they are asked for.

    Attributes:
        names: a name an example: a file's, or its place.
        load: gives examples by their places, (examples, ...).
        notes: lines for people.
    """

    names: Sequence[str]
    load: Callable[[Integers], Floats]
    notes: tuple[str, ...] = ()


def read(place: Path, inputs: Inputs, data: Data) -> Unlabelled:
    """Return the examples of a file or folder, as a network takes them.

    Args:
        place: see `KINDS`; folders are looked through to the bottom.
        inputs: what the network takes.
        data: the run's [data] section, or defaults.

    Raises:
        DataError: there are none, or they are of another kind or shape than the network's.
    """
    settings = inputs.settings(data)
    if place.is_dir():
        files = sorted(path for path in place.rglob("*") if path.suffix.lower() in {*PICTURES, ".wav"})
        if not files:
            raise DataError(f"{place} holds nothing to use: give {KINDS}")
        return _files(files, place, inputs, settings)
    if not place.exists():
        raise UsageError(f"{place} does not exist")
    kind = place.suffix.lower()
    if kind in PICTURES or kind == ".wav":
        return _files([place], place.parent, inputs, settings)
    if kind in TABLES:
        return _table(place, inputs, settings)
    if kind not in ARRAYS:
        raise DataError(f"{place}: give {KINDS}")
    return _arrays(place, inputs)


def of_object(given: Any, inputs: Inputs, data: Data) -> Unlabelled:
    """Return examples that a program has in memory, as a network takes them.

    Args:
        given: an array (examples, *shape) or one example, or a table of pandas, polars or pyarrow.
        inputs, data: as of `read`.

    Raises:
        DataError: it is something else, or of another shape than the network's.
    """
    where = Path("the data")
    if (table := objects.as_arrow(given)) is not None:
        settings = inputs.settings(data)
        return _of_columns(tables.raw_of(table, settings.table, str(where)), where, inputs, settings)
    try:
        x = objects.array(given)
        if x.dtype.kind not in "uifb":
            raise TypeError(x.dtype)
    except Exception as error:  # whatever somebody's object raises
        raise DataError(f"the data is {type(given).__name__}: give an array, a table or a file's name") from error
    return _of_arrays({"x": x}, where, inputs)


def _files(files: list[Path], folder: Path, inputs: Inputs, settings: Data) -> Unlabelled:
    """Read pictures or recordings."""
    kinds = {"recordings" if path.suffix.lower() == ".wav" else "pictures" for path in files}
    kind = kind_of(inputs.shape, inputs.normalisation)
    takes = {"audio": "recordings", "image": "pictures"}.get(kind, _shaped(inputs.shape))
    if kinds != {takes}:
        raise DataError(f"{folder} holds {' and '.join(sorted(kinds))}; the network takes {takes}")

    def load(places: Integers) -> Floats:
        if kind == "audio":
            from edgekit.data.audio import log_mel, read_wav

            audio = settings.audio
            if inputs.normalisation["features"] == SOUND:
                return np.stack([_samples(read_wav(files[i], audio.sample_rate), inputs.shape[0]) for i in places])
            return np.stack([log_mel(read_wav(files[i], audio.sample_rate), audio) for i in places])
        from edgekit.data.images import ImageFolder

        return ImageFolder(files, np.zeros(len(files), np.int64), [], settings.images, "").load(places)

    return Unlabelled([str(path.relative_to(folder)) for path in files], load)


def _samples(sound: Floats, many: int) -> Floats:
    """Return a recording cut or padded with silence to so many samples."""
    return np.pad(sound[:many], (0, max(0, many - len(sound))))


def _shaped(shape: Sequence[int]) -> str:
    return f"{shape[0]} numbers" if len(shape) == 1 else f"arrays of {' x '.join(map(str, shape))}"


def _table(place: Path, inputs: Inputs, settings: Data) -> Unlabelled:
    return _of_columns(tables.read_raw(str(place), settings.table)[0], place, inputs, settings)


def _of_columns(raw: dict[str, columns.Raw], place: Path, inputs: Inputs, settings: Data) -> Unlabelled:
    many = len(next(iter(raw.values())).values)
    names = [str(row) for row in range(1, many + 1)]
    learnt = settings.table.columns
    if learnt:
        for column in learnt:
            if column.name not in raw:
                hint = nearest(column.name, list(raw))
                raise DataError(f"{place} has no column {column.name!r}, which the network learnt with; {hint}")
        notes = tuple(filter(None, (columns.strange(column, raw[column.name]) for column in learnt)))
        return Unlabelled(names, lambda places: columns.encode(learnt, raw, places), notes)
    numbers = [name for name, one in raw.items() if one.kind == "number"]
    if len(inputs.shape) != 1 or len(numbers) != inputs.shape[0]:
        raise DataError(
            f"{place} has {len(numbers)} columns of numbers; the network takes {_shaped(inputs.shape)} and did not "
            "learn from a table: give as many columns, or an .npz"
        )
    x = np.stack([raw[name].values for name in numbers], 1)
    return _checked(as_features(x, str(place), inputs.scale()), place, inputs, names)


def _arrays(place: Path, inputs: Inputs) -> Unlabelled:
    """Read arrays as the data of training was read: whole numbers are scaled alike."""
    if place.suffix.lower() == ".npy":
        try:
            held: Mapping[str, Array] = {"x": np.load(place, allow_pickle=False)}
        except MemoryError:
            raise DataError(f"{place} promises an array that does not fit into memory") from None
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{place} is not a readable .npy file: {why_unreadable(error)}") from None
    else:
        held = read_arrays(place)
    if suffix := next((one for one in ("", "_test", "_train") if f"x{one}" in held), None):
        held = {name.removesuffix(suffix): array for name, array in held.items() if name.endswith(suffix)}
    return _of_arrays(held, place, inputs)


def _of_arrays(held: Mapping[str, Array], place: Path, inputs: Inputs) -> Unlabelled:
    if "x" not in held:
        raise DataError(f"{place} holds {', '.join(held) or 'nothing'}; it needs x")
    x, _ = packed({name: array for name, array in held.items() if name in {"x", *PARTS}}, "", str(place))
    if tuple(x.shape) == tuple(inputs.shape):
        x = x[None]  # one example by itself
    if x.ndim == 0 or len(x) == 0:
        raise DataError(f"{place}: x has shape {x.shape}; (examples, ...) is needed")
    scale = inputs.scale() if x.dtype.kind in "ui" else None
    return _checked(as_features(x, str(place), scale), place, inputs, [str(number) for number in range(len(x))])


def _checked(x: Floats, place: Path, inputs: Inputs, names: list[str]) -> Unlabelled:
    if list(x.shape[1:]) != inputs.shape:
        raise DataError(f"{place} holds examples of {tuple(x.shape[1:])}; the network takes {tuple(inputs.shape)}")
    return Unlabelled(names, lambda places: x[places])
