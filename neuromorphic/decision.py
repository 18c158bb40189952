"""Early decision: stop an inference as soon as the readout is confident (as in Li et al. 2023, "SEENN", section 3)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Margins to try, as quantiles of the margins at the last step."""
AFFORDABLE_LOSS = 0.005
"""Accuracy on the calibration examples that deciding early may cost."""


@dataclass(frozen=True)
class EarlyDecision:
    """What a margin does.

    Attributes:
        margin: by which the best class must lead the second, in the readout's units.
        accuracy: of the decisions.
        steps: mean steps until a decision.
    """

    margin: float
    accuracy: float
    steps: float


def margins(readout: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return by how much the best class leads the second, (examples, steps): readout (examples, steps, classes)."""
    ordered = np.sort(readout.astype(np.int64), axis=2)
    lead: NDArray[np.int64] = ordered[:, :, -1] - ordered[:, :, -2]
    return lead


def decide(readout: NDArray[np.int32], labels: NDArray[np.int64], margin: float) -> EarlyDecision:
    """Stop each example at the first step whose lead reaches the margin, at the latest at the last.

    Args:
        readout: voltages, (examples, steps, classes).
        labels: classes, (examples,).
        margin: lead at which an example is decided.
    """
    sure = margins(readout) >= margin
    sure[:, -1] = True
    when = sure.argmax(1)
    answers = readout[np.arange(len(readout)), when].argmax(1)
    return EarlyDecision(margin, float((answers == labels).mean()), float(when.mean() + 1))


def curve(calibration: NDArray[np.int32], readout: NDArray[np.int32], labels: NDArray[np.int64]) -> list[EarlyDecision]:
    """Return what each margin of the calibration readout's quantiles does to other examples, steps ascending."""
    last = margins(calibration)[:, -1]
    found = {decide(readout, labels, float(np.quantile(last, share))) for share in SHARES}
    return sorted(found, key=lambda one: one.steps)


def affordable(readout: NDArray[np.int32], labels: NDArray[np.int64]) -> float:
    """Return the smallest margin that keeps these examples' accuracy to AFFORDABLE_LOSS.

    Args:
        readout: voltages of calibration examples, (examples, steps, classes).
        labels: their classes.
    """
    whole = float((readout[:, -1].argmax(1) == labels).mean())
    last = margins(readout)[:, -1]
    candidates = sorted({float(np.quantile(last, share)) for share in SHARES})
    return next(m for m in [*candidates, np.inf] if decide(readout, labels, m).accuracy >= whole - AFFORDABLE_LOSS)
