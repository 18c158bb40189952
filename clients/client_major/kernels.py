"""Layers of networks, forward and backward, compiled: `steps.train` runs them from a program's rows (`fields`)."""

import numpy as np
from numba import njit

from edgekit.clients.client_major.fields import (
    ACT,
    ACT_BEFORE,
    APART,
    BACK,
    BIAS,
    BY_DOTS,
    BY_PRODUCT,
    D_APART,
    D_BATCH,
    D_LENGTH,
    D_LINE,
    D_PLACES,
    DEPTHWISE,
    EH,
    EW,
    FLIPPED,
    GX,
    GX2,
    GX2_AGAIN,
    GX_AGAIN,
    GX_PLACES,
    GY,
    KH,
    KIND,
    KW,
    LENGTH,
    MASKED,
    OFFSETS,
    OH,
    OUTS,
    OW,
    PH,
    PLACES,
    PW,
    SEGMENTS,
    SH,
    SW,
    TERMS,
    WEIGHT,
    X2,
    X2_BATCH,
    X2_LINE,
    X_BATCH,
    X_LINE,
    Y_BATCH,
    Y_LINE,
    C,
    D,
    H,
    N,
    W,
    X,
    Y,
)  # fmt: skip
from edgekit.clients.client_major.tiles import LANES, ROWS, UNIT, add_rows, dots, hand_back, largest, outer, product

COMPILED = {"nogil": True, "error_model": "numpy"}
"""For numba: threads run at once."""
EXACT = {"nsz", "contract"}
"""What sums over channels may assume of numbers: what is none stays none."""

_product1, _product2, _product3, _product4, _product5, _product6 = (product(rows, 2) for rows in range(1, ROWS + 1))
_narrow1, _narrow2, _narrow3, _narrow4, _narrow5, _narrow6 = (product(rows, 1) for rows in range(1, ROWS + 1))
_outer1, _outer2, _outer3, _outer4, _outer5, _outer6 = (outer(rows, 2) for rows in range(1, ROWS + 1))
_thin1, _thin2, _thin3, _thin4, _thin5, _thin6 = (outer(rows, 1) for rows in range(1, ROWS + 1))
_channel1, _channel4 = (product(rows, UNIT // LANES, channelwise=True) for rows in (1, 4))
_each1, _each3 = (outer(rows, UNIT // LANES, channelwise=True) for rows in (1, 3))
_dots1, _dots5 = dots(1), dots(5)

_ANY_LOW, _ANY_HIGH = np.float32(-np.inf), np.float32(np.inf)


@njit(**COMPILED)
def _bounds(act):  # type: ignore[no-untyped-def]
    """Return the lowest and highest number that an activation lets through."""
    low = np.float32(0) if act > 0 else _ANY_LOW
    return low, (np.float32(6) if act == 2 else _ANY_HIGH)


@njit(**COMPILED)
def multiply(x, places, count, segments, length, apart, w, at_w, width, y, outs, begin, bias, low, high):  # type: ignore[no-untyped-def]
    """Fill y's rows with X W: arguments as of `tiles.product`, for all rows and columns."""
    column = 0
    while column < width:
        start = begin + column if begin >= 0 else begin
        two = width - column >= 2 * LANES
        for m in range(0, count, ROWS):
            rows, at = min(ROWS, count - m), at_w + column
            if two:
                if rows == 6:
                    _product6(
                        x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high
                    )
                elif rows == 5:
                    _product5(
                        x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high
                    )
                elif rows == 4:
                    _product4(
                        x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high
                    )
                elif rows == 3:
                    _product3(
                        x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high
                    )
                elif rows == 2:
                    _product2(
                        x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high
                    )
                else:
                    _product1(
                        x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high
                    )
            elif rows == 6:
                _narrow6(x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high)
            elif rows == 5:
                _narrow5(x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high)
            elif rows == 4:
                _narrow4(x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high)
            elif rows == 3:
                _narrow3(x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high)
            elif rows == 2:
                _narrow2(x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high)
            else:
                _narrow1(x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high)
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
                if rows == 6:
                    _outer6(x, places, count, offsets, k, d, here, width, w, at, rate, 0)
                elif rows == 5:
                    _outer5(x, places, count, offsets, k, d, here, width, w, at, rate, 0)
                elif rows == 4:
                    _outer4(x, places, count, offsets, k, d, here, width, w, at, rate, 0)
                elif rows == 3:
                    _outer3(x, places, count, offsets, k, d, here, width, w, at, rate, 0)
                elif rows == 2:
                    _outer2(x, places, count, offsets, k, d, here, width, w, at, rate, 0)
                else:
                    _outer1(x, places, count, offsets, k, d, here, width, w, at, rate, 0)
            elif rows == 6:
                _thin6(x, places, count, offsets, k, d, here, width, w, at, rate, 0)
            elif rows == 5:
                _thin5(x, places, count, offsets, k, d, here, width, w, at, rate, 0)
            elif rows == 4:
                _thin4(x, places, count, offsets, k, d, here, width, w, at, rate, 0)
            elif rows == 3:
                _thin3(x, places, count, offsets, k, d, here, width, w, at, rate, 0)
            elif rows == 2:
                _thin2(x, places, count, offsets, k, d, here, width, w, at, rate, 0)
            else:
                _thin1(x, places, count, offsets, k, d, here, width, w, at, rate, 0)
            column += 2 * LANES if two else LANES


@njit(**COMPILED)
def multiply_channels(x, places, count, segments, length, apart, w, at_w, width, y, outs, begin, bias, low, high):  # type: ignore[no-untyped-def]
    """As `multiply`, each channel by itself."""
    for column in range(0, width, UNIT):
        start, at = begin + column if begin >= 0 else begin, at_w + column
        whole = count - count % 4
        for m in range(0, whole, 4):
            _channel4(x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high)
        for m in range(whole, count):
            _channel1(x, places, m, segments, length, apart, w, at, width, y, outs, column, start, bias, low, high)


@njit(**COMPILED)
def learn_channels(x, places, count, offsets, terms, d, at_d, width, w, at_w, rate):  # type: ignore[no-untyped-def]
    """As `learn`, each channel by itself."""
    for column in range(0, width, UNIT):
        whole, here = terms - terms % 3, at_d + column
        for k in range(0, whole, 3):
            _each3(x, places, count, offsets, k, d, here, width, w, at_w + k * width + column, rate, column)
        for k in range(whole, terms):
            _each1(x, places, count, offsets, k, d, here, width, w, at_w + k * width + column, rate, column)


@njit(**COMPILED)
def forward_convolution(op, tables, a, w, batch):  # type: ignore[no-untyped-def]
    """Convolve, add the bias, and bound by the activation."""
    count = batch * op[OH] * op[OW]
    places, outs = tables[op[PLACES] :], tables[op[OUTS] :]
    low, high = _bounds(op[ACT])
    run = (count, op[SEGMENTS], op[LENGTH], op[APART])
    if op[KIND] == DEPTHWISE:
        multiply_channels(a, places, *run, w, op[WEIGHT], op[N], a, outs, op[BIAS], w, low, high)
    else:
        multiply(a, places, *run, w, op[WEIGHT], op[N], a, outs, op[BIAS], w, low, high)


@njit(fastmath=EXACT, **COMPILED)
def mask(op, a, batch):  # type: ignore[no-untyped-def]
    """Let a gradient pass where the layer's result is inside its activation's bounds."""
    n, zero, six = op[N], np.float32(0), np.float32(6) if op[ACT] == 2 else _ANY_HIGH
    g = op[GY]
    for b in range(batch):
        for i in range(op[OH]):
            start, size = op[Y] + b * op[Y_BATCH] + i * op[Y_LINE], op[OW] * n
            y, d = a[start : start + size], a[g : g + size]
            for k in range(size):
                d[k] = d[k] if zero < y[k] < six else zero
            g += size


@njit(**COMPILED)
def _spread(op, a, batch):  # type: ignore[no-untyped-def]
    """Write a gradient with zeros around and, where the layer strides, between."""
    n, g = op[N], op[GY]
    for b in range(batch):
        for i in range(op[OH]):
            start = op[D] + b * op[D_BATCH] + (op[EH] + i * op[SH]) * op[D_LINE] + op[EW] * n
            if op[SW] == 1:
                size = op[OW] * n
                a[start : start + size] = a[g : g + size]
                g += size
                continue
            for _ in range(op[OW]):
                a[start : start + n] = a[g : g + n]
                start += op[SW] * n
                g += n


@njit(**COMPILED)
def _flip(op, a, w):  # type: ignore[no-untyped-def]
    """Write a convolution's weights as its transposed one takes them."""
    n, c, t = op[N], op[C], op[FLIPPED]
    last = op[KH] * op[KW] - 1
    for k in range(last + 1):
        if op[KIND] == DEPTHWISE:
            start = op[WEIGHT] + (last - k) * n
            a[t : t + n] = w[start : start + n]
            t += n
            continue
        start = op[WEIGHT] + (last - k) * c * n
        for q in range(n):
            for j in range(c):
                a[t + j] = w[start + j * n + q]
            t += c


@njit(**COMPILED)
def backward_convolution(op, tables, a, w, target, rate, batch):  # type: ignore[no-untyped-def]
    """Give the input's gradient, then add rate times that of the weights to `target`."""
    n, count = op[N], batch * op[OH] * op[OW]
    if op[ACT] > 0 and op[MASKED] == 0:
        mask(op, a, batch)
    if op[BACK] == BY_DOTS:
        again, whole, size = op[GX_AGAIN] > 0, batch - batch % 5, op[TERMS]
        for b in range(0, whole, 5):
            for k in range(size):
                _dots5(a, op[GY] + b * n, w, op[WEIGHT] + k * n, n, a, op[GX] + b * size + k, size, again)
        for b in range(whole, batch):
            for k in range(size):
                _dots1(a, op[GY] + b * n, w, op[WEIGHT] + k * n, n, a, op[GX] + b * size + k, size, again)
    elif op[BACK] == BY_PRODUCT:
        if op[D] != op[GY]:
            _spread(op, a, batch)
        _flip(op, a, w)
        begin = -2 if op[GX_AGAIN] > 0 else -1
        places, outs = tables[op[D_PLACES] :], tables[op[GX_PLACES] :]
        run = (batch * op[H] * op[W], op[KH], op[D_LENGTH], op[D_APART])
        if op[KIND] == DEPTHWISE:
            multiply_channels(a, places, *run, a, op[FLIPPED], n, a, outs, begin, a, _ANY_LOW, _ANY_HIGH)
        else:
            multiply(a, places, *run, a, op[FLIPPED], op[C], a, outs, begin, a, _ANY_LOW, _ANY_HIGH)
    places, offsets = tables[op[PLACES] :], tables[op[OFFSETS] :]
    if op[KIND] == DEPTHWISE:
        learn_channels(a, places, count, offsets, op[TERMS], a, op[GY], n, target, op[WEIGHT], rate)
    else:
        learn(a, places, count, offsets, op[TERMS], a, op[GY], n, target, op[WEIGHT], rate)
    if op[BIAS] >= 0:
        add_rows(a, op[GY], count, n, target, op[BIAS], rate)


@njit(**COMPILED)
def _cut(place, size, kernel):  # type: ignore[no-untyped-def]
    """Return the first and the number of a window's pixels that are there."""
    first = max(0, place)
    return first, min(size, place + kernel) - first


@njit(**COMPILED)
def forward_maximum(op, a, batch):  # type: ignore[no-untyped-def]
    """Take the largest of each window."""
    n = op[N]
    for b in range(batch):
        for i in range(op[OH]):
            top, lines = _cut(i * op[SH] - op[PH], op[H], op[KH])
            for j in range(op[OW]):
                left, pixels = _cut(j * op[SW] - op[PW], op[W], op[KW])
                here = op[X] + b * op[X_BATCH] + top * op[X_LINE] + left * n
                largest(a, here, lines, pixels, op[X_LINE], n, op[Y] + b * op[Y_BATCH] + i * op[Y_LINE] + j * n)


@njit(**COMPILED)
def backward_maximum(op, a, batch):  # type: ignore[no-untyped-def]
    """Hand each gradient to the first of its window's largest, where the activation before lets it pass."""
    n, (low, high) = op[N], _bounds(op[ACT_BEFORE])
    apart = op[KH] <= op[SH] and op[KW] <= op[SW]
    whole = op[OH] * op[KH] == op[H] and op[OW] * op[KW] == op[W]
    fresh = op[GX_AGAIN] == 0 and apart
    if op[GX_AGAIN] == 0 and not (apart and whole):
        a[op[GX] : op[GX] + batch * op[H] * op[W] * n] = np.float32(0)
    g = op[GY]
    for b in range(batch):
        for i in range(op[OH]):
            top, lines = _cut(i * op[SH] - op[PH], op[H], op[KH])
            for j in range(op[OW]):
                left, pixels = _cut(j * op[SW] - op[PW], op[W], op[KW])
                here = op[X] + b * op[X_BATCH] + top * op[X_LINE] + left * n
                there = op[GX] + ((b * op[H] + top) * op[W] + left) * n
                result = op[Y] + b * op[Y_BATCH] + i * op[Y_LINE] + j * n
                hand_back(a, here, lines, pixels, op[X_LINE], n, result, g, there, op[W] * n, low, high, fresh)
                g += n


@njit(fastmath=EXACT, **COMPILED)
def forward_average(op, a, batch):  # type: ignore[no-untyped-def]
    """Take the mean of each window."""
    n, share = op[N], np.float32(1) / np.float32(op[KH] * op[KW])
    for b in range(batch):
        for i in range(op[OH]):
            for j in range(op[OW]):
                start = op[Y] + b * op[Y_BATCH] + i * op[Y_LINE] + j * n
                y = a[start : start + n]
                y[:] = np.float32(0)
                for k in range(op[KH]):
                    for m in range(op[KW]):
                        here = op[X] + b * op[X_BATCH] + (i * op[SH] + k) * op[X_LINE] + (j * op[SW] + m) * n
                        x = a[here : here + n]
                        for c in range(n):
                            y[c] += x[c]
                for c in range(n):
                    y[c] *= share


@njit(fastmath=EXACT, **COMPILED)
def backward_average(op, a, batch):  # type: ignore[no-untyped-def]
    """Hand each gradient to all of its window."""
    n, share = op[N], np.float32(1) / np.float32(op[KH] * op[KW])
    if op[GX_AGAIN] == 0:
        a[op[GX] : op[GX] + batch * op[H] * op[W] * n] = np.float32(0)
    g = op[GY]
    for b in range(batch):
        for i in range(op[OH]):
            for j in range(op[OW]):
                d = a[g : g + n]
                g += n
                for k in range(op[KH]):
                    for m in range(op[KW]):
                        there = op[GX] + ((b * op[H] + i * op[SH] + k) * op[W] + j * op[SW] + m) * n
                        e = a[there : there + n]
                        for c in range(n):
                            e[c] += share * d[c]


@njit(fastmath=EXACT, **COMPILED)
def forward_sum(op, a, batch):  # type: ignore[no-untyped-def]
    """Add two results, and bound by the activation."""
    low, high = _bounds(op[ACT])
    size = op[OW] * op[N]
    for b in range(batch):
        for i in range(op[OH]):
            first = op[X] + b * op[X_BATCH] + i * op[X_LINE]
            second = op[X2] + b * op[X2_BATCH] + i * op[X2_LINE]
            result = op[Y] + b * op[Y_BATCH] + i * op[Y_LINE]
            p, q, y = a[first : first + size], a[second : second + size], a[result : result + size]
            for k in range(size):
                value = p[k] + q[k]
                value = low if value < low else value
                y[k] = high if value > high else value


@njit(fastmath=EXACT, **COMPILED)
def backward_sum(op, a, batch):  # type: ignore[no-untyped-def]
    """Hand the gradient to both."""
    if op[ACT] > 0 and op[MASKED] == 0:
        mask(op, a, batch)
    size = batch * op[OH] * op[OW] * op[N]
    d = a[op[GY] : op[GY] + size]
    for at, again in ((op[GX], op[GX_AGAIN]), (op[GX2], op[GX2_AGAIN])):
        if at < 0:
            continue
        e = a[at : at + size]
        if again > 0:
            for k in range(size):
                e[k] += d[k]
        else:
            for k in range(size):
                e[k] = d[k]
