"""Noise by the server: the strategy gets one reply, the noised mean, and never a client's own update."""

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from edgekit.arrays import Weights
from edgekit.clients.app import read_arrays, to_record
from edgekit.privacy import Plan, mechanism


def noised_mean(
    replies: list[Message],
    weights: Weights,
    plan: Plan,
    expected: float,
    learning_rate: float,
    rng: np.random.Generator,
) -> Weights:
    """Return new weights made of the clients' contributions, with the Gaussian mechanism's guarantee.

    Unit example: contributions are sums of clipped gradients; the new weights are one step of DP-SGD (Abadi et al.
    2016, algorithm 1), `w - learning_rate * (sum + noise) / expected`.
    Unit client: contributions are new weights; their differences to `weights` are clipped here, whatever the client
    did, and the result is `w + (sum + noise) / expected` (McMahan et al. 2018, DP-FedAvg).

    The divisor is the expected batch or cohort, fixed beforehand: dividing by the drawn one would tell its size. With
    no replies the result is pure noise, as the guarantee demands.

    Args:
        replies: valid replies of the cohort.
        weights: global weights of the round.
        plan: noise, clip and unit.
        expected: expected number of examples, or clients, in a step.
        learning_rate: step size (unit example).
        rng: draws the noise.
    """
    contributions = [read_arrays(reply) for reply in replies]
    if plan.unit == "client":
        differences = [{name: array - weights[name] for name, array in arrays.items()} for arrays in contributions]
        contributions = [mechanism.clip(difference, plan.clip) for difference in differences]
    total = mechanism.total(contributions, weights)
    total = mechanism.add_noise(total, plan.noise_multiplier * plan.sensitivity, rng)
    step = (1.0 if plan.unit == "client" else -learning_rate) / expected
    return {name: (array + step * total[name]).astype(array.dtype) for name, array in weights.items()}


def as_only_reply(weights: Weights, node: int) -> Message:
    """Return weights as the one reply that a strategy gets to see; the mean of one is itself."""
    content = RecordDict({"arrays": to_record(weights), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, node, "train")
