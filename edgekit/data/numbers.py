"""Arrays of numbers as examples: float32, images with channels first and from 0 to 1."""

import numpy as np

from edgekit.arrays import Array
from edgekit.data.federated import Floats
from edgekit.errors import DataError

MOST_CHANNELS = 4
"""Of images whose channels come last."""


def as_features(x: Array, where: str, scale: float | None = None) -> Floats:
    """Bring examples into float32 (examples, channels, height, width) or (examples, features).

    uint8 is scaled to 0..1, and so are whole numbers of other types that are images' (`scale_of`). Images may be
    (n, h, w), (n, h, w, channels) or (n, channels, h, w), with up to 4 channels; sequences of frames are
    (n, steps, channels, h, w).

    Args:
        x: examples.
        where: for messages.
        scale: what they are divided by; None goes by their type.

    Raises:
        DataError: another shape or dtype, or values that are not finite.
    """
    if x.dtype.kind not in "uif":
        raise DataError(f"{where}: examples have dtype {x.dtype}; numbers are needed")
    scale = scale_of(x) if scale is None else scale
    with np.errstate(over="ignore"):  # what is too large is said below
        x = x.astype(np.float32) / np.float32(scale) if scale != 1 else x.astype(np.float32)
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] <= MOST_CHANNELS < x.shape[1]:
        x = x.transpose(0, 3, 1, 2)
    elif x.ndim == 4 and x.shape[3] <= MOST_CHANNELS and x.shape[1] not in (1, 3, 4) and x.shape[2] > MOST_CHANNELS:
        raise DataError(
            f"{where}: examples of shape {x.shape} may be images with {x.shape[1]} channels first, or {x.shape[3]} "
            "last: give (n, channels, height, width)"
        )
    elif x.ndim not in (2, 4, 5):
        raise DataError(f"{where}: examples have shape {x.shape}; (n, features) or 3 to 5 dimensions are needed")
    if not np.isfinite(x).all():
        places = np.argwhere(~np.isfinite(x))
        first, many = places[0].tolist(), len(np.unique(places[:, 0]))
        raise DataError(
            f"{where}: some values are not finite: in {many} example{'s' * (many > 1)}, first in example {first[0]} at "
            f"{tuple(first[1:])}"
        )
    return np.ascontiguousarray(x)


def scale_of(x: Array) -> float:
    """Return what raw values are divided by: 255 for images' bytes, of whichever type of whole numbers."""
    if x.dtype == np.uint8:
        return 255.0
    images = x.dtype.kind in "ui" and x.ndim >= 3 and x.size > 0
    return 255.0 if images and x.min() >= 0 and 100 < x.max() <= 255 else 1.0
