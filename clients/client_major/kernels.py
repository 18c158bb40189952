"""Layers of networks, forward and backward, compiled: `steps.train` runs them from a program's rows (`fields`)."""

import numpy as np
from numba import njit

from edgekit.clients.client_major import fields as f
from edgekit.clients.client_major.compiling import ANY_HIGH, ANY_LOW, COMPILED, EXACT, bounds, mask
from edgekit.clients.client_major.norms import learn_standardised, standardise
from edgekit.clients.client_major.tiles import LANES, ROWS, UNIT, add_rows, dots, hand_back, largest, outer, product

_wide_product, _product = product(2), product(1)
_wide_outer, _outer = outer(2), outer(1)
_channels_product, _channels_outer = (make(UNIT // LANES, channelwise=True) for make in (product, outer))
_dots1, _dots5 = dots(1), dots(5)


@njit(**COMPILED)
def multiply(x, places, count, segments, length, apart, w, at_w, width, y, outs, begin, bias, low, high):  # type: ignore[no-untyped-def]
    """Fill y's rows with X W: arguments as of `tiles.product`, for all rows and columns."""
    column = 0
    while column < width:
        start, at = begin + column if begin >= 0 else begin, at_w + column
        two = width - column >= 2 * LANES
        for m in range(0, count, ROWS):
            rows, run = min(ROWS, count - m), (segments, length, apart)
            if two:
                _wide_product(rows, x, places, m, *run, w, at, width, y, outs, column, start, bias, low, high)
            else:
                _product(rows, x, places, m, *run, w, at, width, y, outs, column, start, bias, low, high)
        column += 2 * LANES if two else LANES


@njit(**COMPILED)
def learn(x, places, count, offsets, terms, d, at_d, width, w, at_w, rate):  # type: ignore[no-untyped-def]
    """Add rate * X^T D to W: arguments as of `tiles.outer`, for all terms and columns."""
    for k in range(0, terms, ROWS):
        rows, column = min(ROWS, terms - k), 0
        while column < width:
            at, here = at_w + k * width + column, at_d + column
            two = width - column >= 2 * LANES
            if two:
                _wide_outer(rows, x, places, count, offsets, k, d, here, width, w, at, rate, 0)
            else:
                _outer(rows, x, places, count, offsets, k, d, here, width, w, at, rate, 0)
            column += 2 * LANES if two else LANES


@njit(**COMPILED)
def multiply_channels(x, places, count, segments, length, apart, w, at_w, width, y, outs, begin, bias, low, high):  # type: ignore[no-untyped-def]
    """As `multiply`, each channel by itself."""
    for column in range(0, width, UNIT):
        start, at, run = begin + column if begin >= 0 else begin, at_w + column, (segments, length, apart)
        for m in range(0, count, ROWS):
            rows = min(ROWS, count - m)
            _channels_product(rows, x, places, m, *run, w, at, width, y, outs, column, start, bias, low, high)


@njit(**COMPILED)
def learn_channels(x, places, count, offsets, terms, d, at_d, width, w, at_w, rate):  # type: ignore[no-untyped-def]
    """As `learn`, each channel by itself."""
    for column in range(0, width, UNIT):
        for k in range(0, terms, ROWS):
            rows, at = min(ROWS, terms - k), at_w + k * width + column
            _channels_outer(rows, x, places, count, offsets, k, d, at_d + column, width, w, at, rate, column)


@njit(**COMPILED)
def _applied(op, a, w):  # type: ignore[no-untyped-def]
    """Return where a layer's weights lie as it applies them, and their place there."""
    return (a, op[f.STANDARD]) if op[f.STANDARD] >= 0 else (w, op[f.WEIGHT])


@njit(**COMPILED)
def forward_convolution(op, tables, numbers, a, w, batch):  # type: ignore[no-untyped-def]
    """Convolve, add the bias, and bound by the activation."""
    count = batch * op[f.OH] * op[f.OW]
    places, outs = tables[op[f.PLACES] :], tables[op[f.OUTS] :]
    low, high = bounds(op[f.ACT])
    if op[f.STANDARD] >= 0:
        standardise(op, numbers, a, w)
    run, (held, at) = (count, op[f.SEGMENTS], op[f.LENGTH], op[f.APART]), _applied(op, a, w)
    if op[f.KIND] == f.DEPTHWISE:
        multiply_channels(a, places, *run, held, at, op[f.N], a, outs, op[f.BIAS], w, low, high)
    else:
        multiply(a, places, *run, held, at, op[f.N], a, outs, op[f.BIAS], w, low, high)


@njit(**COMPILED)
def _spread(op, a, batch):  # type: ignore[no-untyped-def]
    """Write a gradient with zeros around and, where the layer strides, between."""
    n, g = op[f.N], op[f.GY]
    for b in range(batch):
        for i in range(op[f.OH]):
            start = op[f.D] + b * op[f.D_BATCH] + (op[f.EH] + i * op[f.SH]) * op[f.D_LINE] + op[f.EW] * n
            if op[f.SW] == 1:
                size = op[f.OW] * n
                a[start : start + size] = a[g : g + size]
                g += size
                continue
            for _ in range(op[f.OW]):
                a[start : start + n] = a[g : g + n]
                start += op[f.SW] * n
                g += n


@njit(**COMPILED)
def _flip(op, a, w):  # type: ignore[no-untyped-def]
    """Write a convolution's weights as its transposed one takes them."""
    n, c, t = op[f.N], op[f.C], op[f.FLIPPED]
    held, at = _applied(op, a, w)
    last = op[f.KH] * op[f.KW] - 1
    for k in range(last + 1):
        if op[f.KIND] == f.DEPTHWISE:
            start = at + (last - k) * n
            a[t : t + n] = held[start : start + n]
            t += n
            continue
        start = at + (last - k) * c * n
        for q in range(n):
            for j in range(c):
                a[t + j] = held[start + j * n + q]
            t += c


@njit(**COMPILED)
def backward_convolution(op, tables, a, w, target, rate, batch, later):  # type: ignore[no-untyped-def]
    """Give the input's gradient, then add rate times that of the weights to `target`, unless that comes later."""
    n = op[f.N]
    if op[f.ACT] > 0 and op[f.MASKED] == 0:
        mask(op, a, batch)
    if op[f.BACK] == f.BY_DOTS:
        again, whole, size = op[f.GX_AGAIN] > 0, batch - batch % 5, op[f.TERMS]
        held, at = _applied(op, a, w)
        for b in range(0, whole, 5):
            for k in range(size):
                _dots5(a, op[f.GY] + b * n, held, at + k * n, n, a, op[f.GX] + b * size + k, size, again)
        for b in range(whole, batch):
            for k in range(size):
                _dots1(a, op[f.GY] + b * n, held, at + k * n, n, a, op[f.GX] + b * size + k, size, again)
    elif op[f.BACK] == f.BY_PRODUCT:
        if op[f.D] != op[f.GY]:
            _spread(op, a, batch)
        _flip(op, a, w)
        begin = -2 if op[f.GX_AGAIN] > 0 else -1
        places, outs = tables[op[f.D_PLACES] :], tables[op[f.GX_PLACES] :]
        run = (batch * op[f.H] * op[f.W], op[f.KH], op[f.D_LENGTH], op[f.D_APART])
        if op[f.KIND] == f.DEPTHWISE:
            multiply_channels(a, places, *run, a, op[f.FLIPPED], n, a, outs, begin, a, ANY_LOW, ANY_HIGH)
        else:
            multiply(a, places, *run, a, op[f.FLIPPED], op[f.C], a, outs, begin, a, ANY_LOW, ANY_HIGH)
    if later:
        return
    count = batch * op[f.OH] * op[f.OW]
    places, offsets = tables[op[f.PLACES] :], tables[op[f.OFFSETS] :]
    held, at, share = target, op[f.WEIGHT], rate
    if op[f.STANDARD] >= 0:
        held, at, share = a, op[f.LEARNT], np.float32(1)
        a[at : at + op[f.TERMS] * n] = np.float32(0)
    if op[f.KIND] == f.DEPTHWISE:
        learn_channels(a, places, count, offsets, op[f.TERMS], a, op[f.GY], n, held, at, share)
    else:
        learn(a, places, count, offsets, op[f.TERMS], a, op[f.GY], n, held, at, share)
    if op[f.STANDARD] >= 0:
        learn_standardised(op, a, w, target, rate)
    if op[f.BIAS] >= 0:
        add_rows(a, op[f.GY], count, n, target, op[f.BIAS], rate)


@njit(**COMPILED)
def _cut(place, size, kernel):  # type: ignore[no-untyped-def]
    """Return the first and the number of a window's pixels that are there."""
    first = max(0, place)
    return first, min(size, place + kernel) - first


@njit(**COMPILED)
def forward_maximum(op, a, batch):  # type: ignore[no-untyped-def]
    """Take the largest of each window."""
    n = op[f.N]
    for b in range(batch):
        for i in range(op[f.OH]):
            top, lines = _cut(i * op[f.SH] - op[f.PH], op[f.H], op[f.KH])
            for j in range(op[f.OW]):
                left, pixels = _cut(j * op[f.SW] - op[f.PW], op[f.W], op[f.KW])
                here = op[f.X] + b * op[f.X_BATCH] + top * op[f.X_LINE] + left * n
                largest(a, here, lines, pixels, op[f.X_LINE], n, op[f.Y] + b * op[f.Y_BATCH] + i * op[f.Y_LINE] + j * n)


@njit(**COMPILED)
def backward_maximum(op, a, batch):  # type: ignore[no-untyped-def]
    """Hand each gradient to the first of its window's largest, where the activation before lets it pass."""
    n, (low, high) = op[f.N], bounds(op[f.ACT_BEFORE])
    apart = op[f.KH] <= op[f.SH] and op[f.KW] <= op[f.SW]
    whole = op[f.OH] * op[f.KH] == op[f.H] and op[f.OW] * op[f.KW] == op[f.W]
    fresh = op[f.GX_AGAIN] == 0 and apart
    if op[f.GX_AGAIN] == 0 and not (apart and whole):
        a[op[f.GX] : op[f.GX] + batch * op[f.H] * op[f.W] * n] = np.float32(0)
    g = op[f.GY]
    for b in range(batch):
        for i in range(op[f.OH]):
            top, lines = _cut(i * op[f.SH] - op[f.PH], op[f.H], op[f.KH])
            for j in range(op[f.OW]):
                left, pixels = _cut(j * op[f.SW] - op[f.PW], op[f.W], op[f.KW])
                here = op[f.X] + b * op[f.X_BATCH] + top * op[f.X_LINE] + left * n
                there = op[f.GX] + ((b * op[f.H] + top) * op[f.W] + left) * n
                result = op[f.Y] + b * op[f.Y_BATCH] + i * op[f.Y_LINE] + j * n
                hand_back(a, here, lines, pixels, op[f.X_LINE], n, result, g, there, op[f.W] * n, low, high, fresh)
                g += n


@njit(fastmath=EXACT, **COMPILED)
def forward_average(op, a, batch):  # type: ignore[no-untyped-def]
    """Take the mean of each window."""
    n, share = op[f.N], np.float32(1) / np.float32(op[f.KH] * op[f.KW])
    for b in range(batch):
        for i in range(op[f.OH]):
            for j in range(op[f.OW]):
                start = op[f.Y] + b * op[f.Y_BATCH] + i * op[f.Y_LINE] + j * n
                y = a[start : start + n]
                y[:] = np.float32(0)
                for k in range(op[f.KH]):
                    for m in range(op[f.KW]):
                        here = op[f.X] + b * op[f.X_BATCH] + (i * op[f.SH] + k) * op[f.X_LINE] + (j * op[f.SW] + m) * n
                        x = a[here : here + n]
                        for c in range(n):
                            y[c] += x[c]
                for c in range(n):
                    y[c] *= share


@njit(fastmath=EXACT, **COMPILED)
def backward_average(op, a, batch):  # type: ignore[no-untyped-def]
    """Hand each gradient to all of its window."""
    n, share = op[f.N], np.float32(1) / np.float32(op[f.KH] * op[f.KW])
    if op[f.GX_AGAIN] == 0:
        a[op[f.GX] : op[f.GX] + batch * op[f.H] * op[f.W] * n] = np.float32(0)
    g = op[f.GY]
    for b in range(batch):
        for i in range(op[f.OH]):
            for j in range(op[f.OW]):
                d = a[g : g + n]
                g += n
                for k in range(op[f.KH]):
                    for m in range(op[f.KW]):
                        there = op[f.GX] + ((b * op[f.H] + i * op[f.SH] + k) * op[f.W] + j * op[f.SW] + m) * n
                        e = a[there : there + n]
                        for c in range(n):
                            e[c] += share * d[c]


@njit(fastmath=EXACT, **COMPILED)
def forward_sum(op, a, batch):  # type: ignore[no-untyped-def]
    """Add two results, and bound by the activation."""
    low, high = bounds(op[f.ACT])
    size = op[f.OW] * op[f.N]
    for b in range(batch):
        for i in range(op[f.OH]):
            first = op[f.X] + b * op[f.X_BATCH] + i * op[f.X_LINE]
            second = op[f.X2] + b * op[f.X2_BATCH] + i * op[f.X2_LINE]
            result = op[f.Y] + b * op[f.Y_BATCH] + i * op[f.Y_LINE]
            p, q, y = a[first : first + size], a[second : second + size], a[result : result + size]
            for k in range(size):
                value = p[k] + q[k]
                value = low if value < low else value
                y[k] = high if value > high else value


@njit(fastmath=EXACT, **COMPILED)
def backward_sum(op, a, batch):  # type: ignore[no-untyped-def]
    """Hand the gradient to both."""
    if op[f.ACT] > 0 and op[f.MASKED] == 0:
        mask(op, a, batch)
    size = batch * op[f.OH] * op[f.OW] * op[f.N]
    d = a[op[f.GY] : op[f.GY] + size]
    for at, again in ((op[f.GX], op[f.GX_AGAIN]), (op[f.GX2], op[f.GX2_AGAIN])):
        if at < 0:
            continue
        e = a[at : at + size]
        if again > 0:
            for k in range(size):
                e[k] += d[k]
        else:
            for k in range(size):
                e[k] = d[k]
