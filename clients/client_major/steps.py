"""All local steps of some clients, one client after the other, compiled."""

import math
from functools import partial

import numpy as np
from numba import njit

from edgekit.clients.client_major import fields, kernels, tiles
from edgekit.clients.client_major.kernels import (
    COMPILED,
    backward_average,
    backward_convolution,
    backward_maximum,
    backward_sum,
    forward_average,
    forward_convolution,
    forward_maximum,
    forward_sum,
)
from edgekit.compiled import kept


@njit(**COMPILED)
def _given(a, at, batch_floats, line, pixels, lines, order, first, batch, x):  # type: ignore[no-untyped-def]
    """Copy a batch's examples to where the first layer reads them."""
    for b in range(batch):
        example = x[order[first + b]]
        for i in range(lines):
            start = at + b * batch_floats + i * line
            a[start : start + pixels] = example[i * pixels : (i + 1) * pixels]


@njit(**COMPILED)
def _cross_entropy(op, a, labels, order, first, batch, classes):  # type: ignore[no-untyped-def]
    """Return the sum of a batch's losses; their mean's gradient goes to the scores' place."""
    total, n = 0.0, op[fields.N]
    for b in range(batch):
        scores = a[op[fields.Y] + b * n : op[fields.Y] + b * n + classes]
        gradient = a[op[fields.GY] + b * n : op[fields.GY] + (b + 1) * n]
        gradient[:] = np.float32(0)
        label, most = labels[order[first + b]], scores[0]
        for k in range(classes):
            most = max(most, scores[k])
        chances = 0.0
        for k in range(classes):
            chance = math.exp(scores[k] - most)
            gradient[k] = chance
            chances += chance
        total += math.log(chances) - (scores[label] - most)
        for k in range(classes):
            gradient[k] = (gradient[k] / chances - (1.0 if k == label else 0.0)) / batch
    return total


@njit(fastmath={"nsz", "contract", "reassoc"}, **COMPILED)
def _step(w, g, momentum, anchor, drift, rate, mu, keep, decay, clip, nesterov, drifts):  # type: ignore[no-untyped-def]
    """Make a step of SGD as torch's: pull and drift, the bound on the whole gradient, decay, momentum."""
    size = len(w)
    if mu > 0:
        for k in range(size):
            g[k] += mu * (w[k] - anchor[k])
    if drifts:
        for k in range(size):
            g[k] += drift[k]
    if clip > 0:
        square = np.float32(0)
        for k in range(size):
            square += g[k] * g[k]
        share = np.float32(clip) / (np.float32(math.sqrt(square)) + np.float32(1e-6))
        if share < 1 or share != share:
            for k in range(size):
                g[k] *= share
    if decay > 0:
        for k in range(size):
            g[k] += decay * w[k]
    if keep > 0:
        for k in range(size):
            momentum[k] = keep * momentum[k] + g[k]
        if nesterov:
            for k in range(size):
                w[k] -= rate * (g[k] + keep * momentum[k])
        else:
            for k in range(size):
                w[k] -= rate * momentum[k]
    else:
        for k in range(size):
            w[k] -= rate * g[k]


@partial(kept, sources=(fields, kernels, tiles))
@njit(**COMPILED)
def train(  # type: ignore[no-untyped-def]
    ops, tables, a, given, classes, x, labels, order, batches, clients, weights, anchors, drifts, losses, g,
    momentum, rate, mu, keep, decay, clip, nesterov, drifting, plain,
):  # fmt: skip
    """Train clients in place.

    Args:
        ops: int64 (layers, fields): the program.
        tables: int64: of rows' places.
        a: float32: room for activations and gradients, zeros at first.
        given: int64 (5): where an example goes: place, floats to the next, to the next line, of a line, lines.
        classes: how many scores count.
        x: float32 (examples, floats of one), of all clients.
        labels: int64 (examples).
        order: int64: examples of all batches, one after the other.
        batches: int64 (all steps + 1): where each batch begins in `order`.
        clients: int64 (clients + 1): where each client's batches begin.
        weights: float32 (clients, size): to start from, and what comes of them.
        anchors: float32 (clients or 1, size): what mu pulls to.
        drifts: float32 (clients or 1, size): added to each gradient.
        losses: float64 (clients): mean over the steps, filled.
        g: float32 (size): room for a gradient.
        momentum: float32 (size): room.
        rate: step size.
        mu: of the pull.
        keep: of the momentum.
        decay: of the weights.
        clip: of a step's whole gradient.
        nesterov: the form of the momentum.
        drifting: whether there are drifts.
        plain: whether a step is the rate times the gradient, nothing else, so that it needs no room.
    """
    last = ops[len(ops) - 1]
    for client in range(len(clients) - 1):
        w, total = weights[client], 0.0
        anchor = anchors[client if len(anchors) > 1 else 0]
        drift = drifts[client if len(drifts) > 1 else 0]
        momentum[:] = np.float32(0)
        for step in range(clients[client], clients[client + 1]):
            first, batch = batches[step], batches[step + 1] - batches[step]
            _given(a, given[0], given[1], given[2], given[3], given[4], order, first, batch, x)
            for op in ops:
                kind = op[fields.KIND]
                if kind == fields.MAXIMUM:
                    forward_maximum(op, a, batch)
                elif kind == fields.AVERAGE:
                    forward_average(op, a, batch)
                elif kind == fields.SUM:
                    forward_sum(op, a, batch)
                else:
                    forward_convolution(op, tables, a, w, batch)
            total += _cross_entropy(last, a, labels, order, first, batch, classes) / batch
            if plain:
                target, amount = w, -rate
            else:
                g[:] = np.float32(0)
                target, amount = g, np.float32(1)
            for place in range(len(ops) - 1, -1, -1):
                op = ops[place]
                kind = op[fields.KIND]
                if kind == fields.MAXIMUM:
                    if op[fields.GX] >= 0:
                        backward_maximum(op, a, batch)
                elif kind == fields.AVERAGE:
                    if op[fields.GX] >= 0:
                        backward_average(op, a, batch)
                elif kind == fields.SUM:
                    backward_sum(op, a, batch)
                else:
                    backward_convolution(op, tables, a, w, target, amount, batch)
            if not plain:
                _step(w, g, momentum, anchor, drift, rate, mu, keep, decay, clip, nesterov, drifting)
        steps = clients[client + 1] - clients[client]
        losses[client] = total / steps if steps else 0.0
