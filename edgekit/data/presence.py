"""`presence`: is something there? Pictures with a handwritten digit among clutter, or with clutter alone.

What visual wake words ask of a camera (Chowdhery et al. 2019; MLPerf Tiny's task of persons), in small: clutter is
digits cut into pieces and laid out anew, so strokes and brightness are the same in both classes, and what tells them
apart is shape. Each of sixteen cameras has a background and a contrast of its own.
"""

import numpy as np
from sklearn.datasets import load_digits

from edgekit.data.federated import ArraySource, Floats
from edgekit.randomness import generator

SIDE, DIGIT, PIECE = 24, 8, 4
"""Pixels of a picture, of a digit, and of a piece of one."""
CAMERAS, EACH = 16, 250
"""Pictures of each camera, half of them with a digit."""
PIECES = 7
"""That lie about."""


def picture(there: bool, digits: Floats, camera: int, rng: np.random.Generator) -> Floats:
    """Return one picture, (1, 24, 24), from 0 to 1.

    Args:
        there: whether a digit is in it.
        digits: images of digits, (digits, 8, 8), from 0 to 1.
        camera: which one looks.
        rng: draws.
    """
    found = np.zeros((SIDE, SIDE))

    def lay(patch: Floats, size: int) -> None:
        row, column = rng.integers(0, SIDE - size + 1, 2)
        place = found[row : row + size, column : column + size]
        np.maximum(place, patch, out=place)

    whole = 4 if not there else 0  # a digit is four pieces: as many strokes lie in either
    for _ in range(PIECES + whole):
        row, column = PIECE * rng.integers(0, DIGIT // PIECE, 2)
        lay(digits[rng.integers(len(digits))][row : row + PIECE, column : column + PIECE], PIECE)
    if there:
        lay(digits[rng.integers(len(digits))], DIGIT)
    own = np.random.default_rng(camera)
    ground, contrast = own.uniform(0, 0.35), own.uniform(0.5, 0.65)
    slope = own.uniform(-0.1, 0.1, 2) @ (np.mgrid[:SIDE, :SIDE] / SIDE).reshape(2, -1)
    seen = ground + slope.reshape(SIDE, SIDE) + contrast * found + rng.normal(0, 0.03, found.shape)
    clipped: Floats = np.clip(seen, 0, 1).astype(np.float32)[None]
    return clipped


def read(seed: int = 0) -> ArraySource:
    """Return the source: classes `nothing` and `digit`, a group a camera."""
    digits = (load_digits().images / 16).astype(np.float32)
    places = [(camera, number % 2 == 1) for camera in range(CAMERAS) for number in range(EACH)]
    x = np.stack(
        [picture(there, digits, camera, generator(seed, "presence", i)) for i, (camera, there) in enumerate(places)]
    )
    return ArraySource(
        x,
        np.array([int(there) for _, there in places], np.int64),
        ["nothing", "digit"],
        f"pictures of {CAMERAS} cameras, {len(places)} of {SIDE} x {SIDE}, half of them with a digit among clutter",
        np.array([f"camera {camera}" for camera, _ in places]),
        {"mean": 0.0, "std": 1.0},
    )
