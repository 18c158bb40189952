"""`moving-digits`: what an event camera would see of handwritten digits that move: real shapes, simulated events.

Each pixel remembers its last brightness and sends an event whenever the logarithm has changed by a threshold, as
event-camera simulators have it (Rebecq et al. 2018, "ESIM", section 3). A recording's label is the digit.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.data.events import EVENT, to_frames
from edgekit.data.federated import Floats, Integers
from edgekit.data.settings import Events
from edgekit.randomness import generator

SENSOR = 24
"""Side of the sensor in pixels; a digit is 16 of them wide."""
MILLISECONDS = 80
STEPS = 40
"""Moments at which brightness is looked at."""
DISTANCE = 7.0
"""Pixels that a digit moves."""
THRESHOLD = 0.35
"""Change of the logarithm of brightness that makes an event."""
DARKEST = 0.1


def record(image: Floats, angle: float, rng: np.random.Generator) -> NDArray[Any]:
    """Return the events of a digit that moves in a direction.

    Args:
        image: (8, 8), 0..1.
        angle: of the motion, in radians.
        rng: of the thresholds, which differ from pixel to pixel as they do on a sensor.
    """
    large = np.kron(image, np.ones((2, 2), np.float32))
    padded = np.zeros((SENSOR + 2, SENSOR + 2), np.float32)
    threshold = THRESHOLD * rng.uniform(0.8, 1.2, (SENSOR, SENSOR))
    remembered = None
    found = []
    for moment in range(STEPS):
        along = DISTANCE * (moment / (STEPS - 1) - 0.5)
        frame = _shifted(large, padded, along * np.sin(angle), along * np.cos(angle))
        brightness = np.log(DARKEST + frame)
        if remembered is None:
            remembered = brightness
            continue
        crossed = ((brightness - remembered) / threshold).astype(np.int64)
        rows, columns = np.nonzero(crossed)
        numbers = crossed[rows, columns]
        each = np.abs(numbers)
        part = np.empty(int(each.sum()), EVENT)
        # A pixel that crosses several thresholds in one moment sends its events evenly over it.
        within = (np.arange(len(part)) - np.repeat(np.cumsum(each) - each, each)) / np.repeat(each, each)
        part["t"] = 1000 * MILLISECONDS * (moment + within) / STEPS
        part["x"], part["y"], part["p"] = (np.repeat(v, each) for v in (columns, rows, numbers > 0))
        found.append(part)
        remembered = remembered + crossed * threshold
    events = np.concatenate(found)
    return events[np.argsort(events["t"], kind="stable")]


def _shifted(image: Floats, canvas: Floats, down: float, right: float) -> Floats:
    """Draw the image off the middle by fractions of pixels, with bilinear weights."""
    corner = (SENSOR - len(image)) / 2
    row, column = corner + down, corner + right
    top, left = int(np.floor(row)), int(np.floor(column))
    y, x = row - top, column - left
    canvas[:] = 0
    side = len(image)
    for i, j, weight in ((0, 0, (1 - y) * (1 - x)), (0, 1, (1 - y) * x), (1, 0, y * (1 - x)), (1, 1, y * x)):
        canvas[top + i : top + i + side, left + j : left + j + side] += weight * image
    return canvas[:SENSOR, :SENSOR]


@dataclass(frozen=True)
class MovingDigits:
    """All digits, each moving once, in a direction of its own.

    Attributes:
        images: (digits, 8, 8), 0..1.
        labels: digits.
        settings: how events become frames.
        seed: of the directions.
    """

    images: Floats
    labels: Integers
    settings: Events
    seed: int
    _made: dict[int, Floats] = field(default_factory=dict, repr=False)

    @property
    def groups(self) -> None:
        """Nobody's."""
        return

    @property
    def classes(self) -> list[str]:
        """The digits."""
        return [str(digit) for digit in range(10)]

    @property
    def description(self) -> str:
        """One line for people."""
        size = f"{self.settings.frames} frames of {self.settings.height} x {self.settings.width}"
        return f"moving digits, {len(self.labels)} simulated event recordings as {size}"

    @property
    def normalisation(self) -> dict[str, Any]:
        """Frames are used as they are."""
        return {"mean": 0.0, "std": 1.0}

    def load(self, indices: Integers) -> Floats:
        """Return frames (examples, frames, 2, height, width)."""
        return np.stack([self._frames(int(index)) for index in indices])

    def _frames(self, index: int) -> Floats:
        """Make a recording once: rounds ask for it again and again."""
        if index in self._made:
            return self._made[index]
        rng = generator(self.seed, "moving digits", index)
        events = record(self.images[index], rng.uniform(0, 2 * np.pi), rng)
        self._made[index] = to_frames(events, (SENSOR, SENSOR), self.settings, f"moving digit {index}")
        return self._made[index]


def read(settings: Events, seed: int = 0) -> MovingDigits:
    """Return the source: scikit-learn's digits (Alpaydin & Kaynak 1998) in motion."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return MovingDigits((images / 16).astype(np.float32).reshape(-1, 8, 8), labels.astype(np.int64), settings, seed)
