"""A population of devices: how fast each is, and what it draws, as arrays over clients."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.devices.profile import DeviceProfile, load
from edgekit.errors import ExperimentError
from edgekit.randomness import generator

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

PASSES = 6
"""Floating-point operations of a training step for each multiply-add of the forward pass: two forward, four backward
(gradients of what comes in, and of the weights)."""
SHARE_OF_PRODUCTS, SHARE_OF_PEAK = 0.1, 0.05
"""Of its speed in matrix products, and of its peak, that a processor reaches in training small networks: measured on
an x86-64 server with `edgekit devices profile` (docs/simulated-devices.md), assumed of others."""
ASSUMED_STEP_SECONDS = 5e-3
"""That a training step takes beside its arithmetic."""
ASSUMED_LINKS = {  # Mbit/s up, down; latency in ms
    "ethernet": (100.0, 100.0, 2.0),
    "wifi": (20.0, 40.0, 10.0),
    "cellular": (8.0, 25.0, 50.0),
    "loopback": (1e4, 1e4, 0.1),
    "unknown": (8.0, 25.0, 50.0),
}
ASSUMED_BOARD_WATTS, ASSUMED_PHONE_WATTS = (2.5, 6.0), (0.03, 4.0)
"""Idle and busy, without a battery and with one."""
ASSUMED_RADIO_WATTS = 1.0
CHARGE_HOURS = 2.0
"""That a charger takes to fill a battery."""


@dataclass(frozen=True)
class Work:
    """What some devices do in a round.

    Attributes:
        down: bytes that each is sent.
        examples: that each trains on, those taken twice counted twice.
        steps: that each makes.
        up: bytes that each sends.
        operations: floating-point ones an example.
    """

    down: Floats
    examples: Floats
    steps: Floats
    up: Floats
    operations: Floats


@dataclass(frozen=True)
class Population:
    """Devices; arrays have a value for each.

    Attributes:
        kinds: names of the profiles.
        kind: of each device, a place among these.
        rate: floating-point operations a second in training.
        step_seconds: that a training step takes beside.
        round_seconds: that a training takes beside its steps.
        up, down: bytes a second.
        latency: seconds that each transfer takes beside.
        idle, busy, radio: watts, doing nothing, computing, and beside that while transferring.
        battery: joules when full; 0 on mains.
        heat_seconds: that the processor holds its rate; 0 for ever.
        sustained: share of the rate after that.
        assumed: figures that no profile has, in words.
    """

    kinds: tuple[str, ...]
    kind: Places
    rate: Floats
    step_seconds: Floats
    round_seconds: Floats
    up: Floats
    down: Floats
    latency: Floats
    idle: Floats
    busy: Floats
    radio: Floats
    battery: Floats
    heat_seconds: Floats
    sustained: Floats
    assumed: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def on_battery(self) -> NDArray[np.bool_]:
        """Which devices have a battery."""
        return self.battery > 0

    def seconds(self, clients: Places, work: Work) -> tuple[Floats, Floats, Floats]:
        """Return the seconds that downloads, training and uploads take."""
        download = self.latency[clients] + work.down / self.down[clients]
        cold = np.where(work.steps > 0, self.round_seconds[clients], 0.0) + work.steps * self.step_seconds[clients]
        cold = cold + work.examples * work.operations / self.rate[clients]
        hot = self.heat_seconds[clients]
        slowed = hot + (cold - hot) / self.sustained[clients]
        compute = np.where((hot > 0) & (cold > hot), slowed, cold)
        return download, compute, self.latency[clients] + work.up / self.up[clients]

    def joules(self, clients: Places, computing: Floats, transferring: Floats) -> Floats:
        """Return what these seconds of computing and of transferring draw, beside what idling draws."""
        more = np.maximum(self.busy[clients] - self.idle[clients], 0.0)
        found: Floats = computing * more + transferring * self.radio[clients]
        return found


def population_of(names: Mapping[str, int], clients: int, seed: int, spread: float) -> Population:
    """Return the devices of an experiment: which client has which is drawn by its seed.

    Args:
        names: of profiles, and how many devices are of each.
        clients: that there are.
        seed: the experiment's.
        spread: deviation of the logarithm of speed and link among devices of one kind.

    Raises:
        ExperimentError: they are not as many as there are clients, or a kind does not train.
        UsageError: a profile is not known, or cannot be read.
    """
    profiles = [_fit(load(name)) for name in names]
    if sum(names.values()) != clients:
        raise ExperimentError(
            f"devices.population has {sum(names.values())} devices for {clients} clients: "
            "give each client one, or change data.clients"
        )
    filled, assumed = zip(*(_filled(one) for one in profiles), strict=True)
    rng = generator(seed, "devices", "kinds")
    kind = rng.permutation(np.repeat(np.arange(len(profiles)), list(names.values())))
    faster, nearer = np.exp(spread * generator(seed, "devices", "spread").standard_normal((2, clients)))

    def of(name: str) -> Floats:
        found: Floats = np.asarray([one[name] for one in filled], np.float64)[kind]
        return found

    return Population(
        tuple(one.name for one in profiles),
        kind,
        of("rate") * faster,
        of("step_seconds") / faster,
        of("round_seconds") / faster,
        of("up") * nearer,
        of("down") * nearer,
        of("latency"),
        of("idle"),
        of("busy"),
        of("radio"),
        of("battery"),
        of("heat_seconds"),
        of("sustained"),
        tuple(line for lines in assumed for line in lines),
    )


def _fit(profile: DeviceProfile) -> DeviceProfile:
    if profile.micro:
        raise ExperimentError(f"devices.population: {profile.name} is a microcontroller: it does not train")
    cpu = profile.cpu
    if not (cpu.training_gflops or cpu.gflops or cpu.peak_gflops):
        raise ExperimentError(
            f"devices.population: {profile.name} has no figure of speed: give its profile cpu.peak_gflops, or measure "
            "one on the device with edgekit devices profile"
        )
    return profile


def _filled(profile: DeviceProfile) -> tuple[dict[str, Any], list[str]]:
    """Return a profile's figures, those that are unknown as assumed, and which these are."""
    cpu, link, power = profile.cpu, profile.link, profile.power
    assumed = []

    def known(value: float, otherwise: float, words: str) -> float:
        if not value:
            assumed.append(f"{profile.name}: {words.format(otherwise)}")
        return value or otherwise

    up, down, latency = ASSUMED_LINKS[link.kind]
    idle, busy = ASSUMED_PHONE_WATTS if power.battery_watt_hours else ASSUMED_BOARD_WATTS
    products, peak = cpu.gflops * SHARE_OF_PRODUCTS, cpu.peak_gflops * SHARE_OF_PEAK
    said = "{:.3g} GFLOP/s in training, from " + ("its matrix products" if products else "its processor's peak")
    rate = known(cpu.training_gflops, products or peak, said)
    busy = max(known(power.busy_watts, busy, "{:g} W when busy"), power.idle_watts)
    found = {
        "rate": rate * 1e9,
        "step_seconds": cpu.step_ms / 1e3 if cpu.training_gflops else ASSUMED_STEP_SECONDS,
        "round_seconds": cpu.round_ms / 1e3,
        "up": known(link.mbit_up, up, "{:g} Mbit/s up") * 1e6 / 8,
        "down": known(link.mbit_down, down, "{:g} Mbit/s down") * 1e6 / 8,
        "latency": known(link.latency_ms, latency, "{:g} ms of latency") / 1e3,
        "idle": known(power.idle_watts, idle, "{:g} W when idle"),
        "busy": busy,
        "radio": known(power.radio_watts, ASSUMED_RADIO_WATTS, "{:g} W more while it transfers"),
        "battery": power.battery_watt_hours * 3600,
        "heat_seconds": power.heat_seconds,
        "sustained": power.sustained or 1.0,
    }
    return found, assumed


def counts(population: Population, clients: Iterable[int]) -> dict[str, int]:
    """Return how many of some clients are of each kind."""
    found = np.bincount(population.kind[list(clients)], minlength=len(population.kinds))
    return {name: int(number) for name, number in zip(population.kinds, found, strict=True)}
