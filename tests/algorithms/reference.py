"""Local training of a linear classifier, in plain numpy."""

import numpy as np

from edgekit.data import batches
from edgekit.randomness import generator

QUICK = ["federation.rounds=3", "training.epochs=2", "training.batch_size=16", "training.learning_rate=0.2"]


def descend(made, number, client, w, *, mu=0.0, anchor=None, drift=None, more=(), training=None):
    """Local SGD on softmax regression: (weights after, steps)."""
    training = training or made.local_settings
    examples = made.dataset.client(client)
    w, velocity, steps = {k: v.astype(np.float64) for k, v in w.items()}, {}, 0
    anchor = {k: v.copy() for k, v in w.items()} if anchor is None else anchor
    for batch in batches.draw(len(examples), training, generator(0, "batches", number, client, *more)):
        x, y = examples.x[batch].reshape(len(batch), -1).astype(np.float64), examples.y[batch]
        scores = x @ w["1.weight"].T + w["1.bias"]
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[range(len(y)), y] -= 1
        gradient = {"1.weight": p.T @ x / len(y), "1.bias": p.mean(0)}
        for name, g in gradient.items():
            g = g + mu * (w[name] - anchor[name]) + (0 if drift is None else drift[name])
            velocity[name] = training.momentum * velocity.get(name, 0) + g
            w[name] = w[name] - training.learning_rate * velocity[name]
        steps += 1
    return w, steps


def mean(each, weights):
    total = sum(weights)
    return {k: sum(w * one[k] for w, one in zip(weights, each, strict=True)) / total for k in each[0]}


def same(found, wanted):
    assert all(np.allclose(found[name], wanted[name], atol=1e-6) for name in wanted)


def accuracy(examples, w):
    scores = examples.x.reshape(len(examples), -1) @ w["1.weight"].T + w["1.bias"]
    return float((scores.argmax(1) == examples.y).mean())
