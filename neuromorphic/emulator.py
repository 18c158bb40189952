"""Loihi's arithmetic, exactly: spike for spike, current for current and voltage for voltage as Lava 0.10 computes it.

The rules are those of Lava's fixed-point models (`PyDenseModelBitAcc`, `PyConvModelFixed`, `AbstractPyLifModelFixed`);
tests/neuromorphic holds them against vectors that Lava itself made. A layer runs all its time steps before the next
one starts, so its synapses are one product over steps and examples; integer products are computed in floats that are
wide enough to be exact.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgekit.neuromorphic.loihi import LoihiLayer, LoihiNetwork, LoihiSynapse
from edgekit.neuromorphic.network import INPUT

Integers = NDArray[np.int32]

VOLTAGE_BITS = 23
ACTIVATION_SHIFT = 6


@dataclass(frozen=True)
class Activity:
    """What a run did.

    Attributes:
        scores: final voltages of the readout, (examples, classes), int32.
        spikes: how often each neuron fired, by layer, (examples, ...), int32.
        records: with `record`, for each layer (spikes, currents, voltages), each (examples, steps, ...).
    """

    scores: Integers
    spikes: list[Integers]
    records: list[tuple[NDArray[np.bool_], Integers, Integers]] = field(default_factory=list)


@torch.no_grad()
def run(network: LoihiNetwork, codes: Integers, *, record: bool = False, chunk: int = 256) -> Activity:
    """Run examples through the network.

    Args:
        network: integer network.
        codes: inputs, (examples, ...) for the same at every step, or (examples, steps, ...).
        record: keep spikes, currents and voltages of every step.
        chunk: examples at a time; a few MB of state stay in the cache.
    """
    constant = codes.ndim == 1 + len(network.input_shape)
    inputs = torch.from_numpy(codes.astype(np.int64))
    parts = [_run(network, part[:, None] if constant else part, record) for part in inputs.split(chunk)]
    return Activity(
        np.concatenate([part.scores for part in parts]),
        [np.concatenate(layer) for layer in zip(*[part.spikes for part in parts], strict=True)],
        [
            (
                np.concatenate([kind[0] for kind in layer]),
                np.concatenate([kind[1] for kind in layer]),
                np.concatenate([kind[2] for kind in layer]),
            )
            for layer in zip(*[part.records for part in parts], strict=True)
        ],
    )


def _run(network: LoihiNetwork, inputs: Tensor, record: bool) -> Activity:
    """Run one chunk: inputs (examples, steps or 1, ...)."""
    steps = network.steps
    outputs: list[Tensor] = []
    spikes, records = [], []
    voltage = torch.zeros(0)
    for layer in network.layers:
        drive = _drive(layer, inputs, outputs, steps)
        fired, currents, voltages = scan(layer, drive, steps)
        outputs.append(fired)
        spikes.append(fired.sum(1, dtype=torch.int32).numpy())
        voltage = voltages[:, -1]
        if record:
            records.append((fired.numpy(), currents.to(torch.int32).numpy(), voltages.to(torch.int32).numpy()))
    return Activity(voltage.to(torch.int32).numpy(), spikes, records)


def _drive(layer: LoihiLayer, inputs: Tensor, outputs: list[Tensor], steps: int) -> Tensor:
    """Add up the layer's synapses, (examples, steps or 1, ...), wrapped to int32 as Lava's channels are."""
    total: Tensor | None = None
    for synapse in layer.synapses:
        source = inputs if synapse.source == INPUT else outputs[synapse.source]
        activation = apply_synapse(synapse, source.flatten(0, 1)).unflatten(0, source.shape[:2])
        activation = activation.reshape(*activation.shape[:2], *layer.shape)
        total = activation if total is None else total + activation
    assert total is not None
    return _wrap(total, 32)


def prepared_weight(synapse: LoihiSynapse) -> Integers:
    """Return the weights that take effect.

    Dense ones are clipped to 8 bits and a sign, and their low bits cut off: mixed signs cost one bit, fewer weight
    bits cost more. Lava's convolution uses its weights as they are.
    """
    weight = synapse.weight.astype(np.int32)
    if synapse.kind == "conv":
        return weight
    if synapse.sign == "inhibitory":
        weight = -weight
    mixed = synapse.sign == "mixed"
    weight = np.clip(weight, -256 if mixed else 0, 255)
    cut = 8 - synapse.weight_bits + (1 if mixed else 0)
    weight = (weight >> cut) << cut
    return -weight if synapse.sign == "inhibitory" else weight


def apply_synapse(synapse: LoihiSynapse, source: Tensor) -> Tensor:
    """Return the activation, int64: source (rows, ...) of spikes, or of graded values if `message_bits`."""
    weight = prepared_weight(synapse)
    values = source if synapse.message_bits else source != 0
    bound = int(np.abs(weight.reshape(len(weight), -1).astype(np.int64)).sum(1).max(initial=0))
    largest = int(values.abs().max()) if synapse.message_bits and values.numel() else 1
    # Integers are exact in floats below 2^24 (float32) and 2^53 (float64).
    dtype = torch.float32 if bound * largest < 1 << 24 else torch.float64
    kernel, values = torch.from_numpy(weight).to(dtype), values.to(dtype)
    if synapse.kind == "dense":
        activation = F.linear(values.flatten(1), kernel).to(torch.int64)
        exponent = synapse.weight_exponent
        return activation << exponent if exponent > 0 else activation >> -exponent
    convolved = F.conv2d(values, kernel, None, synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
    return _wrap(convolved.to(torch.int64), 24)


def scan(layer: LoihiLayer, drive: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Step a layer's neurons through time: drive (examples, steps or 1, ...) -> spikes, currents, voltages.

    One step:
        u = decay(u, 4096 - (current_decay + 1)) + (drive << 6), wrapped once at +-2^23
        v = clip(decay(v, 4096 - voltage_decay) + u + (bias << exponent), +-(2^23 - 1))
        spike if v > threshold << 6; then v -= threshold << 6 (soft) or v = 0 (hard)
    where decay(x, k) = sign(x) (|x| k >> 12).
    """
    examples = len(drive)
    limit = 1 << VOLTAGE_BITS
    mantissa = torch.from_numpy(layer.bias.astype(np.int64))
    bias = mantissa << layer.bias_exponent if layer.bias_exponent >= 0 else mantissa >> -layer.bias_exponent
    threshold = layer.threshold << ACTIVATION_SHIFT
    keep_current, keep_voltage = 4096 - (layer.current_decay + 1), 4096 - layer.voltage_decay
    u = v = torch.zeros(examples, *layer.shape, dtype=torch.int64)
    fired = torch.empty(examples, steps, *layer.shape, dtype=torch.bool)
    currents, voltages = (torch.empty(examples, steps, *layer.shape, dtype=torch.int64) for _ in range(2))
    for t in range(steps):
        u = _wrap(_decay(u, keep_current) + (drive[:, t % drive.shape[1]] << ACTIVATION_SHIFT), 32)
        u = torch.where(u > limit, u - 2 * limit, torch.where(u <= -limit, u + 2 * limit, u))
        v = (_decay(v, keep_voltage) + u + bias).clamp(1 - limit, limit - 1)
        spike = v > threshold
        v = torch.where(spike, v - threshold if layer.reset == "soft" else 0, v)
        fired[:, t], currents[:, t], voltages[:, t] = spike, u, v
    return fired, currents, voltages


def _decay(x: Tensor, keep: int) -> Tensor:
    if keep == 4096:
        return x
    return torch.zeros_like(x) if keep == 0 else x.sign() * ((x.abs() * keep) >> 12)


def _wrap(x: Tensor, bits: int) -> Tensor:
    """Wrap to a signed integer of this many bits."""
    half = 1 << (bits - 1)
    return ((x + half) & (2 * half - 1)) - half
