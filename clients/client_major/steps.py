"""All local steps of some clients, one client after the other, compiled."""

import math
from functools import partial

import numpy as np
from numba import njit

from edgekit.clients.client_major import compiling, fields, kernels, norms, tiles
from edgekit.clients.client_major.compiling import COMPILED, EXACT, SUMMED
from edgekit.clients.client_major.kernels import (
    backward_average,
    backward_convolution,
    backward_maximum,
    backward_sum,
    forward_average,
    forward_convolution,
    forward_maximum,
    forward_sum,
)
from edgekit.clients.client_major.norms import backward_norm, forward_norm
from edgekit.compiled import kept

LEAST_SHARE = np.float32(1e-35)
"""Smaller ones are rounded so coarsely that the bound would not hold: such an example counts as zero."""


@njit(**COMPILED)
def _given(a, at, batch_floats, line, pixels, lines, order, first, batch, x):  # type: ignore[no-untyped-def]
    """Copy a batch's examples to where the first layer reads them."""
    for b in range(batch):
        example = x[order[first + b]]
        for i in range(lines):
            start = at + b * batch_floats + i * line
            a[start : start + pixels] = example[i * pixels : (i + 1) * pixels]


@njit(**COMPILED)
def _cross_entropy(op, a, labels, order, first, batch, classes, own):  # type: ignore[no-untyped-def]
    """Return the sum of a batch's losses; their mean's gradient goes to the scores' place."""
    total, n = 0.0, op[fields.N]
    for b in range(batch):
        scores = a[op[fields.Y] + b * n : op[fields.Y] + b * n + classes]
        gradient = a[op[fields.GY] + b * n : op[fields.GY] + (b + 1) * n]
        gradient[:] = np.float32(0)
        label, most = labels[order[first + b]], scores[0] * own[0]
        for k in range(classes):
            scores[k] *= own[k]
            most = max(most, scores[k])
        chances = 0.0
        for k in range(classes):
            chance = math.exp(scores[k] - most)
            gradient[k] = chance
            chances += chance
        total += math.log(chances) - (scores[label] - most)
        for k in range(classes):
            gradient[k] = own[k] * (gradient[k] / chances - (1.0 if k == label else 0.0)) / batch
    return total


@njit(fastmath=SUMMED, **COMPILED)
def _square(values):  # type: ignore[no-untyped-def]
    """Return the sum of squares, in double precision."""
    total = 0.0
    for k in range(len(values)):
        total += np.float64(values[k]) * np.float64(values[k])
    return total


@njit(fastmath=EXACT, **COMPILED)
def _add_clipped(ops, tables, a, g, pieces, bound, total):  # type: ignore[no-untyped-def]
    """Add one example's gradient, shortened to a bound, to `total`; one that is not finite counts as zero.

    Gradients of a layer with one place an example are the product of what goes in and what comes back: so is their
    norm (Goodfellow 2015), and nothing is written out. All others lie in `g`, in pieces.
    """
    square = 0.0
    for piece in pieces:
        square += _square(g[piece[0] : piece[1]])
    for op in ops:
        if op[fields.OUTER] > 0:
            given = 1.0 if op[fields.BIAS] >= 0 else 0.0
            for i in range(op[fields.KH]):
                start = tables[op[fields.PLACES]] + i * op[fields.APART]
                given += _square(a[start : start + op[fields.LENGTH]])
            square += given * _square(a[op[fields.GY] : op[fields.GY] + op[fields.N]])
    if not math.isfinite(square):
        return
    share = np.float32(min(1.0, bound / (math.sqrt(square) + 1e-6)))
    if share < LEAST_SHARE:
        return
    for piece in pieces:
        for k in range(piece[0], piece[1]):
            total[k] += share * g[k]
    for op in ops:
        if op[fields.OUTER] > 0:
            n, offsets = op[fields.N], tables[op[fields.OFFSETS] :]
            d = a[op[fields.GY] : op[fields.GY] + n]
            first = tables[op[fields.PLACES]]
            for k in range(op[fields.TERMS]):
                amount = share * a[first + offsets[k]]
                row = total[op[fields.WEIGHT] + k * n : op[fields.WEIGHT] + (k + 1) * n]
                for q in range(n):
                    row[q] += amount * d[q]
            if op[fields.BIAS] >= 0:
                row = total[op[fields.BIAS] : op[fields.BIAS] + n]
                for q in range(n):
                    row[q] += share * d[q]


@njit(fastmath=SUMMED, **COMPILED)
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


@partial(kept, sources=(fields, compiling, kernels, norms, tiles))
@njit(**COMPILED)
def train(  # type: ignore[no-untyped-def]
    ops, tables, numbers, pieces, a, given, classes, x, labels, order, batches, clients, weights, anchors, drifts,
    losses, g, momentum, rate, mu, keep, decay, clip, nesterov, drifting, plain, bound, sums, owns,
):  # fmt: skip
    """Train clients in place, or only sum the gradients of their examples, each clipped.

    Args:
        ops: int64 (layers, fields): the program.
        tables: int64: of rows' places.
        numbers: float32: that layers refer to.
        pieces: int64 (pieces, 2): of the weights, whose gradients by example are written out.
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
        bound: largest norm of an example's gradient; 0 trains.
        sums: float32 (clients, size), zeros: what the clipped gradients are added to, where there is a bound.
        owns: float32 (clients, classes): what scores are multiplied by: 0 for classes that a client has not.
    """
    last = ops[len(ops) - 1]
    for client in range(len(clients) - 1):
        w, total = weights[client], 0.0
        anchor = anchors[client if len(anchors) > 1 else 0]
        drift = drifts[client if len(drifts) > 1 else 0]
        momentum[:] = np.float32(0)
        for step in range(clients[client], clients[client + 1]):
            first, batch = batches[step], batches[step + 1] - batches[step]
            if bound > 0 or not plain:
                target, amount = g, np.float32(1)
            else:
                target, amount = w, -rate
            together = batch if bound == 0 else 1
            for start in range(first, first + batch, together):
                _given(a, given[0], given[1], given[2], given[3], given[4], order, start, together, x)
                for op in ops:
                    kind = op[fields.KIND]
                    if kind == fields.MAXIMUM:
                        forward_maximum(op, a, together)
                    elif kind == fields.AVERAGE:
                        forward_average(op, a, together)
                    elif kind == fields.SUM:
                        forward_sum(op, a, together)
                    elif kind == fields.NORM:
                        forward_norm(op, numbers, a, w, together)
                    else:
                        forward_convolution(op, tables, numbers, a, w, together)
                total += _cross_entropy(last, a, labels, order, start, together, classes, owns[client]) / batch
                if bound > 0:
                    for piece in pieces:
                        g[piece[0] : piece[1]] = np.float32(0)
                elif not plain:
                    g[:] = np.float32(0)
                for place in range(len(ops) - 1, -1, -1):
                    op = ops[place]
                    kind = op[fields.KIND]
                    if kind == fields.MAXIMUM:
                        if op[fields.GX] >= 0:
                            backward_maximum(op, a, together)
                    elif kind == fields.AVERAGE:
                        if op[fields.GX] >= 0:
                            backward_average(op, a, together)
                    elif kind == fields.SUM:
                        backward_sum(op, a, together)
                    elif kind == fields.NORM:
                        backward_norm(op, a, w, target, amount, together)
                    else:
                        later = bound > 0 and op[fields.OUTER] > 0
                        backward_convolution(op, tables, a, w, target, amount, together, later)
                if bound > 0:
                    _add_clipped(ops, tables, a, g, pieces, bound, sums[client])
            if bound == 0 and not plain:
                _step(w, g, momentum, anchor, drift, rate, mu, keep, decay, clip, nesterov, drifting)
        steps = clients[client + 1] - clients[client]
        losses[client] = total / steps if steps else 0.0
