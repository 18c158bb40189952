"""Whether a network fits a device: its file and the memory it takes while it runs, held against the device's."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import objectives
from edgekit.devices.profile import DeviceProfile
from edgekit.errors import EdgekitError, UsageError
from edgekit.export import runtimes
from edgekit.export.memory import needs
from edgekit.export.tflite import Subject, as_device, export
from edgekit.export.verify import run_examples
from edgekit.models import build
from edgekit.models.kinds import aim_of
from edgekit.models.sequence import vocabulary_of
from edgekit.models.settings import Model
from edgekit.pipeline.search.asking import MICRO, WHOLE
from edgekit.registry import MODELS
from edgekit.section import Chosen

KERNELS = 60 << 10
"""Bytes that TFLite Micro's code is reckoned with, beside a file: tens of kB, more with more kinds of operators."""
WIDTHS = (0.75, 0.5, 0.35, 0.25)
"""To try where a network does not fit, as shares of its own."""


@dataclass(frozen=True)
class Fit:
    """What a network takes of a device.

    Attributes:
        width: of the network.
        preset: number format of the file.
        file: its bytes.
        flash: bytes with the kernels' code, of a microcontroller; else the file.
        ram: bytes while it runs.
        how: where the figure for `ram` comes from.
        has_flash: bytes that the device has; 0 if unknown.
        has_ram: likewise.
    """

    width: float
    preset: str
    file: int
    flash: int
    ram: int
    how: str
    has_flash: int
    has_ram: int

    @property
    def fits(self) -> bool:
        """Whether both do."""
        return (not self.has_flash or self.flash <= self.has_flash) and (not self.has_ram or self.ram <= self.has_ram)

    def facts(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "fits": self.fits}


def fit(
    model: Model, shape: tuple[int, ...], classes: int, device: DeviceProfile, say: Callable[[str], None]
) -> list[Fit]:
    """Return what a network takes of a device; where it does not fit, what narrower ones do, up to one that fits.

    The file is made of a network that has learnt nothing: neither its bytes nor its memory depend on that.

    Args:
        model: the network's section.
        shape: of one example.
        classes: of its answer.
        device: the device.
        say: told of each file that is made.

    Raises:
        UsageError: the profile tells neither flash nor memory.
        EdgekitError: no file can be made of the network.
    """
    if not (device.flash_kb or device.ram_kb or device.memory_mb):
        raise UsageError(f"the profile {device.name} tells neither flash_kb, ram_kb nor memory_mb: give one of them")
    found = [_fit(model, shape, classes, device, say)]
    for share in WIDTHS:
        if found[-1].fits:
            break
        narrower = model.model_copy(update={"width": round(model.width * share, 3)})
        try:
            found.append(_fit(narrower, shape, classes, device, say))
        except EdgekitError:  # too narrow for its strides, or a network without widths
            break
    return found


def _fit(model: Model, shape: tuple[int, ...], classes: int, device: DeviceProfile, say: Callable[[str], None]) -> Fit:
    micro = device.micro
    preset = MICRO if micro else WHOLE
    say(f"making the {preset} file at width {model.width:g}")
    aim = objectives.make(Chosen(name=aim_of(MODELS.load(model.name)) if model.name in MODELS else "cross-entropy"))
    network = build(model, shape, classes, 0, objective=aim)
    rng, words = np.random.default_rng(0), vocabulary_of(network)
    size = (2 * classes, *shape)
    x = np.asarray(rng.integers(0, words, size) if words else rng.standard_normal(size), np.float32)
    subject = Subject(network, shape, x, None, x, [str(number) for number in range(classes)], {})
    with tempfile.TemporaryDirectory() as place:
        content = export(subject, [preset], Path(place), {}, 1.0)[preset].path.read_bytes()
    ram, how = needs(content)["activations"], "what is alive at the same time, without what an interpreter keeps beside"
    if micro and runtimes.MICRO in runtimes.installed():
        arena = run_examples(content, as_device(x[:1]), runtimes.MICRO).arena
        ram, how = arena or ram, "the arena of TFLite Micro on this 64-bit machine, with its reference kernels"
    elif micro:
        say("tflite-micro is not installed (pip install 'edgekit[micro]'): the arena is reckoned, not measured")
    return Fit(
        model.width,
        preset,
        len(content),
        len(content) + (KERNELS if micro else 0),
        ram,
        how,
        int(device.flash_kb * 1024),
        int((device.ram_kb or 1024 * device.memory_mb) * 1024),
    )
