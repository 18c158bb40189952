"""How the layers are compiled, and what they share."""

import numpy as np
from numba import njit

from edgekit.clients.client_major import fields as f

COMPILED = {"nogil": True, "error_model": "numpy"}
"""For numba: threads run at once."""
EXACT = {"nsz", "contract"}
"""What sums over channels may assume of numbers: what is none stays none."""
SUMMED = {"nsz", "contract", "reassoc"}
"""Of sums along an array."""

ANY_LOW, ANY_HIGH = np.float32(-np.inf), np.float32(np.inf)


@njit(**COMPILED)
def bounds(act):  # type: ignore[no-untyped-def]
    """Return the lowest and highest number that an activation lets through."""
    low = np.float32(0) if act > 0 else ANY_LOW
    return low, (np.float32(6) if act == 2 else ANY_HIGH)


@njit(fastmath=EXACT, **COMPILED)
def mask(op, a, batch):  # type: ignore[no-untyped-def]
    """Let a gradient pass where the layer's result is inside its activation's bounds."""
    n, zero, six = op[f.N], np.float32(0), np.float32(6) if op[f.ACT] == 2 else ANY_HIGH
    g = op[f.GY]
    for b in range(batch):
        for i in range(op[f.OH]):
            start, size = op[f.Y] + b * op[f.Y_BATCH] + i * op[f.Y_LINE], op[f.OW] * n
            y, d = a[start : start + size], a[g : g + size]
            for k in range(size):
                d[k] = d[k] if zero < y[k] < six else zero
            g += size
