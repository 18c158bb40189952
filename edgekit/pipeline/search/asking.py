"""What a search is asked for: the budget, and what varies."""

import math
from collections.abc import Iterator, Mapping

from edgekit import experiment as experiments
from edgekit.devices.profile import load as load_profile
from edgekit.errors import UsageError
from edgekit.experiment import Experiment
from edgekit.export import runtimes
from edgekit.models.kinds import searched_of
from edgekit.pipeline.search.folder import ALIVE, ARENA, Budget, Search
from edgekit.registry import MODELS, PRESETS

MICRO, WHOLE = "int8-full", "int8"
"""Number formats: of microcontrollers, integers from end to end; of other devices."""


def budget_of(
    device: str,
    latency_ms: float,
    flash_kb: float,
    ram_kb: float,
    preset: str,
    share: float = 0.0,
    *,
    remote: bool = False,
) -> tuple[Budget, str]:
    """Return a search's budget, and the number format that is measured.

    Args:
        device: a profile's name; "" is this machine.
        latency_ms, flash_kb, ram_kb: as asked for; 0 leaves them to the profile.
        preset: as asked for; "" leaves it to the kind of device.
        share: of the experiment's own latency; 0 is no bound.
        remote: whether a command measures latency on the device itself.

    Raises:
        UsageError: there is no such profile or format, nothing is bounded, or a latency cannot be measured.
    """
    given = (("--latency-ms", latency_ms), ("--latency-share", share), ("--flash-kb", flash_kb), ("--ram-kb", ram_kb))
    for option, value in given:
        if not 0 <= value < math.inf:
            raise UsageError(f"{option} {value:g}: give a number of 0 or more")
    profile = load_profile(device) if device else None
    micro = profile is not None and profile.micro
    if profile is not None:
        flash_kb, ram_kb = flash_kb or profile.flash_kb, ram_kb or profile.ram_kb or 1024 * profile.memory_mb
    if latency_ms and share:
        raise UsageError("--latency-ms and --latency-share bound the same: leave one out")
    if remote and not (latency_ms or share):
        raise UsageError("--measure tells latencies, and none is bounded: give --latency-ms or --latency-share too")
    if micro and (latency_ms or share) and not remote:
        raise UsageError(
            f"the latency of {device} cannot be measured on this machine, nor does its profile tell one: give "
            "--measure COMMAND that runs {file} there, or leave --latency-ms and --latency-share out; flash and memory "
            "bound the network"
        )
    if profile is not None and not (flash_kb or ram_kb or latency_ms or share):
        raise UsageError(
            f"the profile {device} tells neither flash nor memory: give --latency-ms, --flash-kb or --ram-kb"
        )
    if not (latency_ms or share or flash_kb or ram_kb):
        raise UsageError("nothing is bounded: give --device, --latency-ms, --latency-share, --flash-kb or --ram-kb")
    chosen = preset or (MICRO if micro else WHOLE)
    if chosen not in PRESETS:
        raise UsageError(f"--preset {chosen}: there are {', '.join(PRESETS)}")
    return Budget(1000 * latency_ms, round(1024 * flash_kb), round(1024 * ram_kb)), chosen


def memory_of(device: str) -> str:
    """Return how memory is measured of candidates for a device."""
    profile = load_profile(device) if device else None
    micro = profile is not None and profile.micro
    return ARENA if micro and runtimes.MICRO in runtimes.installed() else ALIVE


def notes(search: Search) -> list[str]:
    """Return what a reader of the figures must know."""
    budget, found = search.budget, []
    if budget.latency_us or search.share:
        where = f", which is no {search.device}: its profile tells no latency" if search.device else ""
        measured = f"on one thread of this machine{where}"
        if search.remote:
            measured = f"on {search.device or 'another device'}, as the command of --measure tells"
        found.append(f"latency is that of the {search.preset} file {measured}")
    bounds = [
        text
        for text, most in (
            (f"{search.share:g} of the experiment's own latency", search.share),
            (f"{budget.latency_us / 1000:g} ms", budget.latency_us),
            (f"{budget.flash / 1024:g} kB of file", budget.flash),
            (f"{budget.ram / 1024:g} kB of memory", budget.ram),
        )
        if most
    ]
    found.append(f"at most {', '.join(bounds)}")
    if search.budget.ram:
        found.append(f"memory is {search.memory}")
    many = math.prod(len(values) for values in search.space.values())
    return [*found, f"{many:,} networks by {', '.join(f'{key} ({len(v)})' for key, v in search.space.items())}"]


def space_of(experiment: Experiment, grid: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return what varies: what was asked for, or what the network's family names.

    Raises:
        UsageError: nothing does, or a value is none that the experiment may have.
    """
    space = dict(grid) or {
        key: tuple(values) for key, values in searched_of(MODELS.load(experiment.model.name)).items()
    }
    if not space:
        raise UsageError(
            f"{experiment.model.name} names nothing to vary: give keys several values, as model.width=0.5,0.75,1"
        )
    if experiment.compression.stages or any(key.startswith("compression.") for key in space):
        raise UsageError(
            "a search varies networks and trains each as it is: leave compression.stages out, and compress the winner"
        )
    list(each_changed(experiment, space))
    return space


def check_supernet(experiment: Experiment, space: dict[str, tuple[str, ...]]) -> None:
    """See that a supernet can be trained for a search, before anything is.

    Raises:
        UsageError: it cannot.
    """
    if others := [key for key in space if not key.startswith("model.")]:
        raise UsageError(
            f"--supernet shares networks' weights, and {others[0]} is none of [model]: leave one of them out"
        )
    if experiment.privacy.on:
        raise UsageError(
            "--supernet trains on the clients' data once more, which privacy does not plan for: leave it out"
        )
    if experiment.federation.method != "fedavg" or experiment.federation.strategy or experiment.federation.transforms:
        raise UsageError("--supernet trains by a method of its own: leave federation's method and transforms out")


def each_changed(experiment: Experiment, space: Mapping[str, tuple[str, ...]]) -> Iterator[Experiment]:
    """Yield the experiment with each single value of a space.

    Raises:
        ExperimentError: one is none that it may have.
    """
    for key, values in space.items():
        for value in values:
            yield experiments.changed(experiment, [f"{key}={value}"])
