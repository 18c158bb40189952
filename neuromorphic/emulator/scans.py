"""Neurons through time, compiled: all steps of a slice of neurons at once, so that their state stays in the cache.

Arithmetic is in int32 as Lava's models have it. Numba widens sums of int32 to int64, hence the many casts: with them
the compiler narrows the loops again and they fill whole vector registers.
"""

import numpy as np
from numba import njit, types

from edgekit.compiled import kept
from edgekit.neuromorphic.loihi import VOLTAGE_LIMIT

LANES = 1024
"""Neurons a slice: a few arrays of int32 that fit the innermost cache."""

_LIMIT = np.int32(VOLTAGE_LIMIT)
_HIGHEST = np.int32(VOLTAGE_LIMIT - 1)
_LOWEST = np.int32(1 - VOLTAGE_LIMIT)
_WHOLE = np.int32(2 * VOLTAGE_LIMIT - 1)
_COMPILED = {"nogil": True, "boundscheck": False}


@njit(types.int32(types.int32, types.int32), inline="always", **_COMPILED)
def _decayed(x, keep):  # type: ignore[no-untyped-def]
    """sign(x) (|x| keep >> 12) without leaving int32: |x| = 4096 high + low."""
    size = np.int32(abs(x))
    kept = np.int32(np.int32(size >> 12) * keep) + np.int32(np.int32(np.int32(size & 4095) * keep) >> 12)
    return np.int32(-kept) if x < 0 else np.int32(kept)


@kept
@njit(**_COMPILED)
def integrate(drive, shift, bias, threshold, soft, spikes, counts, last):  # type: ignore[no-untyped-def]
    """Step neurons without leak whose current lasts one step and cannot wrap: most of a converted network.

    Args:
        drive: int32 (steps or 1, neurons); one row is used at every step.
        shift: left shift that makes the drive a current.
        bias: int32 (neurons).
        threshold: of the voltage, already shifted.
        soft: whether a spike subtracts the threshold instead of setting zero.
        spikes: int8 (steps, neurons), filled.
        counts: int32 (neurons), filled with each neuron's spikes.
        last: int32 (neurons), filled with the final voltages.
    """
    steps, neurons = spikes.shape
    constant = len(drive) == 1
    voltage = np.empty(LANES, np.int32)
    count = np.empty(LANES, np.int32)
    for start in range(0, neurons, LANES):
        size = min(LANES, neurons - start)
        biases = bias[start : start + size]
        for i in range(size):
            voltage[i] = 0
            count[i] = 0
        for t in range(steps):
            row = drive[0 if constant else t, start : start + size]
            out = spikes[t, start : start + size]
            if soft:
                for i in range(size):
                    v = np.int32(np.int32(voltage[i] + np.int32(row[i] << shift)) + biases[i])
                    v = min(max(v, _LOWEST), _HIGHEST)
                    fired = np.int32(v > threshold)
                    out[i] = fired
                    count[i] = np.int32(count[i] + fired)
                    voltage[i] = np.int32(v - np.int32(threshold & np.int32(-fired)))
            else:
                for i in range(size):
                    v = np.int32(np.int32(voltage[i] + np.int32(row[i] << shift)) + biases[i])
                    v = min(max(v, _LOWEST), _HIGHEST)
                    fired = np.int32(v > threshold)
                    out[i] = fired
                    count[i] = np.int32(count[i] + fired)
                    voltage[i] = np.int32(v & np.int32(fired - np.int32(1)))
        for i in range(size):
            counts[start + i] = count[i]
            last[start + i] = voltage[i]


@kept
@njit(**_COMPILED)
def leaky(  # type: ignore[no-untyped-def]
    drive,
    shift,
    wrap24,
    bias,
    threshold,
    soft,
    keep_current,
    keep_voltage,
    refractory,
    spikes,
    counts,
    last,
    currents,
    voltages,
):
    """Step neurons in full generality.

    One step:
        a = drive << shift (>> if negative), wrapped to 24 bits if `wrap24`
        u = decay(u, keep_current) + (a << 6), wrapped once at +-2^23
        v = clip(decay(v, keep_voltage) + u + bias, +-(2^23 - 1)), unless refractory
        spike if v > threshold; then v -= threshold (soft) or v = 0 (hard), and v rests for `refractory` steps
    where decay(x, k) = sign(x) (|x| k >> 12).

    Args:
        drive: int32 (steps or 1, neurons).
        shift, wrap24: as above.
        bias: int32 (neurons).
        threshold, soft: as in `integrate`.
        keep_current, keep_voltage: 4096 minus the decay.
        refractory: steps.
        spikes, counts, last: as in `integrate`.
        currents, voltages: int32 (steps, neurons), filled; or of no steps, left alone.
    """
    steps, neurons = spikes.shape
    constant = len(drive) == 1
    record = len(voltages) > 0
    u, v = np.empty(LANES, np.int32), np.empty(LANES, np.int32)
    rest = np.empty(LANES, np.int32)
    count = np.empty(LANES, np.int32)
    for start in range(0, neurons, LANES):
        size = min(LANES, neurons - start)
        biases = bias[start : start + size]
        for i in range(size):
            u[i] = v[i] = rest[i] = count[i] = 0
        for t in range(steps):
            row = drive[0 if constant else t, start : start + size]
            out = spikes[t, start : start + size]
            for i in range(size):
                a = np.int32(row[i] << shift) if shift >= 0 else np.int32(row[i] >> -shift)
                if wrap24:
                    a = np.int32(np.int32(np.int32(a + _LIMIT) & _WHOLE) - _LIMIT)
                a = np.int32(a << 6)
                if keep_current != 0:
                    a = np.int32(_decayed(u[i], keep_current) + a)
                if a > _LIMIT:
                    a = np.int32(a - np.int32(2) * _LIMIT)
                elif a <= -_LIMIT:
                    a = np.int32(a + np.int32(2) * _LIMIT)
                u[i] = a
            for i in range(size):
                if rest[i] > 0:
                    rest[i] = np.int32(rest[i] - 1)
                    x = v[i]
                else:
                    x = v[i] if keep_voltage == 4096 else _decayed(v[i], keep_voltage)
                    x = np.int32(np.int32(x + u[i]) + biases[i])
                    x = min(max(x, _LOWEST), _HIGHEST)
                fired = x > threshold
                out[i] = fired
                if fired:
                    count[i] = np.int32(count[i] + 1)
                    rest[i] = refractory
                    x = np.int32(x - threshold) if soft else np.int32(0)
                v[i] = x
            if record:
                currents[t, start : start + size] = u[:size]
                voltages[t, start : start + size] = v[:size]
        for i in range(size):
            counts[start + i] = count[i]
            last[start + i] = v[i]


@kept
@njit(**_COMPILED)
def sigma_delta(  # type: ignore[no-untyped-def]
    drive, integrates, encodes, relu, cumulative, threshold, bias, input_shift, state_exponent, messages, sigmas, acts
):
    """Step sigma, delta or sigma-delta units (Lava's `sdn` models); sums wrap at 32 bits.

    Args:
        drive: int32 (steps or 1, units).
        integrates: whether inputs are summed up over time (sigma).
        encodes: whether only changes are sent (delta).
        relu: whether the activation is rectified.
        cumulative: whether the error that must reach the threshold is summed up.
        threshold: of changes, shifted by both exponents.
        bias: int32 (units), shifted likewise.
        input_shift: left shift of the input.
        state_exponent: right shift of messages.
        messages: int32 (steps, units), filled with what is sent.
        sigmas, acts: int32 (steps, units), filled with the states; or of no steps, left alone.
    """
    steps, units = messages.shape
    constant = len(drive) == 1
    record = len(sigmas) > 0
    for i in range(units):
        sigma = act = residue = error = np.int32(0)
        for t in range(steps):
            a = np.int32(drive[0 if constant else t, i] << input_shift)
            new = a
            if integrates:
                sigma = np.int32(sigma + a)
                new = np.int32(sigma + bias[i])
            if not encodes:
                messages[t, i] = sigma
            else:
                if integrates and relu and new < 0:
                    new = np.int32(0)
                delta = np.int32(np.int32(new - act) + residue)
                measured = delta
                if cumulative:
                    error = np.int32(error + delta)
                    measured = error
                sent = delta if np.int32(abs(measured)) >= threshold else np.int32(0)
                if cumulative and sent != 0:
                    error = np.int32(0)
                residue = np.int32(delta - sent)
                act = new
                messages[t, i] = np.int32(sent >> state_exponent)
            if record:
                sigmas[t, i] = sigma
                acts[t, i] = act


@kept
@njit(**_COMPILED)
def scatter(rows, columns, values, starts, targets, weights, out):  # type: ignore[no-untyped-def]
    """Add up synapses event by event: for the k-th event, of source neuron columns[k] in row rows[k], its weights.

    Args:
        rows, columns: int64 (events).
        values: int32 (events), 1 for spikes.
        starts: int32 (source neurons + 1), where each source's connections begin.
        targets, weights: int32 (connections).
        out: int32 (rows, target neurons), zeros; filled.
    """
    for k in range(len(rows)):
        line = out[rows[k]]
        column = columns[k]
        value = values[k]
        for j in range(starts[column], starts[column + 1]):
            line[targets[j]] = np.int32(line[targets[j]] + np.int32(weights[j] * value))
