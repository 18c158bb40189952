"""An experiment that fits somebody's data: what kind it is, its sizes, and a network that learns from such."""

import json
import wave
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.federated import FederatedDataset, Source
from edgekit.data.settings import PICTURES, Audio, Data, Images, Table
from edgekit.data.sources import read_source, source_for
from edgekit.data.tables import TableSource
from edgekit.errors import DataError
from edgekit.models.kinds import learns_with
from edgekit.registry import MODELS, SOURCES

OWNERS = ("client", "device", "site", "user", "speaker", "subject", "patient", "group", "owner", "hospital")
"""Names of columns that say who owns a row, in any case."""
LARGEST_SIDE, LOOKED_AT = 64, 50
"""Pixels that pictures are brought to, at most; files that are looked at."""
FEWEST_A_CLIENT, CLIENTS = 20, 10
MOST_CLASSES = 50
"""That whole numbers are taken for; more are learnt as numbers."""


@dataclass
class Suggestion:
    """An experiment for somebody's data.

    Attributes:
        about: in words: what was found.
        sections: settings by table of the file, in its order, each with a comment.
    """

    about: list[str]
    sections: dict[str, list[tuple[str, Any, str]]] = field(default_factory=dict)

    def add(self, section: str, key: str, value: Any, comment: str = "") -> None:
        """Put a key into a table of the file."""
        self.sections.setdefault(section, []).append((key, value, comment))

    def text(self) -> str:
        """Return the file."""
        from edgekit.experiment import as_text

        lines = [f"# {_plain(line)}" for line in self.about]
        for section, keys in self.sections.items():
            lines += ["", f"[{section}]"] if section else [""]
            for key, value, comment in keys:
                line = f"{key} = {as_text(value) if not isinstance(value, list) else json.dumps(value)}"
                lines.append(f"{line:<27} # {_plain(comment)}" if comment else line)
        return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Return a text in one line, without what could end a comment: headings and labels are somebody's."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def suggest(given: str, label: str = "", name: str = "") -> Suggestion:
    """Return an experiment for data.

    Args:
        given: a file, a folder, or a source as an experiment names it.
        label: the column that is learnt, of a table.
        name: of the experiment; "" goes by the data's.

    Raises:
        DataError: it cannot be read, or is of no kind that is known.
    """
    source, extra = _kind(given, label)
    data = Data(source=source, **extra)
    loaded = read_source(data)
    if isinstance(loaded, FederatedDataset):
        raise DataError(
            f"{given} is shared among clients already: edgekit new FILE writes an experiment to put it into"
        )
    read = loaded[0]
    made = Suggestion([f"An edgekit experiment for {given}: edgekit run FILE does all of it."])
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in Path(given).stem).strip("-._")
    made.add("", "name", name or plain or "experiment", "names the run folder")
    made.add("", "seed", 0, "the same seed gives the same model, bit for bit")
    owner = _owner(read)
    _data(made, data, read, owner)
    many = len(read.labels)
    values = getattr(read, "values", None)
    numbers = not read.classes and values is not None
    if len(read.classes) > MOST_CLASSES and values is not None:
        numbers = True  # prices and years repeat, too
    what = (
        "numbers to learn (objective regression)"
        if numbers
        else f"{len(read.classes)} classes: {', '.join(read.classes[:8])}"
    )
    made.about.append(f"It has {many:,} examples with {what}{', …' if len(read.classes) > 8 else ''}.")
    if numbers:
        made.add("objective", "name", "regression", "squared or Huber's loss; r2 tells how good it is")
    shape = _shape(read, owner)
    _network(made, shape, source.partition(":")[0])
    made.add("federation", "rounds", 30)
    made.add("federation", "cohort", 0, "clients a round; 0 is all of them")
    made.add("privacy", "unit", "none", 'or "example", "client": edgekit privacy --help')
    made.add("export", "presets", ["float32", "int8"], "files for phones and boards")
    made.add("spiking", "enabled", "auto" if not numbers else False, "a form for Loihi-style chips, where there is one")
    return made


def _kind(given: str, label: str) -> tuple[str, dict[str, Any]]:
    """Return the source that reads what is given, and settings that its files tell."""
    if not Path(given).exists() and ":" not in given and given not in SOURCES:
        raise DataError(f"{given} does not exist")
    given = source_for(given)
    kind = given.partition(":")[0]
    if kind in ("csv", "parquet"):
        return given, {"table": Table(label=label)}
    if label:
        raise DataError(f"{given} is no table: its labels are not in a column, leave --label out")
    if kind == "images":
        return given, {"images": _pictures(Path(given.partition(":")[2]))}
    if kind == "audio":
        return given, {"audio": _recordings(Path(given.partition(":")[2]))}
    return given, {}


def _pictures(folder: Path) -> Images:
    """Return a size and colours for pictures, by the first of them."""
    from PIL import Image

    found = []
    for path in [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURES][:LOOKED_AT]:
        try:
            with Image.open(path) as picture:
                found.append((*picture.size, picture.mode))
        except OSError as error:
            raise DataError(f"{path} is not a readable picture: {error}") from None
    wide, high = (int(np.median([one[place] for one in found])) for place in (0, 1))
    shrink = max(1.0, max(wide, high) / LARGEST_SIDE)
    grey = all(one[2] in ("1", "L", "I", "I;16", "LA") for one in found)
    return Images(height=max(8, round(high / shrink)), width=max(8, round(wide / shrink)), grayscale=grey)


def _recordings(folder: Path) -> Audio:
    """Return rate and length of recordings, by the first of them."""
    rates, seconds = [], []
    for path in sorted(folder.rglob("*.wav"))[:LOOKED_AT]:
        try:
            with wave.open(str(path)) as file:
                rates.append(file.getframerate())
                seconds.append(file.getnframes() / max(1, file.getframerate()))
        except (OSError, EOFError, wave.Error) as error:
            raise DataError(f"{path} is not a readable wav file: {error or 'it is cut short'}") from None
    rate = Counter(rates).most_common(1)[0][0]
    return Audio(sample_rate=rate, seconds=max(0.2, round(float(np.quantile(seconds, 0.9)), 2)))


def _owner(read: Source) -> str:
    """Return the column that says who owns a row, "" if none seems to."""
    if not isinstance(read, TableSource):
        return ""
    owner = next((name for name in read.raw if name.lower() in OWNERS), "")
    different = len(np.unique(read.raw[owner].values)) if owner else 0
    return owner if 2 <= different <= len(read.labels) // 2 else ""


def _data(made: Suggestion, data: Data, read: Source, owner: str) -> None:
    """Fill [data] and the tables below it."""
    made.add("data", "source", data.source)
    if owner or read.groups is not None:
        made.add("data", "partition", "natural", "one client an owner; or iid, dirichlet, shards, time")
    else:
        clients = int(np.clip(len(read.labels) // FEWEST_A_CLIENT, 2, CLIENTS))
        made.add("data", "clients", clients, "how many devices share the data")
        made.add("data", "partition", "iid" if not read.classes else "dirichlet", "or iid, shards, natural, time")
    if isinstance(read, TableSource):
        made.add("data.table", "label", read.label, "what is learnt")
        if owner:
            made.add("data.table", "group", owner, "who owns a row")
        dropped = [note.partition(" (")[0] for note in read.notes if note.endswith("different texts)")]
        if dropped:
            made.add("data.table", "drop", dropped, "texts that hardly repeat")
        left = [name for name in read.raw if name != owner]
        made.about.append(f"It learns {read.label} from {', '.join(left[:12])}{', …' if len(left) > 12 else ''}.")
    for kind, settings in (("images", data.images), ("audio", data.audio)):
        if data.source.startswith(f"{kind}:"):
            for key in settings.model_fields_set:
                made.add(f"data.{kind}", key, getattr(settings, key))


def _shape(read: Source, owner: str) -> tuple[int, ...]:
    few = np.arange(min(4, len(read.labels)))
    if isinstance(read, TableSource):
        features = {name: raw for name, raw in read.raw.items() if name != owner}
        read = replace(read, raw=features).fitted(np.arange(len(read.labels)))
    return tuple(read.load(few).shape[1:])


def network_for(shape: tuple[int, ...], kind: str = "") -> str:
    """Return the name of a network of the zoo for examples of a shape.

    Args:
        shape: of one example.
        kind: of the source that they come from, such as `audio`.
    """
    if kind == "audio":
        return "tcn"
    if kind == "superpixels":
        return "graph"
    return {1: "mlp", 2: "gru", 3: "dscnn", 4: "spiking-cnn"}.get(len(shape), "mlp")


def _network(made: Suggestion, shape: tuple[int, ...], kind: str) -> None:
    name = network_for(shape, kind)
    learns = learns_with(MODELS.load(name))
    sizes = " x ".join(map(str, shape))
    made.add("model", "name", name, f"for examples of {sizes}; edgekit models lists others")
    made.add("model", "norm", learns.pop("norm"), "normalisation of the layers")
    made.add("training", "epochs", 2, "passes over a client's own examples a round")
    made.add("training", "batch_size", 16)
    for key, value in learns.items():
        made.add("training", key, value)
