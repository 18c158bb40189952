"""The experiment: one TOML file, strictly checked, and the only source of every setting of a run."""

import difflib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgekit.errors import ExperimentError
from edgekit.runfolder import write_whole

Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("arguments must be numbers, texts, booleans, and lists and tables of them") from None
    return arguments


Arguments = Annotated[dict[str, Any], AfterValidator(_plain)]
"""Arguments of a constructor, as plain values that any file can hold."""


class Section(BaseModel):
    """A table of the file: unknown keys, wrong types and values out of range are errors."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Audio(Section):
    """How `audio:` turns recordings into log-mel features."""

    sample_rate: Count = 8000
    seconds: Positive = 0.64
    mel_bands: Count = 32
    window_ms: Positive = 32.0
    hop_ms: Positive = 20.0
    pattern: str = ""
    """Regular expression on file names with the groups `label` and, optionally, `group` (speaker)."""


class Images(Section):
    """How `images:` reads picture files."""

    height: Count = 28
    width: Count = 28
    grayscale: bool = True


class Events(Section):
    """How `events:` and `moving-digits` turn events into frames (frames, 2, height, width)."""

    frames: Count = 8
    height: Count = 16
    width: Count = 16
    window_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Milliseconds a frame, from the first event on; 0 divides each recording evenly."""
    binary: bool = False
    """Whether a frame holds spikes, 0 or 1, instead of counts."""
    largest: Count = 4
    """Events of a pixel and frame that count as 1.0."""
    sensor_height: Annotated[int, Field(ge=0)] = 0
    sensor_width: Annotated[int, Field(ge=0)] = 0
    """The sensor's size, for files that do not say it."""


class Hub(Section):
    """Columns of a dataset of the `datasets` library (`hf:`)."""

    features: str = "image"
    label: str = "label"
    group: str = ""
    train_split: str = "train"
    test_split: str = ""


class Data(Section):
    """Where the data comes from and how the clients share it."""

    source: str = "digits"
    clients: Count = 40
    partition: Literal["iid", "dirichlet", "shards", "natural"] = "dirichlet"
    alpha: Positive = 1.0
    labels_per_client: Count = 2
    test_fraction: Fraction = 0.2
    client_test_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of its examples that each client holds back: it measures the model with them, and tells how good it is."""
    calibration_examples: Count = 128
    audio: Audio = Audio()
    images: Images = Images()
    events: Events = Events()
    hub: Hub = Hub()


class Model(Section):
    """The network: a name of the zoo (`edgekit models`) or `package.module:Class`."""

    name: str = "dscnn"
    norm: Literal["group", "weight-standardised", "none"] = "none"
    width: Positive = 1.0
    activation: Literal["relu", "qcfs"] = "relu"
    """`qcfs` trains the ReLUs as the spikes that will stand for them (Bu et al. 2022)."""
    levels: Annotated[int, Field(ge=1, le=256)] = 4
    """Levels of `qcfs`; with as many time steps each spike stands for one."""
    arguments: Arguments = {}


class Training(Section):
    """One client's local training: plain SGD, with momentum if asked."""

    trainer: Literal["auto", "cohort", "one-by-one", "litert"] = "auto"
    epochs: Count = 2
    batch_size: Count = 8
    learning_rate: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    memory_mb: Count = 512


class Chosen(Section):
    """A thing of the registry, with its own arguments; in the file also its name alone."""

    name: str
    arguments: Arguments = {}

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given


class Federation(Section):
    """Rounds, cohorts and the federated method."""

    rounds: Annotated[int, Field(ge=1, le=100_000)] = 60
    cohort: Annotated[int, Field(ge=0)] = 0
    """Clients a round; 0 is all of them."""
    selector: str = ""
    """Who takes part: `uniform`, `poisson`, or `package.module:Class`; "" is what privacy counts on: `poisson` where a
    trusted server protects clients, else `uniform`."""
    algorithm: str = ""
    """The method: fedavg (which "" is, too), fedprox, scaffold, fednova, personal, or `package.module:Class`."""
    strategy: str = ""
    """In place of `algorithm`: a strategy of Flower's by its class name, or `package.module:Class`."""
    arguments: Arguments = {}
    """The method's own."""
    transforms: list[Chosen] = []
    """What happens to updates on their way, in this order on clients: names, or `package.module:Class`."""
    average_last: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The released model is the mean of the global models of this last fraction of the rounds; 0 is the last model."""
    evaluate_every: Count = 1

    @property
    def method(self) -> str:
        """The name of the method, of ours or of Flower's."""
        return self.strategy or self.algorithm or "fedavg"

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        if self.algorithm and self.strategy:
            raise ValueError(
                f"algorithm = {self.algorithm!r} and strategy = {self.strategy!r} are two methods: leave one out"
            )
        return self


class Privacy(Section):
    """Whose data one step protects (`unit`), and who adds the noise."""

    unit: Literal["none", "example", "client"] = "none"
    noise: Literal["server", "client"] = "server"
    epsilon: Annotated[float, Field(gt=0, le=100)] = 8.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    clip: Positive = 1.0
    """l2 bound on one unit's contribution."""
    clips: dict[str, Positive] = {}
    """With `unit = "client"` and a method that sends more than weights: bounds of the further bundles, by name."""
    sample_rate: Annotated[float, Field(gt=0, le=1)] = 0.5
    learning_rate: Positive = 1.0
    accountant: Literal["pld", "prv", "rdp"] = "pld"
    randomness: Literal["seed", "system"] = "seed"

    @property
    def on(self) -> bool:
        """Whether the run is private at all."""
        return self.unit != "none"


Preset = Literal["float32", "float16", "int8-weights", "int8-dynamic", "int8", "int8-full"]
Runtime = Literal["ai-edge-litert", "tflite-runtime"]


class Export(Section):
    """The files for phones and boards."""

    presets: list[Preset] = ["float32", "int8"]
    tolerance: Positive = 0.01
    """How much accuracy a file may lose against the network before it counts as broken (a fraction)."""
    runtimes: list[Runtime] = Field(default=["ai-edge-litert"], min_length=1)
    """The runtimes that the files are claimed to run in; each file is checked in each of them."""
    training: bool = False
    """Whether to write the training graph too, which devices train with."""
    training_batch: Annotated[int, Field(ge=1, le=1024)] = 16
    licence: str = ""


class Spiking(Section):
    """The spiking form and its Loihi integers."""

    enabled: bool = True
    steps: Annotated[int, Field(ge=1, le=256)] = 8
    coding: Literal["current", "rate", "latency"] = "current"
    input_bits: Annotated[int, Field(ge=1, le=6)] = 4
    scaling: Literal["channel", "layer"] = "channel"
    """Whether each channel has a threshold of its own, or a layer's channels share one."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.9
    reset: Literal["soft", "hard"] = "soft"
    voltage_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the voltage that a neuron loses in a step; 0 makes integrate-and-fire neurons."""
    current_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of its current that a neuron loses in a step; 1 lets the current last one step."""
    tune: bool = True
    weight_bits: Annotated[int, Field(ge=2, le=8)] = 8
    chip: Literal["loihi-1", "loihi-2"] = "loihi-2"
    """The chip whose limits the network is held to."""


class Split(Section):
    """Split learning: device and server each train a part of the network."""

    cut: str = ""
    """The layer or block behind which the server goes on; `auto` picks one for `device`; "" for no split learning."""
    device: str = "raspberry-pi-4"
    """With `cut = "auto"`: a device profile, by name or a file NAME.toml."""
    labels: Literal["device", "server"] = "device"
    """Who has the labels; on the device, it trains the network's last part too (U-shaped)."""
    tail: str = ""
    """The layer behind which the device goes on, with `labels = "device"`; "" leaves it the last layer."""
    halves: Literal["shared", "each"] = "shared"
    """One part of the server for all clients (SplitFed v2), or one for each, averaged after the round (v1)."""
    order: Literal["parallel", "sequential"] = "parallel"
    """Whether clients of a shared part make a step each in turn, or one client after the other all of its own."""
    codec: Literal["float32", "float16", "int8", "top-k"] = "float32"
    window: Annotated[int, Field(ge=1, le=64)] = 1
    """Batches of a client under way at once: more hide a slow link, and make gradients up to window - 1 steps old."""
    parties: Annotated[int, Field(ge=0, le=64)] = 0
    """Vertical over features: so many parties have some features of every example each, and the coordinator the
    labels. 0: clients have examples, as ever."""
    embedding: Annotated[int, Field(ge=1, le=4096)] = 16
    """With `parties`: numbers that each party's network makes of an example; the server joins them."""
    coverage: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With `parties`, in simulations: share of the people whom each party knows; they train on those whom all know."""
    activation_clip: Annotated[float, Field(gt=0, le=1e4)] = 1.0
    """With `privacy.noise = "client"`: largest l2 norm of what is sent of one example, before noise."""
    no_peek: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Weight of the distance correlation between examples and activations in the loss: they tell less. No guarantee."""


class Serve(Section):
    """Rounds with real devices (`edgekit serve`)."""

    nodes: Count = 2
    """Nodes that must be there before a round begins."""
    deadline_seconds: Annotated[float, Field(ge=5, le=86_400)] = 600.0
    """A round ends after this time with the updates that came."""
    deliver_every: Annotated[int, Field(ge=0)] = 0
    """Rounds between deliveries of the int8 model to the nodes; 0 delivers at the end alone."""
    statistics_every: Annotated[int, Field(ge=0)] = 0
    """Rounds between reports of noised input statistics, which show drift; 0 for none."""
    statistics_noise: Annotated[float, Field(ge=0.5, le=1000)] = 8.0
    """Noise multiplier of these reports; where nodes protect their own data, they are charged for them too."""


class Experiment(Section):
    """A whole experiment; every field has a default, so the empty file is the built-in example's plain form."""

    name: str = Field(default="experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: Data = Data()
    model: Model = Model()
    training: Training = Training()
    federation: Federation = Federation()
    privacy: Privacy = Privacy()
    export: Export = Export()
    spiking: Spiking = Spiking()
    serve: Serve = Serve()
    split: Split = Split()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        central = self.privacy.unit == "example" and self.privacy.noise == "server" and not self.split.cut
        if central and self.training.momentum:
            raise ValueError(
                "training.momentum has no effect when the server adds the noise: "
                'use federation.strategy = "FedAvgM" with server_momentum'
            )
        if self.data.client_test_fraction and (self.privacy.on or self.split.cut or self.split.parties):
            what = "under privacy" if self.privacy.on else "in split learning"
            raise ValueError(f"{what} clients are not asked how good the model is: set data.client_test_fraction = 0")
        if self.split.cut and self.privacy.on:
            self._check_private_split()
        if self.split.parties or self.data.source.startswith(("parties:", "labels:")):
            self._check_vertical()
        if (self.split.cut or self.split.parties) and self.training.trainer != "auto":
            raise ValueError(
                f'split learning is a trainer of its own: set training.trainer = "auto", not {self.training.trainer!r}'
            )
        if (self.split.cut or self.split.parties) and self.serve.statistics_every:
            raise ValueError(
                "of a network that is split, devices have parts alone and give no statistics: set "
                "serve.statistics_every = 0"
            )
        if self.split.tail and self.split.labels == "server":
            raise ValueError('split.tail is the part behind the server\'s; with split.labels = "server" there is none')
        return self

    def _check_vertical(self) -> None:
        split = self.split
        if not split.parties:
            raise ValueError("data.source names tables of several parties: set split.parties to how many they are")
        if split.cut or split.tail:
            raise ValueError("split.parties have a whole network each, which the server joins: leave split.cut empty")
        if split.labels != "server":
            raise ValueError('with split.parties the coordinator has the labels: set split.labels = "server"')
        if self.privacy.on:
            raise ValueError(
                "what parties with features of the same people send is not protected yet: set privacy.unit = "
                '"none", and see docs/split.md for what the coordinator learns'
            )
        if self.spiking.enabled:
            raise ValueError("a network of several parties has no spiking form: set spiking.enabled = false")
        if split.no_peek:
            raise ValueError("split.no_peek is for clients with examples of their own: set it to 0 with split.parties")
        if self.federation.cohort not in (0, split.parties):
            raise ValueError("federation.cohort: with split.parties all take part in each round, leave it at 0")

    def _check_private_split(self) -> None:
        if self.privacy.unit == "client":
            raise ValueError('split learning protects single examples: set privacy.unit = "example", not "client"')
        if self.privacy.noise == "client" and self.split.labels == "server":
            raise ValueError(
                'labels would be sent as they are: with privacy.noise = "client" set split.labels = "device"'
            )
        if self.privacy.noise == "server" and self.split.codec != "float32":
            raise ValueError(
                f"split.codec = {self.split.codec!r} mixes the examples of a batch, so none can be protected alone: "
                'set split.codec = "float32", or privacy.noise = "client"'
            )
        if self.split.no_peek:
            raise ValueError(
                "split.no_peek mixes the examples of a batch, so none can be protected alone: set it to 0, or "
                'privacy.unit = "none"'
            )


def load(path: Path | None, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment: `key.path=value` overrides go before the file, the file before the defaults.

    Raises:
        ExperimentError: the file cannot be read, or breaks the schema; one line that names key and remedy.
    """
    settings: dict[str, Any] = {}
    where = "experiment"
    if path is not None:
        where = str(path)
        try:
            settings = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise ExperimentError(f"{path} does not exist; `edgekit new {path}` writes a file to start from") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ExperimentError(f"cannot read {path}: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise ExperimentError(f"{path} is not valid TOML: {error}") from None
    for override in overrides:
        _apply(settings, override)
    try:
        return Experiment.model_validate(settings)
    except ValidationError as error:
        raise ExperimentError(f"{where}: {_explain(error)}") from None


def save(experiment: Experiment, path: Path) -> None:
    """Write the resolved experiment, every default spelled out, as TOML."""
    write_whole(path, tomli_w.dumps(experiment.model_dump()))


def first_difference(one: Experiment, other: Experiment) -> str | None:
    """Return the first key, as in `data.clients`, in which two experiments differ; None if they are the same."""
    for section in Experiment.model_fields:
        a, b = getattr(one, section), getattr(other, section)
        if a != b:
            if not isinstance(a, Section):
                return section
            return next(f"{section}.{key}" for key in type(a).model_fields if getattr(a, key) != getattr(b, key))
    return None


def _apply(settings: dict[str, Any], override: str) -> None:
    """Set one `key.path=value` in the nested settings; a bare word counts as a string."""
    path, separator, text = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise ExperimentError(f"override {override!r} is not of the form key.path=value, as in training.epochs=2")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for depth, key in enumerate(keys[:-1], 1):
        settings = settings.setdefault(key, {})
        if not isinstance(settings, dict):
            raise ExperimentError(f"override {override!r}: {'.'.join(keys[:depth])} is a value, not a table")
    settings[keys[-1]] = value


def first_problem(error: ValidationError) -> str:
    """Return the first finding about a file as `key.path: what is wrong`."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _explain(error: ValidationError) -> str:
    """Turn the first finding into one line that says what would be right."""
    findings = error.errors()
    first = findings[0]
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _keys_beside(first["loc"])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(known)}"
        return f"unknown key {place!r}; {hint}{more}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if not place:
        return f"{message}{more}"
    got = "" if isinstance(first["input"], dict) else f" (got {first['input']!r})"
    return f"{place}: {message}{got}{more}"


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the section in which a location lies."""
    section: type[BaseModel] = Experiment
    for part in location[:-1]:
        inner = section.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        section = inner
    return list(section.model_fields)
