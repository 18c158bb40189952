"""Figures of answers that are not an objective's alone."""

from typing import Any

import numpy as np

from edgekit.arrays import Array

BINS = 15
"""Of chances, for the calibration error."""


def confusion(labels: Array, answers: Array, classes: int) -> Array:
    """Return how often each class (row) was answered by each (column), int64 (classes, classes)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, answers), 1)
    return counts


def calibration(chances: Array, labels: Array) -> dict[str, Any]:
    """Return how far chances can be believed: the expected calibration error, with its bins (Guo et al. 2017, eq. 3).

    Args:
        chances: (examples, classes).
        labels: (examples,).

    Returns:
        `ece`, and `bins`: the mean chance of the class named, the share that was right, and how many examples.
    """
    sure, right = chances.max(1), chances.argmax(1) == labels
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins = [
        {
            "confidence": float(sure[place == one].mean()),
            "accuracy": float(right[place == one].mean()),
            "examples": int((place == one).sum()),
        }
        for one in np.unique(place)
    ]
    away = sum(one["examples"] * abs(one["accuracy"] - one["confidence"]) for one in bins)
    return {"ece": float(away / len(labels)), "bins": bins}
