"""Group norm and weight standardisation, forward and backward, compiled as `kernels` are."""

import math

import numpy as np
from numba import njit

from edgekit.clients.client_major import fields as f
from edgekit.clients.client_major.compiling import COMPILED, EXACT, bounds, mask


@njit(fastmath=EXACT, **COMPILED)
def _by_group(op, sums, count):  # type: ignore[no-untyped-def]
    """Replace each channel's sum by its group's mean."""
    each = op[f.REAL] // op[f.GROUPS]
    for group in range(op[f.GROUPS]):
        total = 0.0
        for c in range(group * each, (group + 1) * each):
            total += sums[c]
        mean = np.float32(total / (each * count))
        for c in range(group * each, (group + 1) * each):
            sums[c] = mean


@njit(fastmath=EXACT, **COMPILED)
def forward_norm(op, numbers, a, w, batch):  # type: ignore[no-untyped-def]
    """Normalise each example's groups of channels, scale and shift them (Wu & He 2018), and bound by the activation."""
    n, width, (low, high) = op[f.N], op[f.OW], bounds(op[f.ACT])
    count, gain, shift = op[f.OH] * width, w[op[f.GAIN] : op[f.GAIN] + n], w[op[f.BIAS] : op[f.BIAS] + n]
    for b in range(batch):
        at = op[f.MOMENTS] + b * 2 * n
        mean, scale = a[at : at + n], a[at + n : at + 2 * n]
        mean[:] = np.float32(0)
        scale[:] = np.float32(0)
        first, result = op[f.X] + b * op[f.X_BATCH], op[f.Y] + b * op[f.Y_BATCH]
        for i in range(op[f.OH]):
            for j in range(width):
                x = a[first + i * op[f.X_LINE] + j * n :][:n]
                for c in range(n):
                    mean[c] += x[c]
        _by_group(op, mean, count)
        for i in range(op[f.OH]):
            for j in range(width):
                x = a[first + i * op[f.X_LINE] + j * n :][:n]
                for c in range(n):
                    apart = x[c] - mean[c]
                    scale[c] += apart * apart
        _by_group(op, scale, count)
        for c in range(op[f.REAL]):
            scale[c] = np.float32(1) / np.float32(math.sqrt(scale[c] + numbers[op[f.EPS]]))
        for i in range(op[f.OH]):
            for j in range(width):
                x, y = a[first + i * op[f.X_LINE] + j * n :][:n], a[result + i * op[f.Y_LINE] + j * n :][:n]
                for c in range(n):
                    value = (x[c] - mean[c]) * scale[c] * gain[c] + shift[c]
                    value = low if value < low else value
                    y[c] = high if value > high else value


@njit(fastmath=EXACT, **COMPILED)
def backward_norm(op, a, w, target, rate, batch):  # type: ignore[no-untyped-def]
    """Give the input's gradient, then add rate times those of gain and shift to `target`."""
    n, width, real = op[f.N], op[f.OW], op[f.REAL]
    count, gain, at = op[f.OH] * width, w[op[f.GAIN] : op[f.GAIN] + n], op[f.LEARNT]
    gains, shifts, d_sum, x_sum = (a[at : at + n], a[at + n : at + 2 * n], a[at + 2 * n : at + 3 * n],
                                   a[at + 3 * n : at + 4 * n])  # fmt: skip
    if op[f.ACT] > 0 and op[f.MASKED] == 0:
        mask(op, a, batch)
    gains[:] = np.float32(0)
    shifts[:] = np.float32(0)
    again = op[f.GX_AGAIN] > 0
    for b in range(batch):
        at = op[f.MOMENTS] + b * 2 * n
        mean, scale, first = a[at : at + n], a[at + n : at + 2 * n], op[f.X] + b * op[f.X_BATCH]
        d_sum[:] = np.float32(0)
        x_sum[:] = np.float32(0)
        g = b * count * n
        for i in range(op[f.OH]):
            for j in range(width):
                x, d = a[first + i * op[f.X_LINE] + j * n :][:n], a[op[f.GY] + g :][:n]
                g += n
                for c in range(n):
                    d_sum[c] += d[c]
                    x_sum[c] += d[c] * (x[c] - mean[c])
        for c in range(real):
            shifts[c] += d_sum[c]
            gains[c] += x_sum[c] * scale[c]
            d_sum[c] *= gain[c]
            x_sum[c] *= gain[c] * scale[c]
        _by_group(op, d_sum, count)
        _by_group(op, x_sum, count)
        for c in range(real):
            x_sum[c] *= scale[c]
        g = b * count * n
        for i in range(op[f.OH]):
            for j in range(width):
                x = a[first + i * op[f.X_LINE] + j * n :][:n]
                d, e = a[op[f.GY] + g :][:n], a[op[f.GX] + g :][:n]
                g += n
                for c in range(n):
                    value = scale[c] * (gain[c] * d[c] - d_sum[c] - (x[c] - mean[c]) * x_sum[c])
                    e[c] = e[c] + value if again else value
    for c in range(real):
        target[op[f.GAIN] + c] += rate * gains[c]
        target[op[f.BIAS] + c] += rate * shifts[c]


@njit(fastmath=EXACT, **COMPILED)
def standardise(op, numbers, a, w):  # type: ignore[no-untyped-def]
    """Write a convolution's weights as it applies them: filters of no mean and unit norm, times a gain."""
    n, kernel, real, deep = op[f.N], op[f.KH] * op[f.KW], op[f.REAL], op[f.TERMS] // (op[f.KH] * op[f.KW])
    at, gain = op[f.MOMENTS], w[op[f.GAIN] : op[f.GAIN] + n]
    mean, scale = a[at : at + n], a[at + n : at + 2 * n]
    mean[:] = np.float32(0)
    scale[:] = np.float32(0)
    for k in range(kernel):
        for j in range(real):
            v = w[op[f.WEIGHT] + (k * deep + j) * n :][:n]
            for q in range(n):
                mean[q] += v[q]
    for q in range(n):
        mean[q] /= np.float32(kernel * real)
    for k in range(kernel):
        for j in range(real):
            v = w[op[f.WEIGHT] + (k * deep + j) * n :][:n]
            for q in range(n):
                apart = v[q] - mean[q]
                scale[q] += apart * apart
    for q in range(n):
        scale[q] = np.float32(1) / np.float32(math.sqrt(scale[q] + numbers[op[f.EPS]]))
    for k in range(kernel):
        for j in range(real):
            row = (k * deep + j) * n
            v, u = w[op[f.WEIGHT] + row :][:n], a[op[f.STANDARD] + row :][:n]
            for q in range(n):
                u[q] = (v[q] - mean[q]) * scale[q] * gain[q]


@njit(fastmath=EXACT, **COMPILED)
def learn_standardised(op, a, w, target, rate):  # type: ignore[no-untyped-def]
    """Add rate times the gradients of filters and gain to `target`, from those of the applied weights at LEARNT."""
    n, kernel, real, deep = op[f.N], op[f.KH] * op[f.KW], op[f.REAL], op[f.TERMS] // (op[f.KH] * op[f.KW])
    at, gain = op[f.MOMENTS], w[op[f.GAIN] : op[f.GAIN] + n]
    mean, scale = a[at : at + n], a[at + n : at + 2 * n]
    d_mean, along = a[at + 2 * n : at + 3 * n], a[at + 3 * n : at + 4 * n]
    d_mean[:] = np.float32(0)
    along[:] = np.float32(0)
    for k in range(kernel):
        for j in range(real):
            row = (k * deep + j) * n
            v, d = w[op[f.WEIGHT] + row :][:n], a[op[f.LEARNT] + row :][:n]
            for q in range(n):
                d_mean[q] += d[q]
                along[q] += d[q] * (v[q] - mean[q])
    for q in range(n):
        d_mean[q] /= np.float32(kernel * real)
    for k in range(kernel):
        for j in range(real):
            row = (k * deep + j) * n
            v, d, t = w[op[f.WEIGHT] + row :][:n], a[op[f.LEARNT] + row :][:n], target[op[f.WEIGHT] + row :][:n]
            for q in range(n):
                apart = (v[q] - mean[q]) * scale[q] * scale[q] * along[q]
                t[q] += rate * gain[q] * scale[q] * (d[q] - d_mean[q] - apart)
    for q in range(n):
        target[op[f.GAIN] + q] += rate * scale[q] * along[q]
