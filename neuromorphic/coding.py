"""How inputs become codes: what a network's first synapses receive at each time step."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.randomness import generator

Floats = NDArray[np.float32]
Coding = Literal["current", "rate", "latency", "frames"]
"""What the first synapses receive.

`current`: each value's code at every step, a constant current.
`rate`: the largest code or nothing, at each step with a chance that makes the mean the value (Bernoulli).
`latency`: the largest code once, the sooner the larger the value (Thorpe et al. 2001); the current it starts stays, so
that the charge up to the end is the value. The first neurons' current must not decay.
`frames`: examples are sequences already, a frame a step, as of an event camera.
"""


def encode(
    x: Floats, low: float, step: float, bits: int, coding: Coding, steps: int, seed: int = 0
) -> NDArray[np.int32]:
    """Return integer codes, 0 to 2^bits - 1; code k stands for low + k step.

    Args:
        x: (examples, ...), or (examples, steps, ...) of frames.
        low, step, bits: of the codes.
        coding: of values over time.
        steps: time steps.
        seed: of random codes.

    Returns:
        (examples, ...) for a constant current, (examples, steps, ...) for all others.
    """
    largest = 2**bits - 1
    codes: NDArray[np.int32] = np.clip(np.rint((x - low) / step), 0, largest).astype(np.int32)
    if coding in ("current", "frames"):
        return codes
    share = codes / largest
    if coding == "rate":
        rng = generator(seed, "rate coding")
        fired = rng.random((len(x), steps, *x.shape[1:]), np.float32) < share[:, None]
    else:
        first = steps - np.rint(share * steps).astype(np.int64)  # a share of nothing never comes
        fired = first[:, None] == np.arange(steps).reshape(1, -1, *[1] * (x.ndim - 1))
    return np.asarray(fired * largest, np.int32)
