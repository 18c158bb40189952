"""From a spiking network in floats to one in Loihi's integers, losing as little as the formats allow."""

from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit.errors import ConversionError
from edgekit.neuromorphic.coding import Floats
from edgekit.neuromorphic.emulator import Emulator
from edgekit.neuromorphic.loihi import (
    LARGEST_BIAS,
    LARGEST_BIAS_EXPONENT,
    NO_MEMORY,
    READOUT_THRESHOLD,
    VOLTAGE_LIMIT,
    Integers,
    Lif,
    LoihiLayer,
    LoihiNetwork,
    LoihiSynapse,
    check,
)
from edgekit.neuromorphic.network import INPUT, SpikingLayer, SpikingNetwork, Synapse, readouts

LARGEST_THRESHOLD = 1 << 15
"""Half way to the voltage's clip (2^23 = 2^17 << 6) twice over: charge beyond a threshold must not be lost."""
SHARED = ("input_shape", "input_low", "input_step", "input_bits", "classes", "coding")
CLIPS = (1.0, 1.25, 1.5, 2.0)
"""How much finer than by its largest weight a layer may be rounded; larger weights are then cut off."""


MOST_SEARCHED = 64
"""Calibration examples that candidates are judged by."""
SEARCH_BUDGET = 1e11
"""Multiply-adds that the search may take: large networks are judged by fewer examples, or not searched."""
FEWEST_SEARCHED = 8


@dataclass(frozen=True)
class _Scaling:
    """How a layer is rounded: `clip` of CLIPS, and a `share` of the scale that this allows."""

    clip: float = 1.0
    share: float = 1.0


def quantise(network: SpikingNetwork, steps: int, calibration: Floats, *, weight_bits: int = 8) -> LoihiNetwork:
    """Round a spiking network to Loihi's integers for a number of time steps.

    In each layer everything is divided by the threshold and multiplied by one scale S, so that the largest weight fits
    and the threshold's mantissa is S. Neurons start at zero on Loihi; the half threshold at which they start in floats
    is spread over the steps, as a bias. Then, layer by layer, finer scales that cut off the largest weights are tried:
    what brings the readout closest to that of the floats on the calibration examples is kept.

    Args:
        network: the float network.
        steps: time steps.
        calibration: examples whose use spends no client's privacy, (examples, ...).
        weight_bits: of the weights, with their sign.

    Raises:
        ConversionError: biases are too large beside the threshold for Loihi's format.
    """
    wanted = readouts(network, network.encode(calibration, steps), steps)[-1].numpy()
    extent = float(np.abs(wanted).max())
    scalings = [_Scaling() for _ in network.layers]

    def made() -> LoihiNetwork:
        layers = [
            _layer(network, layer, steps, extent, weight_bits, scaling)
            for layer, scaling in zip(network.layers, scalings, strict=True)
        ]
        shared = {name: getattr(network, name) for name in SHARED}
        return LoihiNetwork(tuple(layers), steps, **shared)

    _keep_currents_in_range(network, scalings, made, calibration)

    macs = sum(s.weight[0].size * prod(layer.shape) for layer in network.layers for s in layer.synapses)
    runs = 1 + len(network.layers) * (len(CLIPS) - 1)
    few = min(MOST_SEARCHED, int(SEARCH_BUDGET / (macs * steps * runs)))

    def distance() -> float:
        candidate = made()
        found = Emulator(candidate).run(candidate.encode(calibration[:few])).scores.astype(np.float64)
        scale = float((found * wanted[:few]).sum() / max(1e-12, float((found * found).sum())))
        return float(np.square(scale * found - wanted[:few]).mean())

    best = distance() if few >= FEWEST_SEARCHED else 0.0
    for number, start in enumerate(scalings[:] if few >= FEWEST_SEARCHED else []):
        for clip in CLIPS[1:]:
            kept = scalings[number]
            scalings[number] = replace(start, clip=clip)
            tried = distance()
            if tried < best:
                best = tried
            else:
                scalings[number] = kept
    result = made()
    check(result)
    return result


def _keep_currents_in_range(network, scalings, made, calibration) -> None:  # type: ignore[no-untyped-def]
    """Scale down layers whose currents pile up beyond half of Loihi's range: there they would wrap around."""
    lasting = [number for number, layer in enumerate(network.layers) if layer.current_decay < 1]
    for number in lasting:  # in order, since a layer's spikes depend on the ones before it
        while True:
            candidate = made()
            ran = Emulator(candidate).run(candidate.encode(calibration[:64]), record=True)
            bound = float(np.abs(ran.records[number].currents).max(initial=0))
            if bound < VOLTAGE_LIMIT / 2 or scalings[number].share < 2**-12:
                break
            scalings[number] = replace(scalings[number], share=scalings[number].share / 2)


def _layer(
    network: SpikingNetwork, layer: SpikingLayer, steps: int, extent: float, weight_bits: int, scaling: _Scaling
) -> LoihiLayer:
    unit = 1.0 if layer.readout else layer.threshold
    if unit <= 0:
        raise ConversionError(f"layer {layer.name!r} has the threshold {unit:g}: neurons need one above 0")
    low = np.full((1, *network.input_shape), network.input_low, np.float32)
    bias = layer.bias.astype(np.float64) / unit
    weights = []
    for synapse in layer.synapses:
        weight = synapse.weight.astype(np.float64) / unit
        if synapse.source == INPUT:  # codes stand for low + step * code; a current that lasts piles up
            weight = weight * network.input_step
            if network.coding != "latency":
                bias = bias + _drive(synapse, low).reshape(layer.shape) / unit / layer.current_decay
        weights.append(weight)
    largest = max((float(np.abs(weight).max(initial=0)) for weight in weights), default=0.0) or 1.0
    # The largest bias must fit its format too; with inputs far from zero it is what limits the scale.
    rounding = layer.start / steps
    largest_bias = float(np.abs(bias).max()) + rounding
    grain = 1 << (9 - weight_bits)  # weights of mixed sign lose one of their eight bits
    top = 256 - grain
    scale = min(top / largest * scaling.clip, LARGEST_BIAS * 2**LARGEST_BIAS_EXPONENT / 64 / max(largest_bias, 1e-9))
    scale *= scaling.share
    if layer.readout:
        # Half of the voltage's range for what calibration saw; the other half for what it did not.
        scale = min(scale, 0.5 * VOLTAGE_LIMIT / 64 / max(extent, 1e-9))
    else:
        bias = bias + rounding
        scale = float(min(int(scale), LARGEST_THRESHOLD))
        if scale < 1:
            raise ConversionError(
                f"layer {layer.name!r}: its biases are {largest_bias:.0f} times its threshold, more than Loihi's "
                "format holds; train with a smaller learning rate, or with a norm"
            )
    mantissa, exponent = _bias(bias * scale * 64)
    synapses = tuple(
        LoihiSynapse(
            synapse.source,
            synapse.kind,
            np.clip(grain * np.rint(weight * scale / grain), -256, top).astype(np.int32),
            synapse.stride,
            synapse.padding,
            synapse.groups,
            network.input_bits if synapse.source == INPUT else 0,
            weight_bits=weight_bits,
        )
        for synapse, weight in zip(layer.synapses, weights, strict=True)
    )
    neurons = Lif(
        READOUT_THRESHOLD if layer.readout else int(scale),
        mantissa,
        exponent,
        max(0, round(layer.current_decay * 4096) - 1) if layer.current_decay < 1 else NO_MEMORY,
        min(NO_MEMORY, round(layer.voltage_decay * 4096)),
        layer.reset,
    )
    return LoihiLayer(layer.name, synapses, neurons, layer.shape)


def _drive(synapse: Synapse, x: Floats) -> NDArray[np.float64]:
    drive: NDArray[np.float64] = synapse.apply(torch.from_numpy(x))[0].numpy().astype(np.float64)
    return drive


def _bias(bias: NDArray[np.float64]) -> tuple[Integers, int]:
    """Return the mantissas and their exponent: the smallest that holds them loses least."""
    largest = float(np.abs(bias).max(initial=0))
    exponent = next(e for e in range(LARGEST_BIAS_EXPONENT + 1) if largest / 2**e <= LARGEST_BIAS)
    return np.rint(bias / 2**exponent).astype(np.int32), exponent
