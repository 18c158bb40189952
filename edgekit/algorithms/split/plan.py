"""What a round costs a device: federated averaging, and split learning behind each cut. Estimates, from its profile."""

import math
from dataclasses import dataclass

from torch import nn

from edgekit.algorithms.split.codec import bytes_an_example
from edgekit.algorithms.split.settings import Split
from edgekit.devices.profile import DeviceProfile
from edgekit.local_settings import LocalSettings
from edgekit.models.cost import kept, macs
from edgekit.models.cut import CutModel

WHOLE = "federated averaging"
PASSES = 3
"""A training step computes about three times what an inference does: the backward pass, twice the forward one."""


@dataclass(frozen=True)
class Way:
    """One way to train, and what a round of it costs one device.

    Attributes:
        name: `federated averaging`, or the layer behind which the server goes on.
        parameters: on the device.
        memory_mb: of parameters, gradients, momentum, and the numbers that the backward pass needs.
        macs: multiply-adds in the round.
        bytes_up: that the device sends.
        bytes_down: that it is sent.
        seconds: of computing and of the link, one after the other; None where the profile says too little.
        joules: for that long at the device's power when busy; None likewise.
        fits: whether it fits the device's memory; None where that is not known.
    """

    name: str
    parameters: int
    memory_mb: float
    macs: int
    bytes_up: int
    bytes_down: int
    seconds: float | None
    joules: float | None
    fits: bool | None


def compare(
    model: nn.Module,
    shape: tuple[int, ...],
    examples: int,
    training: LocalSettings,
    split: Split,
    device: DeviceProfile,
) -> list[Way]:
    """Return what each way costs, federated averaging first, then the cuts from the first layer to the last.

    Args:
        model: the network.
        shape: of one example.
        examples: of one client.
        training: epochs and batch size.
        split: labels, tail, codec and window; its cut is passed over.
        device: whose figures count; those it does not know leave seconds and joules open.

    Raises:
        ModelError: the network cannot be cut.
    """
    cuts = CutModel(model, shape)
    steps = math.ceil(examples / training.batch_size) * training.epochs
    passes = examples * training.epochs
    size = _bytes(model)
    ways = [
        _way(WHOLE, [(model, shape)], size, size, 2, passes, training.batch_size, device),
    ]
    tail = "" if split.labels == "server" else split.tail or cuts.last.name
    for cut in cuts.cuts:
        if cut.name == tail:
            break
        bottom, between, *rest = cuts.parts([cut.name, tail] if tail else [cut.name])
        if not any(True for _ in between.parameters()):
            continue  # the server would learn nothing
        crossing = [cut.shape]
        parts = [(bottom, shape)]
        if tail:
            crossing.append(cuts.shape_behind(tail))
            parts.append((rest[0], crossing[1]))
        own = sum(_bytes(part) for part, _ in parts)
        stream = round(passes * sum(bytes_an_example(one, split.codec, training.batch_size) for one in crossing))
        labels = 0 if tail else 4 * passes
        # With several batches under way, a link's delay is waited for once for all of them.
        turns = math.ceil(steps * len(crossing) / split.window)
        ways.append(
            _way(cut.name, parts, own + stream + labels, own + stream, turns, passes, training.batch_size, device)
        )
    return ways


def best(ways: list[Way]) -> Way:
    """Return the way to choose: of those that fit the device, the fastest, or where that is not known the smallest."""
    possible = [way for way in ways if way.fits is not False] or ways

    def cost(way: Way) -> float:
        return way.seconds if way.seconds is not None else way.bytes_up + way.bytes_down

    return min(possible, key=cost)


def verdict(ways: list[Way]) -> str:
    """Say in a sentence what to choose, and why."""
    whole, chosen = ways[0], best(ways)
    if len(ways) == 1:
        return "this network cannot be split: no cut leaves something to learn on both sides of it"
    cheapest = min(ways[1:], key=lambda way: way.bytes_up + way.bytes_down)
    more = (cheapest.bytes_up + cheapest.bytes_down) / (whole.bytes_up + whole.bytes_down)
    if whole.fits is False:
        if chosen.fits is False:
            return "nothing fits this device's memory: use a smaller network, or smaller batches"
        return f"the whole network does not fit this device: cut behind {chosen.name}"
    if chosen is whole:
        moves = (
            f"moves {more:,.1f} times as much" if more >= 1 else f"moves {1 / more:,.1f} times less, but takes longer"
        )
        return (
            f"split learning is the wrong choice here: the cheapest cut, behind {cheapest.name}, {moves}, "
            "and the whole network fits the device"
        )
    if chosen.seconds is not None and whole.seconds is not None:
        return f"cut behind {chosen.name}: it takes {whole.seconds / chosen.seconds:,.1f} times less time"
    return f"cut behind {chosen.name}: it moves {1 / more:,.1f} times less than federated averaging"


def _way(
    name: str,
    parts: list[tuple[nn.Module, tuple[int, ...]]],
    up: int,
    down: int,
    turns: int,
    passes: int,
    batch: int,
    device: DeviceProfile,
) -> Way:
    parameters = sum(parameter.numel() for part, _ in parts for parameter in part.parameters())
    memory = 4 * (3 * parameters + batch * sum(kept(part, shape) for part, shape in parts)) / 1e6
    work = PASSES * passes * sum(macs(part, shape) for part, shape in parts)
    cpu, link = device.cpu, device.link
    seconds = None
    if cpu.gflops and link.mbit_up and link.mbit_down:
        computing = 2 * work / (1e9 * cpu.gflops)
        sending = 8 * up / (1e6 * link.mbit_up) + 8 * down / (1e6 * link.mbit_down)
        seconds = computing + sending + turns * link.latency_ms / 1000
    joules = seconds * device.power.busy_watts if seconds is not None and device.power.busy_watts else None
    fits = memory <= device.memory_mb if device.memory_mb else None
    return Way(name, parameters, memory, work, up, down, seconds, joules, fits)


def with_figures(device: DeviceProfile, figures: dict[str, float | None]) -> DeviceProfile:
    """Return a profile with some figures said anew: gflops, mbit_up, mbit_down, latency_ms, busy_watts, memory_mb."""
    given = {name: value for name, value in figures.items() if value is not None}

    def part(names: tuple[str, ...]) -> dict[str, float]:
        return {name: given[name] for name in names if name in given}

    return device.model_copy(
        update={
            **part(("memory_mb",)),
            "cpu": device.cpu.model_copy(update=part(("gflops",))),
            "link": device.link.model_copy(update=part(("mbit_up", "mbit_down", "latency_ms"))),
            "power": device.power.model_copy(update=part(("busy_watts",))),
        }
    )


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())
