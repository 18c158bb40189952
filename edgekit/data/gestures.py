"""`gestures`: what a phone's accelerometer feels, simulated: five movements, for phones to learn and to practise with.

Two seconds at 32 samples a second; axes as in W3C's DeviceMotion: x to the right of the screen, y to its top, z out of
it, gravity included. The phone is held upright, at some tilt; hands differ in strength and pace. These are models of
movements, not recordings: a network that knows them is a start for phones, which learn from real hands.
"""

import numpy as np

from edgekit.data.federated import ArraySource, Floats
from edgekit.randomness import generator

SAMPLES, SECONDS = 64, 2.0
ROWS = 8
"""Samples are folded into rows of eight, (3, 8, 8): small convolutions see what is near in time."""
SCALE, LARGEST = 20.0, 3.0
"""m/s² that become 1, and where values are cut off; `clients/phone/page/move.js` does the same."""
GRAVITY = 9.81
NAMES = ("still", "shake", "chop", "circle", "twist")
EACH = 300


def simulate(name: str, rng: np.random.Generator) -> Floats:
    """Return one movement, (3, 8, 8)."""
    t = np.arange(SAMPLES) * SECONDS / SAMPLES
    phase, pace = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.2)
    tilt = rng.uniform(0.5, 1.3)  # about the x axis, in radians
    lean = np.full(SAMPLES, rng.uniform(-0.35, 0.35))  # about the z axis
    push = np.zeros((3, SAMPLES))
    if name == "shake":  # to and fro, four times a second
        push[0] = rng.uniform(8, 18) * np.sin(2 * np.pi * 4 * pace * t + phase)
    elif name == "chop":  # up and down, three times a second
        push[1] = rng.uniform(8, 18) * np.sin(2 * np.pi * 3 * pace * t + phase)
    elif name == "circle":  # before one's chest, once a second
        strength = rng.uniform(4, 9)
        turn = 2 * np.pi * 1.2 * pace * t + phase
        push[0], push[1] = strength * np.cos(turn), strength * np.sin(turn)
    elif name == "twist":  # about the screen's middle, as a key in a lock
        lean += rng.uniform(0.7, 1.3) * np.sin(2 * np.pi * 1.2 * pace * t + phase)
    upright = np.sin(tilt) * np.stack([np.sin(lean), np.cos(lean)])
    gravity = GRAVITY * np.concatenate([upright, np.full((1, SAMPLES), np.cos(tilt))])
    felt = gravity + push + rng.normal(0, 0.3, (3, SAMPLES))
    folded: Floats = np.clip(felt / SCALE, -LARGEST, LARGEST).astype(np.float32).reshape(3, ROWS, SAMPLES // ROWS)
    return folded


def read(seed: int = 0) -> ArraySource:
    """Return the source: three hundred of each movement."""
    labels = np.repeat(np.arange(len(NAMES)), EACH)
    x = np.stack([simulate(NAMES[label], generator(seed, "gestures", place)) for place, label in enumerate(labels)])
    text = f"simulated gestures, {len(labels)} movements of {SAMPLES} accelerometer samples"
    return ArraySource(x, labels.astype(np.int64), list(NAMES), text, normalisation={"mean": 0.0, "std": 1.0})
