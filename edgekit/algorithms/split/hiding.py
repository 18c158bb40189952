"""What a device does so that its activations tell less: clipping and noise, and NoPeek's penalty. Numpy alone."""

from dataclasses import dataclass

import numpy as np

from edgekit.arrays import Array
from edgekit.data.federated import Floats
from edgekit.privacy import gaussian


@dataclass(frozen=True)
class Noise:
    """How a part's private steps are made (Abadi et al. 2016, algorithm 1).

    Attributes:
        clip: largest l2 norm of one example's gradient by the part's weights.
        deviation: standard deviation of the noise in a sum of them.
        divisor: what the sum is divided by: the expected number of examples; 0 for the batch's own.
        rng: draws the noise.
    """

    clip: float
    deviation: float
    divisor: float
    rng: np.random.Generator


def clipped(rows: Floats, bound: float) -> Floats:
    """Scale each example's array to l2 norm `bound`, if it is longer; one that is not finite becomes zero.

    Args:
        rows: (examples, ...).
        bound: largest norm.
    """
    found: Floats = (
        _rowwise(_factors(rows, bound), rows) * np.nan_to_num(rows, nan=0.0, posinf=0.0, neginf=0.0)
    ).astype(np.float32, copy=False)
    return found


def through_clip(gradient: Floats, rows: Floats, bound: float) -> Floats:
    """Return the gradient with respect to arrays from the one with respect to them clipped.

    Args:
        gradient: by the clipped arrays, (examples, ...).
        rows: the arrays before.
        bound: of the clipping.
    """
    factors = _factors(rows, bound)
    g, flat = gradient.reshape(len(gradient), -1), rows.reshape(len(rows), -1)
    squares = np.maximum((flat * flat).sum(1), 1e-30)
    along = (flat * g).sum(1) / squares * (factors < 1)  # clipped arrays do not grow in their own direction
    found: Floats = (factors[:, None] * (g - along[:, None] * flat)).reshape(gradient.shape).astype(np.float32)
    return found


def noised(rows: Floats, deviation: float, rng: np.random.Generator) -> Floats:
    """Add Gaussian noise of this standard deviation to each value."""
    found: Floats = rows + gaussian.draw(rows.shape, deviation, rng, np.float32)
    return found


def distance_correlation(x: Floats, z: Floats) -> tuple[float, Floats]:
    """Return the distance correlation of examples and activations, and its gradient by the activations.

    NoPeek (Vepakomma et al. 2020, section 3) adds it to the loss, so that activations tell less of the examples. That
    is no guarantee. Distance correlation: Szekely et al. 2007, definitions 3 and 4.

    Args:
        x: (examples, ...).
        z: (examples, ...).
    """
    flat = z.reshape(len(z), -1).astype(np.float64)
    a, b = _distances(x.reshape(len(x), -1).astype(np.float64)), _distances(flat)
    of_x, of_z = _centred(a), _centred(b)
    size = len(z) ** 2
    covariance, x_variance, z_variance = (float((p * q).sum()) / size for p, q in
                                          ((of_x, of_z), (of_x, of_x), (of_z, of_z)))  # fmt: skip
    scale = np.sqrt(x_variance * z_variance)
    if scale < 1e-20 or covariance < 1e-20:  # one example, or all the same: nothing to be told
        return 0.0, np.zeros_like(z)
    square = covariance / scale
    # Centring is symmetric and leaves centred matrices as they are, so these are the gradients by the distances.
    by_b = (of_x / scale - square * of_z / z_variance) / size / (2 * np.sqrt(square))
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.where(b > 0, by_b / b, 0.0)
    slopes = slopes + slopes.T
    by_z = slopes.sum(1)[:, None] * flat - slopes @ flat
    return float(np.sqrt(square)), by_z.reshape(z.shape).astype(np.float32)


def _distances(flat: Array) -> Array:
    squares = (flat * flat).sum(1)
    found: Array = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * flat @ flat.T, 0.0))
    np.fill_diagonal(found, 0.0)
    return found


def _centred(matrix: Array) -> Array:
    found: Array = matrix - matrix.mean(0)[None] - matrix.mean(1)[:, None] + matrix.mean()
    return found


def _factors(rows: Floats, bound: float) -> Array:
    norms = np.sqrt((rows.reshape(len(rows), -1).astype(np.float64) ** 2).sum(1))
    with np.errstate(over="ignore"):
        found: Array = np.where(np.isfinite(norms), np.minimum(1.0, bound / (norms + 1e-12)), 0.0)
    return found


def _rowwise(values: Floats, rows: Floats) -> Floats:
    return values.reshape(-1, *([1] * (rows.ndim - 1)))
