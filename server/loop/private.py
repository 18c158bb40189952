"""Noise by the server: a method gets the noised means, and never a client's own update."""

from collections.abc import Sequence

import numpy as np

from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Bundles, Update
from edgekit.privacy import Plan, mechanism


def released(
    updates: Sequence[Update],
    like: Bundles,
    weights: Weights,
    plan: Plan,
    expected: float,
    learning_rate: float,
    rng: np.random.Generator,
) -> Bundles:
    """Return the means that the Gaussian mechanism releases.

    Unit example: updates are sums of clipped gradients; the new weights are one step of DP-SGD (Abadi et al. 2016,
    algorithm 1), `w - learning_rate * (sum + noise) / expected`.
    Unit client: what updates change is clipped here, whatever the client did, and the result is
    `w + (sum + noise) / expected` (McMahan et al. 2018, DP-FedAvg). Of several bundles each is clipped by its own
    bound; in units of the bounds an update's joint norm is then at most the root of their number, and so much larger is
    the noise (their theorem 1, with one estimator over all).

    The divisor is the expected batch or cohort, fixed beforehand: dividing by the drawn one would tell its size. With
    no updates the result is pure noise, as the guarantee demands.

    Args:
        updates: valid ones of the cohort.
        like: arrays of the shapes that each update has.
        weights: global weights of the round.
        plan: noise, bounds and unit.
        expected: expected number of examples, or clients, in a step.
        learning_rate: step size (unit example).
        rng: draws the noise.
    """
    found: dict[str, Weights] = {}
    for bundle, shapes in like.items():
        start = {name: weights[name] for name in shapes} if bundle == WEIGHTS else None
        contributions = [update.bundles[bundle] for update in updates]
        deviation, step = plan.noise_multiplier * plan.sensitivity, -learning_rate / expected
        if plan.unit == "client":
            bound, step = plan.bounds[bundle], 1.0 / expected
            deviation = plan.noise_multiplier * bound * len(plan.bounds) ** 0.5
            if start is not None:
                contributions = [{name: array - start[name] for name, array in one.items()} for one in contributions]
            contributions = [mechanism.clip(one, bound) for one in contributions]
        total = mechanism.add_noise(mechanism.total(contributions, shapes), deviation, rng)
        found[bundle] = {
            name: np.asarray((0 if start is None else start[name]) + step * total[name], array.dtype)
            for name, array in shapes.items()
        }
    return found
