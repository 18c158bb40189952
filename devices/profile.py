"""Device profiles: one TOML a device, with where each figure comes from."""

import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from pydantic import Field, ValidationError

from edgekit.errors import UsageError
from edgekit.runfolder import write_whole
from edgekit.section import Section, first_problem

Evidence = Literal["measured", "emulated", "published"]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Cpu(Section):
    """A device's processor."""

    model: str
    architecture: str
    """As `uname -m` says it."""
    cores: Annotated[int, Field(ge=1)]
    gflops: Amount = 0.0
    """Float32 matrix products as numpy does them, in 10^9 operations a second; 0 if unknown."""
    peak_gflops: Amount = 0.0
    """What all cores could do in float32 at most: cores times clock times operations a cycle; 0 if unknown."""
    training_gflops: Amount = 0.0
    """In training small networks, as `edgekit devices profile` measures it; 0 if unknown."""
    step_ms: Amount = 0.0
    """That a training step takes beside its arithmetic, measured with it."""
    round_ms: Amount = 0.0
    """That a training takes beside its steps, measured with it."""


class Link(Section):
    """A device's usual link."""

    kind: Literal["ethernet", "wifi", "cellular", "loopback", "unknown"] = "unknown"
    mbit_up: Amount = 0.0
    mbit_down: Amount = 0.0
    latency_ms: Amount = 0.0


class Power(Section):
    """What a device draws and holds; 0 if unknown."""

    idle_watts: Amount = 0.0
    busy_watts: Amount = 0.0
    radio_watts: Amount = 0.0
    """More, while it sends or receives."""
    battery_watt_hours: Amount = 0.0
    heat_seconds: Amount = 0.0
    """That the processor holds its speed before it grows too hot; 0 for ever."""
    sustained: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the speed after that; 0 if unknown."""


class DeviceProfile(Section):
    """What is known of a kind of device, or of one board.

    Attributes:
        name: as `edgekit bundle --device` takes it.
        description: one line for people.
        memory_mb: of the whole device; 0 of a microcontroller.
        flash_kb: of a microcontroller, for program and model; 0 of others.
        ram_kb: of a microcontroller.
        python: version that its system brings, as in 3.11; "" where it has none.
        wheel_platforms: platform tags of wheels that run there.
        runtimes: that it can train and infer with, and their versions where measured.
        evidence: where the figures come from.
        source: in words.
    """

    name: str
    description: str
    memory_mb: Amount = 0.0
    flash_kb: Amount = 0.0
    ram_kb: Amount = 0.0
    python: str = ""
    cpu: Cpu
    link: Link = Link()
    power: Power = Power()
    wheel_platforms: list[str] = Field(default=[])
    runtimes: dict[str, str] = Field(default={})
    evidence: Evidence
    source: str

    @property
    def micro(self) -> bool:
        """Whether it is a microcontroller, whose flash or memory is told in kB."""
        return bool(self.flash_kb or self.ram_kb)


def names() -> list[str]:
    """Return the names of the profiles that come with edgekit."""
    return sorted(path.name.removesuffix(".toml") for path in _folder().iterdir() if path.name.endswith(".toml"))


def load(name: str) -> DeviceProfile:
    """Return a profile by its name, or from a file of this path.

    Raises:
        UsageError: there is none, or the file breaks the schema.
    """
    path = Path(name)
    if path.suffix == ".toml":
        try:
            return _parse(path.read_bytes().decode(), name)
        except OSError as error:
            raise UsageError(f"{name} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"{name} is not valid TOML: {error}") from None
    if name not in names():
        raise UsageError(f"no device profile {name!r}: there are {', '.join(names())}, or a file NAME.toml of your own")
    return _parse((_folder() / f"{name}.toml").read_text(), name)


def save(profile: DeviceProfile, path: Path) -> None:
    """Write a profile."""
    write_whole(path, tomli_w.dumps(profile.model_dump()))


def _parse(text: str, where: str) -> DeviceProfile:
    try:
        return DeviceProfile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where} is not valid TOML: {error}") from None
    except ValidationError as error:
        raise UsageError(f"{where}: {first_problem(error)}") from None


def _folder() -> Traversable:
    return resources.files("edgekit.devices") / "profiles"
