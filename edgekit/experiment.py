"""The experiment: one TOML file, strictly checked, and the only source of every setting of a run.

Each room has its section, with its own checks, in a `settings.py`; here they are put together, and held against each
other.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import tomli_w
from pydantic import BaseModel, Field, ValidationError, model_validator

from edgekit.algorithms.settings import Federation
from edgekit.algorithms.split.settings import Split, check_together
from edgekit.clients.settings import Training
from edgekit.compression.settings import Compression
from edgekit.data.settings import Data
from edgekit.devices.settings import Devices
from edgekit.errors import ExperimentError, UsageError
from edgekit.export.settings import Export
from edgekit.models.settings import Model
from edgekit.neuromorphic.settings import Spiking
from edgekit.objectives.settings import Aim
from edgekit.privacy.settings import Privacy
from edgekit.runfolder import RunFolder, write_whole
from edgekit.section import Section
from edgekit.server.attacks.settings import Attack
from edgekit.server.engines.fleet.settings import Serve


class Experiment(Section):
    """A whole experiment; every field has a default, so the empty file is the built-in example's plain form."""

    name: str = Field(default="experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run folder."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of clients, batches, noise, first weights: the same seed gives the same model, bit for bit."""
    tracking: list[str] = Field(default_factory=list)
    """Trackers that are told of each round: `csv`, `tensorboard`, `mlflow`, `wandb`, those of installed packages, or
    `package.module:Class`."""
    data: Data = Data()
    objective: Aim = Aim()
    model: Model = Model()
    training: Training = Training()
    federation: Federation = Federation()
    privacy: Privacy = Privacy()
    export: Export = Export()
    spiking: Spiking = Spiking()
    serve: Serve = Serve()
    split: Split = Split()
    compression: Compression = Compression()
    attack: Attack = Attack()
    devices: Devices = Devices()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        central = self.privacy.unit == "example" and self.privacy.noise == "server" and not self.split.on
        if central and self.training.momentum:
            raise ValueError(
                "training.momentum has no effect when the server adds the noise: "
                'use federation.strategy = "FedAvgM" with server_momentum'
            )
        if self.privacy.unit == "example" and (key := self.training.beyond_sgd):
            raise ValueError(f"private steps are of plain SGD: leave training.{key} out")
        if central and (self.training.schedule != "constant" or self.training.warm_up):
            raise ValueError(
                "the server takes the step when it adds the noise, of privacy.learning_rate: leave training.schedule "
                "and training.warm_up out"
            )
        if self.data.client_test_fraction and self.privacy.on:
            raise ValueError(
                "under privacy clients are not asked how good the model is: set data.client_test_fraction = 0"
            )
        if self.privacy.unit == "client" and self.serve.statistics_every:
            raise ValueError(
                "devices' statistics are counted as single examples', which says nothing of a whole client: set "
                "serve.statistics_every = 0"
            )
        if self.privacy.expected_examples and self.privacy.unit != "example":
            raise ValueError('privacy.expected_examples is of privacy.unit = "example": leave it out')
        if self.objective.name != "cross-entropy" and self.serve.statistics_every:
            raise ValueError("devices' statistics are of classes' scores: set serve.statistics_every = 0")
        check_together(self)
        return self


def load(path: Path | None, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment: `key.path=value` overrides go before the file, the file before the defaults.

    Raises:
        ExperimentError: the file cannot be read, or breaks the schema; one line that names key and remedy.
    """
    if path is None:
        return of({}, overrides)
    return of(read(path), overrides, str(path))


def read(path: Path) -> dict[str, Any]:
    """Return the settings of a file, not checked yet.

    Raises:
        ExperimentError: it cannot be read.
    """
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise ExperimentError(f"{path} does not exist; `edgekit new {path}` writes a file to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"cannot read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ExperimentError(f"{path} is not valid TOML: {error}") from None


def as_text(value: Any) -> str:
    """Return a value as an override has it, in TOML.

    Raises:
        ExperimentError: TOML has no such value.
    """
    try:
        return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()
    except (TypeError, ValueError) as error:
        raise ExperimentError(f"{value!r} is no value of an experiment: {error}") from None


def changed(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """Return an experiment with `key.path=value` overrides.

    Raises:
        ExperimentError: they break the schema.
    """
    return of(experiment.model_dump(), overrides)


def of(settings: dict[str, Any], overrides: Sequence[str] = (), where: str = "experiment") -> Experiment:
    """Return the experiment of nested settings, changed by overrides.

    Raises:
        ExperimentError: they break the schema; the message begins with `where`.
    """
    for override in overrides:
        _apply(settings, override)
    try:
        return Experiment.model_validate(settings)
    except ValidationError as error:
        raise ExperimentError(f"{where}: {_explain(error)}") from None


def save(experiment: Experiment, path: Path) -> None:
    """Write the resolved experiment, every default spelled out, as TOML."""
    write_whole(path, tomli_w.dumps(experiment.model_dump()))


def begun(experiment: Experiment, path: Path) -> RunFolder:
    """Make a run folder for an experiment, or open the one that was begun with it.

    Raises:
        UsageError: it is of another experiment.
    """
    if not (path / "experiment.toml").exists():
        folder = RunFolder.create(path)
        save(experiment, folder.experiment)
        return folder
    folder = RunFolder.open(path)
    if key := first_difference(load(folder.experiment), experiment):
        raise UsageError(f"{path} was begun with another {key}: serve it with the same settings, or give another --out")
    return folder


def first_difference(one: Experiment, other: Experiment) -> str | None:
    """Return the first key, as in `data.clients`, in which two experiments differ; None if they are the same."""
    for section in Experiment.model_fields:
        a, b = getattr(one, section), getattr(other, section)
        if a != b:
            if not isinstance(a, Section):
                return section
            return next(f"{section}.{key}" for key in type(a).model_fields if getattr(a, key) != getattr(b, key))
    return None


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested settings by their whole keys; lists stay as they are."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


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
        if isinstance(settings.get(key), str) and keys[depth] == "arguments":
            settings[key] = {"name": settings[key]}  # a thing that was given by its name alone
        settings = settings.setdefault(key, {})
        if not isinstance(settings, dict):
            raise ExperimentError(f"override {override!r}: {'.'.join(keys[:depth])} is a value, not a table")
    held = settings.get(keys[-1])
    if isinstance(value, str) and isinstance(held, dict) and held.get("name", value) == value and "arguments" in held:
        value = {**held, "name": value}  # the same thing again, by its name: it keeps its arguments
    settings[keys[-1]] = value


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
        if isinstance(part, int):  # a place in a list
            continue
        inner = section.model_fields[str(part)].annotation
        inner = next((one for one in get_args(inner) if isinstance(one, type)), inner)
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        section = inner
    return list(section.model_fields)
