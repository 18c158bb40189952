"""From codes to activity: layer by layer, each through all its time steps."""

from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.neuromorphic.emulator import scans
from edgekit.neuromorphic.emulator.products import Term, terms
from edgekit.neuromorphic.loihi import VOLTAGE_LIMIT, Integers, Lif, LoihiLayer, LoihiNetwork, SigmaDelta
from edgekit.neuromorphic.network import INPUT

ACTIVATION_SHIFT = 6
LARGEST_MESSAGE = (1 << 31) - 1
LARGEST_BUFFER = 1 << 20
"""Values a layer holds at once: larger buffers leave the cache and are page-faulted anew for each chunk."""


class Record(NamedTuple):
    """A layer's activity at every step, each (examples, steps, ...).

    `spikes` are messages, and `currents` and `voltages` the sums and activations of sigma-delta units.
    """

    spikes: NDArray[np.bool_] | Integers
    currents: Integers
    voltages: Integers


@dataclass(frozen=True)
class Activity:
    """What a run did.

    Attributes:
        scores: final voltages of the last layer (of sigma-delta units: their last messages), (examples, ...), int32.
        spikes: how often each neuron fired, by layer, (examples, ...), int32.
        records: of each layer, if all was asked for; of the last one alone, if its was.
    """

    scores: Integers
    spikes: list[Integers]
    records: list[Record] = field(default_factory=list)


class Emulator:
    """A network made ready to run many examples: products chosen, biases laid out.

    Args:
        network: integer network.
        pipelined: whether all layers start at the first step, as Lava's processes do when nothing resets them; each
            synapse then takes one step. By default a layer starts when its input arrives.
    """

    def __init__(self, network: LoihiNetwork, *, pipelined: bool = False) -> None:
        self.network = network
        graded = {number for number, layer in enumerate(network.layers) if isinstance(layer.neurons, SigmaDelta)}
        self._layers = []
        for layer in network.layers:
            parts: list[Term] = []
            for synapse in layer.synapses:
                largest = LARGEST_MESSAGE
                if synapse.source == INPUT and synapse.message_bits:
                    largest = (1 << synapse.message_bits) - 1
                elif synapse.source != INPUT and synapse.source not in graded:
                    largest = 1
                parts += terms(synapse, network.shape_of(synapse.source), layer.shape, largest)
            self._layers.append(_Layer(layer, parts, graded, network.steps, pipelined))
        bits = [s.message_bits for layer in network.layers for s in layer.synapses if s.source == INPUT]
        self._largest_code = (1 << min((b for b in bits if b), default=31)) - 1
        widest = max([prod(network.input_shape), *(layer.width for layer in self._layers)])
        self._chunk = max(1, LARGEST_BUFFER // (widest * network.steps))

    @torch.no_grad()
    def run(
        self,
        codes: Integers | NDArray[np.bool_],
        *,
        record: bool | Literal["readout"] = False,
        chunk: int | None = None,
    ) -> Activity:
        """Run examples.

        Args:
            codes: inputs, (examples, ...) for the same at every step, or (examples, steps, ...).
            record: keep spikes, currents and voltages of every step, of all layers or of the readout.
            chunk: examples at a time; None takes as many as the cache holds.

        Raises:
            ValueError: the codes are for another number of steps, or of more bits than the network takes.
        """
        network = self.network
        constant = codes.ndim == 1 + len(network.input_shape)
        inputs = codes[:, None] if constant else codes
        if not constant and codes.shape[1] != network.steps:
            raise ValueError(f"the network takes {network.steps} steps, the codes have {codes.shape[1]}")
        if codes.dtype != bool and codes.size and max(-int(codes.min()), int(codes.max())) > self._largest_code:
            raise ValueError(f"the network takes codes up to {self._largest_code}; these go to {codes.max()}")
        size = chunk or self._chunk
        starts = range(0, max(1, len(inputs)), size)
        parts = [self._run(inputs[start : start + size], record) for start in starts]
        return Activity(
            np.concatenate([part.scores for part in parts]),
            [np.concatenate(layer) for layer in zip(*[part.spikes for part in parts], strict=True)],
            [
                Record._make(np.concatenate([part[kind] for part in layer]) for kind in range(3))
                for layer in zip(*[part.records for part in parts], strict=True)
            ],
        )

    def _run(self, codes: Integers | NDArray[np.bool_], record: bool | Literal["readout"]) -> Activity:
        """Run one chunk: codes (examples, steps or 1, ...)."""
        source = torch.from_numpy(codes)
        graded = source.dtype is not torch.bool
        if not graded:
            source = source.view(torch.int8)
        elif codes.size == 0 or -128 <= codes.min() <= codes.max() <= 127:
            source = source.to(torch.int8)
        # Time first, channels last: (steps or 1, examples, height, width, channels).
        axes = (1, 0, 3, 4, 2) if codes.ndim == 5 else (1, 0, *range(2, codes.ndim))
        outputs = {INPUT: source.permute(axes).contiguous()}
        spikes, records = [], []
        scores = np.zeros(0, np.int32)
        for number, layer in enumerate(self._layers):
            keep = record is True or (record == "readout" and number == len(self._layers) - 1)
            ran = layer.run(outputs, graded, len(codes), keep)
            outputs[number] = ran.messages
            spikes.append(ran.counts)
            scores = ran.last
            if keep:
                records.append(Record._make(ran.states))
        return Activity(scores, spikes, records)


def run(
    network: LoihiNetwork, codes: Integers | NDArray[np.bool_], *, record: bool | Literal["readout"] = False
) -> Activity:
    """Run examples once through a network: see `Emulator.run`."""
    return Emulator(network).run(codes, record=record)


@dataclass(frozen=True)
class _Ran:
    """One layer's activity: messages as the next layers take them, the rest in the network's own order."""

    messages: Tensor
    counts: Integers
    last: Integers
    states: tuple[NDArray[np.bool_] | Integers, ...]


class _Layer:
    def __init__(self, layer: LoihiLayer, parts: list[Term], graded: set[int], steps: int, pipelined: bool) -> None:
        self.layer, self.parts, self.graded, self.steps = layer, parts, graded, steps
        self.late = 1 if pipelined else 0
        # The compiled scan of spiking neurons shifts and wraps a single product by itself.
        spiking = isinstance(layer.neurons, Lif)
        self.alone = spiking and len(parts) == 1 and parts[0].delay == 0 and not pipelined
        self.shape = (*layer.shape[1:], layer.shape[0]) if len(layer.shape) == 3 else layer.shape
        self.neurons = prod(layer.shape)
        self.width = parts[0].product.width if self.alone else self.neurons
        bias = layer.neurons.bias.transpose(1, 2, 0) if len(layer.shape) == 3 else layer.neurons.bias
        if isinstance(layer.neurons, Lif):
            exponent = layer.neurons.bias_exponent
            bias = bias << exponent if exponent >= 0 else bias >> -exponent
        else:
            bias = bias << (layer.neurons.spike_exponent + layer.neurons.state_exponent)
        self.bias = np.pad(bias.ravel(), (0, self.width - self.neurons)).astype(np.int32)

    def run(self, outputs: dict[int, Tensor], graded: bool, examples: int, record: bool) -> _Ran:
        """Run all steps.

        Args:
            outputs: of earlier layers, (steps or 1, examples, ...).
            graded: whether the input holds more than zeros and ones.
            examples: how many.
            record: whether to keep all states.
        """
        counted = self.graded | {INPUT} if graded else self.graded
        if self.alone:
            term = self.parts[0]
            source = outputs[term.source]
            drive = term.raw(source.flatten(0, 1), term.source in counted).view(len(source), -1)
            shift, wrap24 = term.shift, term.wrap24
        else:
            drive, shift, wrap24 = self._summed(outputs, counted, examples), 0, False
        if isinstance(self.layer.neurons, Lif):
            return self._lif(self.layer.neurons, drive.numpy(), shift, wrap24, examples, record)
        return self._sigma_delta(self.layer.neurons, drive.numpy(), examples, record)

    def _summed(self, outputs: dict[int, Tensor], graded: set[int], examples: int) -> Tensor:
        """Add up the terms, each at its time, (steps or 1, examples * neurons)."""
        direct = [part for part in self.parts if not (part.delay or self.late)]
        total = torch.zeros(
            1 if len(direct) == len(self.parts) and all(len(outputs[p.source]) == 1 for p in direct) else self.steps,
            examples * self.neurons,
            dtype=torch.int32,
        )
        for part in self.parts:
            source = outputs[part.source]
            drive = part.activation(source.flatten(0, 1), part.source in graded).reshape(len(source), -1)
            late = part.delay + (0 if part.direct else self.late)
            if late < self.steps:
                total[late:] += drive if len(drive) == 1 else drive[: self.steps - late]
        return total

    def _lif(self, neurons: Lif, drive: Integers, shift: int, wrap24: bool, examples: int, record: bool) -> _Ran:
        width = examples * self.width
        bias = np.tile(self.bias, examples)
        spikes = np.empty((self.steps, width), np.int8)
        counts, last = np.empty(width, np.int32), np.empty(width, np.int32)
        threshold, soft = np.int32(neurons.threshold << ACTIVATION_SHIFT), neurons.reset == "soft"
        keep_current, keep_voltage = 4096 - (neurons.current_decay + 1), 4096 - neurons.voltage_decay
        bound = sum(part.bound for part in self.parts) << ACTIVATION_SHIFT
        memoryless = keep_current == 0 and keep_voltage == 4096 and not neurons.refractory
        if memoryless and bound < VOLTAGE_LIMIT and not wrap24 and shift >= 0 and not record:
            scans.integrate(drive, np.int32(shift + ACTIVATION_SHIFT), bias, threshold, soft, spikes, counts, last)
            currents = voltages = np.empty((0, width), np.int32)
        else:
            currents, voltages = (np.empty((self.steps if record else 0, width), np.int32) for _ in range(2))
            scans.leaky(
                drive,
                shift,
                wrap24,
                bias,
                threshold,
                soft,
                np.int32(keep_current),
                np.int32(keep_voltage),
                np.int32(neurons.refractory),
                spikes,
                counts,
                last,
                currents,
                voltages,
            )
        return self._ran(spikes, counts, last, (spikes.astype(bool), currents, voltages) if record else (), examples)

    def _sigma_delta(self, neurons: SigmaDelta, drive: Integers, examples: int, record: bool) -> _Ran:
        width = examples * self.width
        messages = np.empty((self.steps, width), np.int32)
        sums, activations = (np.empty((self.steps if record else 0, width), np.int32) for _ in range(2))
        exponents = neurons.spike_exponent + neurons.state_exponent
        scans.sigma_delta(
            drive,
            neurons.kind != "delta",
            neurons.kind != "sigma",
            neurons.activation == "relu",
            neurons.cumulative,
            neurons.threshold << exponents,
            np.tile(self.bias, examples),
            exponents if neurons.kind == "delta" else 0,
            neurons.state_exponent,
            messages,
            sums,
            activations,
        )
        counts = np.count_nonzero(messages, axis=0).astype(np.int32)
        return self._ran(messages, counts, messages[-1], (messages, sums, activations) if record else (), examples)

    def _ran(
        self,
        messages: NDArray[np.int8] | Integers,
        counts: Integers,
        last: Integers,
        states: tuple[NDArray[np.bool_] | Integers, ...],
        examples: int,
    ) -> _Ran:
        onward = torch.from_numpy(messages).view(self.steps, examples, self.width)
        if self.width != self.neurons:
            onward = onward[:, :, : self.neurons].contiguous()
        return _Ran(
            onward.view(self.steps, examples, *self.shape),
            self._own_order(counts, examples),
            self._own_order(last, examples),
            tuple(np.moveaxis(self._own_order(state, examples, self.steps), 0, 1) for state in states),
        )

    def _own_order(self, values: NDArray[Any], examples: int, *steps: int) -> NDArray[Any]:
        """Return values of padded lanes and channels last as (..., examples, channels, height, width)."""
        cut = values.reshape(*steps, examples, self.width)[..., : self.neurons].reshape(*steps, examples, *self.shape)
        return np.ascontiguousarray(np.moveaxis(cut, -1, -3) if len(self.shape) == 3 else cut)
