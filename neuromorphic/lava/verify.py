"""The emulator held against Lava: every spike, current and voltage, of given networks and of random ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from edgekit.neuromorphic.emulator import Emulator, Record
from edgekit.neuromorphic.lava.session import Lava
from edgekit.neuromorphic.loihi import VOLTAGE_LIMIT, Integers, Lif, LoihiLayer, LoihiNetwork, LoihiSynapse, SigmaDelta
from edgekit.neuromorphic.network import INPUT

WEIGHT_RANGE = {"mixed": (-256, 254), "excitatory": (0, 255), "inhibitory": (-255, 0)}
LARGEST_DELAY = 5


@dataclass(frozen=True)
class Comparison:
    """What one comparison found.

    Attributes:
        values: how many spikes, currents and voltages were compared.
        spikes: how many of them were spikes that fired.
        different: where the two differ, one line a layer and kind; empty if nowhere.
    """

    values: int
    spikes: int
    different: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A network to compare, with its input.

    Attributes:
        network: the network.
        codes: (samples, steps, ...).
        pipelined: whether it runs without resets, from the first step on.
        float_refractory: whether Lava's own refractory neurons can stand beside ours.
    """

    network: LoihiNetwork
    codes: Integers
    pipelined: bool = False
    float_refractory: bool = False


def compare(lava: Lava, case: Case) -> Comparison:
    """Run a case in both, and compare all that happened.

    Raises:
        LavaError: Lava could not run it.
    """
    ours = Emulator(case.network, pipelined=case.pipelined).run(case.codes, record=True).records
    # Lava's floating-point neurons do not clip, so they say nothing of those that do.
    clipped = any(np.abs(record.voltages).max(initial=0) >= VOLTAGE_LIMIT - 1 for record in ours)
    theirs = lava.run(
        case.network,
        case.codes,
        record=True,
        pipelined=case.pipelined,
        float_refractory=case.float_refractory and not clipped,
    ).records
    return compare_records(case.network, ours, theirs)


def compare_records(network: LoihiNetwork, ours: Sequence[Record], theirs: Sequence[Record]) -> Comparison:
    """Compare two records of the same run."""
    different = []
    values = spikes = 0
    for layer, one, other in zip(network.layers, ours, theirs, strict=True):
        spikes += int(np.count_nonzero(one.spikes))
        for kind in Record._fields:
            mine, its = np.asarray(getattr(one, kind)), np.asarray(getattr(other, kind))
            values += mine.size
            wrong = np.argwhere(mine.astype(np.int64) != its.astype(np.int64))
            if len(wrong):
                place = tuple(int(i) for i in wrong[0])
                different.append(
                    f"layer {layer.name!r}: {len(wrong)} of {mine.size} {kind} differ, first at sample {place[0]}, "
                    f"step {place[1]}, neuron {place[2:]}: {int(mine[place])} here, {int(its[place])} in Lava"
                )
    return Comparison(values, spikes, tuple(different))


def draw(seed: int) -> Case:
    """Draw a random network that may use any option, and its input.

    Args:
        seed: the same seed draws the same case.
    """
    rng = np.random.default_rng([seed, 20])
    if rng.random() < 0.12:
        return _draw_sigma_delta(rng)
    maps = bool(rng.random() < 0.45)
    shape = tuple(int(n) for n in (rng.integers(1, 4), *rng.integers(3, 7, 2))) if maps else (int(rng.integers(2, 24)),)
    steps = int(rng.integers(1, 16))
    bits = int(rng.choice([0, 0, 1, 4, 8]))
    pipelined = bool(rng.random() < 0.3)
    layers: list[LoihiLayer] = []
    level = float(rng.choice([0.05, 0.3, 0.9])) * (((1 << bits) - 1) / 2 if bits else 1)
    for number in range(int(rng.integers(1, 5))):
        layers.append(_draw_layer(rng, number, layers, shape, bits, level, pipelined))
    samples = 1 if pipelined else int(rng.integers(1, 4))
    network = LoihiNetwork(tuple(layers), steps, shape, 0.0, 1.0, max(bits, 1), ())
    present = rng.random((samples, steps, *shape)) < float(rng.choice([0.05, 0.3, 0.9]))
    codes = (present * rng.integers(1, 1 << max(bits, 1), present.shape)).astype(np.int32)
    exact = [
        layer.neurons.refractory == 0 or (layer.neurons.current_decay, layer.neurons.voltage_decay) == (4095, 0)
        for layer in layers
        if isinstance(layer.neurons, Lif)
    ]
    hard = all(isinstance(n.neurons, Lif) and (n.neurons.reset == "hard" or not n.neurons.refractory) for n in layers)
    return Case(network, codes, pipelined, pipelined and all(exact) and hard)


def _draw_layer(
    rng: np.random.Generator,
    number: int,
    layers: Sequence[LoihiLayer],
    input_shape: tuple[int, ...],
    bits: int,
    level: float,
    delays: bool,
) -> LoihiLayer:
    source = number - 1
    before = input_shape if source == INPUT else layers[source].shape
    first = _draw_synapse(rng, source, before, None, bits if source == INPUT else 0, delays)
    shape = _target(first, before)
    synapses = [first]
    if number and rng.random() < 0.35:  # a residual: a second way in, from any earlier layer or the input
        other = int(rng.integers(-1, number))
        from_shape = input_shape if other == INPUT else layers[other].shape
        synapses.append(_draw_synapse(rng, other, from_shape, shape, bits if other == INPUT else 0, delays))
    reach = max(float(np.abs(s.weight).sum() / np.prod(s.weight.shape[:1])) * 2.0**s.weight_exponent for s in synapses)
    threshold = int(np.clip(reach * (level if source == INPUT else 0.3) * rng.uniform(0.05, 1.5), 1, 131071))
    if rng.random() < 0.1:
        threshold = int(rng.choice([0, 1, 131071]))
    exponent = int(rng.integers(-2, 8))
    bias = rng.uniform(-0.2, 0.6, shape) * (threshold << 6) / 2.0**exponent * (rng.random() < 0.7)
    neurons = Lif(
        threshold,
        np.clip(bias, -4096, 4095).astype(np.int32),
        exponent,
        int(rng.choice([4095, 4095, 0, int(rng.integers(0, 4096))])),
        int(rng.choice([0, 0, 4095, 128, int(rng.integers(0, 4096))])),
        "soft" if rng.random() < 0.5 else "hard",
        int(rng.choice([0, 0, 0, 1, 3])),
    )
    return LoihiLayer(f"{number}", tuple(synapses), neurons, shape)


def _draw_synapse(
    rng: np.random.Generator,
    source: int,
    before: tuple[int, ...],
    target: tuple[int, ...] | None,
    bits: int,
    delays: bool,
) -> LoihiSynapse:
    """Draw a synapse; with a target shape, one that fits it."""
    sign = str(rng.choice(["mixed", "mixed", "excitatory", "inhibitory"]))
    low, high = WEIGHT_RANGE[sign]
    if rng.random() < 0.1:
        low, high = low - 60, high + 60  # out of range: they are clipped
    extent = float(rng.choice([0.05, 0.5, 1.0]))
    low, high = int(low * extent), max(1, int(high * extent))

    def weights(*shape: int) -> Integers:
        return rng.integers(low, high, shape, np.int32, endpoint=True)

    delay = int(rng.integers(1, LARGEST_DELAY)) if delays and rng.random() < 0.5 else 0
    shared: dict[str, Any] = {"message_bits": bits, "sign": sign}
    if len(before) == 3 and target is None and rng.random() < 0.7:
        kernel, stride, padding, dilation = (_pair(rng, *limits) for limits in ((1, 4), (1, 3), (0, 2), (1, 3)))
        extents = [k * d - d + 1 for k, d in zip(kernel, dilation, strict=True)]
        if all(size + 2 * p >= e for size, p, e in zip(before[1:], padding, extents, strict=True)):
            groups = int(rng.choice([1, before[0]]))
            outputs = groups * int(rng.integers(1, 4))
            weight = weights(outputs, before[0] // groups, *kernel)
            return LoihiSynapse(
                source, "conv", weight, stride, padding, groups, dilation=dilation, delay=delay, **shared
            )
    inputs = int(np.prod(before))
    outputs = int(np.prod(target)) if target else int(rng.integers(1, 20))
    shared |= {"weight_exponent": int(rng.integers(-3, 8)), "weight_bits": int(rng.integers(1, 9))}
    weight = weights(outputs, inputs)
    if rng.random() < 0.4:
        held = csr_array(np.where(rng.random(weight.shape) < 0.3, weight, 0).astype(np.int32))
        if held.nnz:
            waits: Any = delay
            if delay and rng.random() < 0.7:
                waits = rng.integers(0, LARGEST_DELAY, held.nnz, np.int32)
            return LoihiSynapse(source, "sparse", held, delay=waits, **shared)
    if not weight.any():
        weight[0, 0] = high
    each: Any = rng.integers(0, LARGEST_DELAY, weight.shape, np.int32) if delay and rng.random() < 0.7 else delay
    return LoihiSynapse(source, "dense", weight, delay=each, **shared)


def _pair(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    return int(rng.integers(low, high)), int(rng.integers(low, high))


def _target(synapse: LoihiSynapse, before: tuple[int, ...]) -> tuple[int, ...]:
    if synapse.kind != "conv":
        return (synapse.weight.shape[0],)
    sizes = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip(
            before[1:], synapse.padding, synapse.dilation, synapse.weight.shape[2:], synapse.stride, strict=True
        )
    ]
    return (synapse.weight.shape[0], *sizes)


def _draw_sigma_delta(rng: np.random.Generator) -> Case:
    """Draw a chain: delta, then sigma-delta layers, then sigma."""
    size, steps = int(rng.integers(2, 16)), int(rng.integers(1, 16))

    def exponents() -> dict[str, Any]:
        return {
            "threshold": int(rng.integers(0, 40)),
            "spike_exponent": int(rng.integers(0, 4)),
            "state_exponent": int(rng.integers(0, 4)),
            "cumulative": bool(rng.random() < 0.4),
        }

    empty = np.zeros(0, np.int32)
    direct = LoihiSynapse(INPUT, "direct", empty)
    layers = [
        LoihiLayer("delta", (direct,), SigmaDelta("delta", bias=np.zeros(size, np.int32), **exponents()), (size,))
    ]
    for number in range(int(rng.integers(1, 3))):
        outputs = int(rng.integers(1, 12))
        weight = rng.integers(-60, 61, (outputs, layers[-1].shape[0]), np.int32)
        weight[0, 0] = 60
        synapse = LoihiSynapse(number, "dense", weight, message_bits=16, weight_exponent=int(rng.integers(-3, 2)))
        activation: Any = "relu" if rng.random() < 0.7 else "unit"
        bias = rng.integers(-100, 100, outputs).astype(np.int32)
        neurons = SigmaDelta("sigma-delta", bias=bias, activation=activation, **exponents())
        layers.append(LoihiLayer(f"sigma-delta {number}", (synapse,), neurons, (outputs,)))
    outputs = int(rng.integers(1, 8))
    weight = rng.integers(-60, 61, (outputs, layers[-1].shape[0]), np.int32)
    weight[0, 0] = 60
    last = LoihiSynapse(len(layers) - 1, "dense", weight, message_bits=16)
    layers.append(LoihiLayer("sigma", (last,), SigmaDelta("sigma", 0, np.zeros(outputs, np.int32)), (outputs,)))
    steady = rng.integers(-100, 101, (1, 1, size)) + np.cumsum(rng.integers(-9, 10, (1, steps, size)), 1)
    return Case(LoihiNetwork(tuple(layers), steps, (size,), 0.0, 1.0, 8, ()), steady.astype(np.int32), True)
