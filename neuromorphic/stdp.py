"""Learning on the chip by spike timing (STDP), as an example: APPROXIMATE, unlike everything else in this package.

Loihi's learning engine keeps 7-bit traces and 8-bit weights and rounds both stochastically; Lava calls its own models
of it "bit-approximate" too. Here traces are floats and weights are rounded once a sample. Rule: pair-based STDP with
exponential traces (Song, Miller & Abbott 2000; Lava's `STDPLoihi`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stdp:
    """A rule of pairs of spikes.

    Attributes:
        rate: learning rate.
        plus: what a spike of the source shortly before one of the target adds.
        minus: what one shortly after it adds; negative for depression.
        tau_plus, tau_minus: time constants of the traces, in steps.
        impulse: what a spike adds to its trace.
    """

    rate: float = 0.02
    plus: float = 1.0
    minus: float = -0.5
    tau_plus: float = 8.0
    tau_minus: float = 8.0
    impulse: float = 16.0


def weight_changes(rule: Stdp, before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Floats:
    """Return how each weight changes over some steps.

    Args:
        rule: the rule.
        before: spikes of the sources, (steps, sources).
        after: spikes of the targets, (steps, targets).

    Returns:
        (targets, sources).
    """
    source_trace, target_trace = np.zeros(before.shape[1]), np.zeros(after.shape[1])
    change = np.zeros((after.shape[1], before.shape[1]))
    for source, target in zip(before, after, strict=True):
        source_trace *= np.exp(-1 / rule.tau_plus)
        target_trace *= np.exp(-1 / rule.tau_minus)
        # A spike meets the other side's trace as it was before this step's spikes.
        change += rule.plus * target[:, None] * source_trace + rule.minus * target_trace[:, None] * source
        source_trace += rule.impulse * source
        target_trace += rule.impulse * target
    return rule.rate * change


def rounded(weights: Floats, rng: np.random.Generator) -> Floats:
    """Round weights to Loihi's even integers, 0 to 254, stochastically: small changes then count on average."""
    return np.asarray(np.clip(2 * np.floor(weights / 2 + rng.random(weights.shape)), 0, 254))
