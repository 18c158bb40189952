"""[data]: where the data comes from and how the clients share it."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from edgekit.section import Count, Fraction, Positive, Section, Share


class Audio(Section):
    """How `audio:` turns recordings into log-mel features."""

    sample_rate: Count = 8000
    """Samples a second."""
    seconds: Positive = 0.64
    """Of each recording."""
    mel_bands: Count = 32
    """Bands of frequencies."""
    window_ms: Positive = 32.0
    """Milliseconds that a spectrum looks at."""
    hop_ms: Positive = 20.0
    """Milliseconds between spectra."""
    pattern: str = ""
    """Regular expression on file names with the groups `label` and, optionally, `group` (speaker)."""


LOG_MEL, SOUND = "log-mel", "sound"
"""What a network of recordings takes: their features, or their samples in a file that makes these itself."""


def audio_of(facts: Mapping[str, Any], otherwise: Audio) -> Audio:
    """Return how sounds become features, by the facts of a dataset or a file; what these lack is as otherwise.

    Raises:
        ValidationError: the facts are none.
    """
    told = {key: facts[key] for key in Audio.model_fields.keys() & facts.keys()}
    return Audio.model_validate({**otherwise.model_dump(), **told})


class Images(Section):
    """How `images:` reads picture files."""

    height: Count = 28
    """Pixels that pictures are brought to."""
    width: Count = 28
    """Likewise."""
    grayscale: bool = True
    """Whether colours are left out."""


class Events(Section):
    """How `events:` and `moving-digits` turn events into frames (frames, 2, height, width)."""

    frames: Count = 8
    """Time steps of an example."""
    height: Count = 16
    """Pixels that events are brought to."""
    width: Count = 16
    """Likewise."""
    window_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Milliseconds a frame, from the first event on; 0 divides each recording evenly."""
    binary: bool = False
    """Whether a frame holds spikes, 0 or 1, instead of counts."""
    largest: Count = 4
    """Events of a pixel and frame that count as 1.0."""
    sensor_height: Annotated[int, Field(ge=0)] = 0
    """The sensor's size, for files that do not say it."""
    sensor_width: Annotated[int, Field(ge=0)] = 0
    """Likewise."""


class Superpixels(Section):
    """How `superpixels:` turns images into graphs."""

    nodes: Annotated[int, Field(ge=2)] = 75
    """Superpixels of an image, at most."""
    neighbours: Count = 8
    """Others that each is joined to."""


class Hub(Section):
    """Columns of a dataset of the `datasets` library (`hf:`)."""

    features: str | list[str] = "image"
    """Column of the examples, or several columns of numbers; pictures of mixed sizes are brought to those of
    `[data.images]`."""
    label: str = "label"
    """Column of the classes."""
    group: str = ""
    """Column of who owns an example, for the `natural` partition."""
    train_split: str = "train"
    """Split that clients share."""
    test_split: str = ""
    """Split to measure with; `""` holds a part of the other out."""


class Partitioner(Section):
    """A partitioner of the `flwr-datasets` library, for the `flower` partition (extra `hub`)."""

    name: str = "PathologicalPartitioner"
    """Its class: `PathologicalPartitioner`, `ExponentialPartitioner`, `SizePartitioner` …"""
    arguments: dict[str, Any] = {}
    """What it takes, as `{num_classes_per_partition = 2}`; the number of clients, the column and the seed are put in
    where it asks for them."""


class Column(Section):
    """How a table's column becomes numbers, learnt from examples or written here."""

    name: str
    """Its heading."""
    kind: Literal["number", "category", "date"]
    """`number` is brought to mean 0 and deviation 1; `category` has a number a value, 1 where it is; of a `date` that
    are its time, and sine and cosine of its place in the year, the week and (`clock`) the day."""
    mean: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Of numbers, and of dates in days since 1970; it stands for what is missing."""
    std: Positive = 1.0
    """Their deviation."""
    missing: bool = False
    """Whether another number tells that this one was missing."""
    values: Annotated[list[str], Field(max_length=10_000)] = []
    """Of a category; others become zeros."""
    clock: bool = False
    """Whether a date's time of day matters."""


class Table(Section):
    """How `csv:` and `parquet:` read tables."""

    label: str = ""
    """Column of what is learnt; `""` takes one named `label`, `target`, `class` or `y`, or the last."""
    group: str = ""
    """Column of who owns a row, for the `natural` partition; of a folder of tables it is the file."""
    time: str = ""
    """Column that orders rows, for the `time` partition; it is no feature."""
    features: list[str] = []
    """Columns to learn from; empty takes all others."""
    drop: list[str] = []
    """Columns to leave out."""
    dates: dict[str, str] = {}
    """Columns of dates that are not in ISO's form, and theirs, as `{bought = "%d.%m.%Y"}`."""
    categories: list[str] = []
    """Columns of numbers that are names, as postcodes are."""
    most_values: Annotated[int, Field(ge=2, le=10_000)] = 50
    """Values of a category that have a number of their own: the commonest."""
    columns: Annotated[list[Column], Field(max_length=10_000)] = []
    """How columns become numbers; empty learns it: from clients' rows without privacy, from the server's own
    (calibration) rows with it."""


PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
TABLES = {".csv", ".tsv", ".parquet"}
ENDINGS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".npz": "npz"}
"""Of files that say by their names what they are, and the kind of source they are read by."""


class Data(Section):
    """Where the data comes from and how the clients share it."""

    source: str = "digits"
    """`digits`, `moving-digits`, `gestures`, `machine-sounds`, `presence`, `npz:FILE`, `idx:FOLDER`,
    `csv:FILE`, `parquet:FILE`, `images:FOLDER`, `audio:FOLDER`, `events:FOLDER`, `superpixels:SOURCE`, `hf:NAME`,
    `parties:FOLDER`, `labels:FOLDER`, or `package.module:name` of a function, a table or a data set. A file's name
    alone does, where it ends in .csv, .tsv, .parquet or .npz."""
    clients: Count = 40
    """How many share the data (not for `natural`)."""
    partition: Literal["iid", "dirichlet", "shards", "natural", "time", "flower"] = "dirichlet"
    """How they share it: at random, with unequal classes (Hsu et al. 2019), by so many labels each (McMahan et al.
    2017), by who owns what, by when it was (the newest rows are the test set then), or as a partitioner of Flower's
    does, which `[data.partitioner]` names."""
    alpha: Positive = 1.0
    """Of `dirichlet`: small is unequal."""
    labels_per_client: Count = 2
    """Of `shards`."""
    test_fraction: Fraction = 0.2
    """Held out, where the data has no test set of its own."""
    client_test_fraction: Share = 0.0
    """Share of its examples that each client holds back: it measures the model with them, and tells how good it is
    ([federation.md](federation.md))."""
    calibration_examples: Count = 128
    """The server's own: int8 ranges, thresholds, first weights, tuning."""
    audio: Audio = Audio()
    images: Images = Images()
    events: Events = Events()
    hub: Hub = Hub()
    superpixels: Superpixels = Superpixels()
    table: Table = Table()
    partitioner: Partitioner = Partitioner()

    @field_validator("source")
    @classmethod
    def _by_ending(cls, source: str) -> str:
        """Put the kind before a file's name that tells it."""
        path = PurePath(source)
        known = source.partition(":")[0] in {*ENDINGS.values(), "hf", "images", "audio", "events", "superpixels"}
        return source if known or path.suffix not in ENDINGS else f"{ENDINGS[path.suffix]}:{source}"
