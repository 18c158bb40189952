"""Record golden vectors of small spiking networks in Intel's Lava, for the tests of a Loihi emulator.

    python3.10 -m venv venv && venv/bin/pip install lava-nc==0.10.0
    venv/bin/python make_lava_golden.py golden.npz

Every case is a random feed-forward network, each layer a synapse (Dense or Conv) and a LIF population, run
with Lava's fixed-point process models. The file, written without pickled objects, holds

    cases                    JSON list: {"name", "steps", "samples", "layers": [the parameters of a layer]}
    lava_version             the version that made the file
    {case}.input             (samples, steps, C, H, W) or (samples, steps, features), int32
    {case}.{layer}.weights   (outputs, C / groups, kernel height, kernel width) or (outputs, inputs), int32
    {case}.{layer}.bias_mant (C, H, W) or (outputs,), int32
    {case}.{layer}.spikes    (samples, steps, ...) bool
    {case}.{layer}.u, .v     (samples, steps, ...) int32: the state a step leaves behind, so v is the voltage
                             after the reset of the neurons that fired

with {case} and {layer} counted from 0, and all of it (strides, paddings and flattening too) in torch's order.

The arrangement is "aligned": a Lava synapse delivers one step late, so layer l (from 0) works l + 1 steps
behind the source. Its LIFReset clears u and v at the Lava step where a sample's first activation arrives,
and its records are shifted back by l + 1: step t of a layer answers step t of the layer before it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import traceback
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection

import numpy as np
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.conv.process import Conv
from lava.proc.dense.process import Dense
from lava.proc.io.source import RingBuffer
from lava.proc.lif.models import PyLifResetModelBitAcc
from lava.proc.lif.process import LIFReset
from lava.proc.monitor.process import Monitor
from lava.utils.weightutils import SignMode

SEED = 20240
TIMEOUT_S = 120.0
MIXED, EXCITATORY, INHIBITORY = 1, 2, 3  # the values of lava.utils.weightutils.SignMode
WEIGHT_RANGE = {MIXED: (-255, 255), EXCITATORY: (0, 255), INHIBITORY: (-255, 0)}
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Layer:
    """A synapse and its neurons; thresholds and biases are relative, so that most networks stay active."""

    kind: str
    outputs: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    sign_mode: int = MIXED
    weight_range: tuple[int, int] | None = None  # if not the whole range of sign_mode
    num_weight_bits: int = 8
    weight_exp: int = 0
    du: int = 4095
    dv: int = 0
    reset: str = "hard"
    bias: tuple[float, float] = (-0.2, 0.3)  # range, in thresholds
    bias_exp: int = 0
    threshold: float = 0.3  # in expected sums of absolute inputs
    vth: int | None = None  # if not as `threshold` says


@dataclass(frozen=True)
class Case:
    """A network and the random input it gets; num_message_bits belongs to the first layer."""

    name: str
    input_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    num_message_bits: int = 0
    input_rate: float = 0.4
    steps: int = 10
    samples: int = 2


conv, dense = partial(Layer, "conv"), partial(Layer, "dense")
SOFT = {"reset": "soft"}
LEAKY = {"du": 1023, "dv": 128}
CASES = (
    Case("dense, hard reset", (14,), (dense(16), dense(8)), samples=3),
    Case("dense, soft reset", (14,), (dense(16, **SOFT), dense(8, **SOFT)), samples=3),
    Case(
        "mixed weights of 4, 2 and 1 bits",
        (20,),
        (
            dense(12, num_weight_bits=4, threshold=0.1),
            dense(10, num_weight_bits=2, threshold=0.1, bias=(0, 0.9)),
            dense(6, num_weight_bits=1, bias=(0, 2), bias_exp=1, **SOFT),
        ),
    ),
    Case(
        "excitatory weights",
        (16,),
        (
            dense(12, sign_mode=EXCITATORY, threshold=0.9),
            dense(8, sign_mode=EXCITATORY, num_weight_bits=5, threshold=2.0, **SOFT),
        ),
    ),
    Case(
        "inhibitory weights, driven by the bias",
        (16,),
        (
            dense(12, sign_mode=INHIBITORY, num_weight_bits=6, bias=(1, 6), bias_exp=5),
            dense(8, sign_mode=INHIBITORY, bias=(1, 8), bias_exp=5, **SOFT),
        ),
    ),
    Case(
        "weights out of the range of their sign mode are clipped",
        (16,),
        (
            dense(10, weight_range=(-300, 300)),
            dense(10, sign_mode=EXCITATORY, weight_range=(-300, 300)),
            dense(6, sign_mode=INHIBITORY, weight_range=(-300, 300), bias=(0.5, 5), bias_exp=4),
        ),
    ),
    Case("mixed sign mode on positive weights", (12,), (dense(10, weight_range=(0, 255)), dense(6))),
    Case(
        "weight exponents of both signs",
        (14,),
        (dense(12, weight_exp=3, bias_exp=3), dense(10, weight_exp=-1), dense(8, weight_exp=-4, **SOFT)),
    ),
    Case(
        "current leaks", (14,), (dense(12, du=0, threshold=1.0), dense(8, du=2047, **SOFT), dense(6, du=4094)), steps=16
    ),
    Case("voltage leaks", (14,), (dense(12, dv=256), dense(8, dv=2048, **SOFT), dense(6, dv=4095)), steps=16),
    Case(
        "both leak, large bias exponents",
        (14,),
        (dense(12, bias_exp=5, weight_exp=3, **LEAKY, **SOFT), dense(8, bias_exp=6, weight_exp=5, **LEAKY)),
        steps=16,
    ),
    Case(
        "bias alone",
        (6,),
        (dense(10, bias=(0.05, 1.2)), dense(10, bias_exp=1, **SOFT), dense(8, bias_exp=2, **LEAKY)),
        input_rate=0.0,
    ),
    Case(
        "voltage meets the threshold exactly",
        (8,),
        (
            dense(12, sign_mode=EXCITATORY, num_weight_bits=2, vth=192, bias=(0, 0)),
            dense(12, sign_mode=EXCITATORY, num_weight_bits=1, vth=768, bias=(0, 0), **SOFT),
        ),
        steps=16,
    ),
    Case("graded input of 8 bits, dense", (12,), (dense(12), dense(8, **SOFT)), num_message_bits=8),
    Case(
        "graded input of 4 bits, dense, leaks",
        (12,),
        (dense(12, **LEAKY, **SOFT), dense(8, **LEAKY)),
        num_message_bits=4,
        samples=3,
    ),
    Case(
        "conv with unequal kernel, stride and padding",
        (2, 7, 6),
        (
            conv(3, kernel=(3, 2), stride=(2, 1), padding=(0, 1)),
            conv(2, kernel=(1, 3), stride=(1, 2), padding=(1, 0), **SOFT),
        ),
    ),
    Case(
        "conv in groups",
        (4, 4, 5),
        (conv(6, groups=2), conv(3, kernel=(2, 1), groups=3, threshold=0.2, **SOFT)),
        steps=12,
    ),
    Case(
        "depthwise and pointwise conv",
        (3, 5, 4),
        (
            conv(3, groups=3, padding=(1, 1), **SOFT),
            conv(4, kernel=(1, 1), stride=(2, 2)),
            conv(8, groups=4, kernel=(2, 2)),
        ),
    ),
    Case(
        "dilated conv",
        (2, 7, 6),
        (conv(3, dilation=(2, 1), stride=(1, 2)), conv(2, kernel=(2, 2), threshold=0.1, bias=(-1, 3))),
    ),
    Case(
        "conv ignores weight exponent, bits and sign mode",
        (2, 4, 5),
        (
            conv(3, weight_exp=3, num_weight_bits=4, threshold=0.1),
            conv(2, kernel=(2, 2), sign_mode=EXCITATORY, weight_range=(-9, 9)),
        ),
    ),
    Case(
        "graded input of 4 bits, conv to dense",
        (2, 5, 4),
        (conv(3, padding=(1, 0), bias_exp=2), dense(7, **SOFT)),
        num_message_bits=4,
    ),
    Case(
        "graded input of 8 bits, conv, leaks",
        (2, 5, 5),
        (conv(3, stride=(2, 2), padding=(1, 1), bias_exp=6, **LEAKY, **SOFT), dense(7, **LEAKY)),
        num_message_bits=8,
    ),
    Case(
        "four layers",
        (1, 6, 7),
        (
            conv(3, padding=(1, 1), stride=(2, 1), **SOFT),
            conv(3, groups=3, kernel=(2, 2)),
            conv(4, kernel=(1, 1), **SOFT),
            dense(6, num_weight_bits=6),
        ),
        steps=8,
    ),
    Case(
        "voltage clips at both ends",
        (16,),
        (
            dense(16, weight_exp=6, vth=131071, bias=(0, 0)),
            dense(10, weight_exp=7, vth=131071, bias=(0, 0.1), bias_exp=6, **SOFT),
        ),
        input_rate=0.7,
        steps=16,
    ),
    Case(
        "current at the edge of 24 bits",
        (16,),  # eight spikes of 128 << 7 << 6 make 2^23
        (
            dense(8, sign_mode=INHIBITORY, weight_range=(-128, -128), weight_exp=7, vth=90000),
            dense(8, sign_mode=EXCITATORY, weight_range=(128, 128), weight_exp=7, vth=90000),
        ),
        input_rate=0.5,
        steps=16,
    ),
    Case(
        "current wraps at 24 bits",
        (16,),
        (dense(12, weight_exp=7, du=100, vth=90000), dense(8, weight_exp=7, du=200, dv=64, vth=60000, **SOFT)),
        input_rate=0.7,
        steps=12,
    ),
    Case(
        "activation wraps at 32 bits",
        (16,),
        (dense(12, sign_mode=EXCITATORY, weight_exp=7, du=500, vth=90000), dense(6)),
        num_message_bits=8,
        input_rate=0.9,
    ),
    Case(
        "sum of a conv wraps at 24 bits",
        (33, 3, 4),
        (conv(3, sign_mode=EXCITATORY, weight_range=(200, 255), vth=90000), dense(6)),
        num_message_bits=8,
        input_rate=1.0,
        steps=8,
    ),
)


class SoftResetLif(PyLifResetModelBitAcc):
    """Lava's fixed-point LIFReset, but a neuron that fires keeps what exceeds its threshold."""

    def reset_voltage(self, spike_vector: np.ndarray) -> None:
        """Take one threshold off the voltage of the neurons that fired, however far they were above it."""
        self.v[spike_vector] -= np.int32(np.ravel(self.effective_vth)[0])


class RunConfig(Loihi2SimCfg):
    """Fixed-point models, and SoftResetLif for the processes named "soft".

    Chosen here because Lava would execute every .py file in the folder of a Process class of our own.
    """

    def select(self, process: AbstractProcess, proc_models: list[type]) -> type:
        """Return the model that runs a process."""
        return SoftResetLif if process.name == "soft" else super().select(process, proc_models)


def swap_order(maps: np.ndarray) -> np.ndarray:
    """Turn torch's (..., C, H, W) into Lava's (..., W, H, C), or back."""
    return np.swapaxes(maps, -1, -3)


def output_shape(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return what a layer makes of an input of this shape, (C, H, W) or (features,)."""
    if layer.kind == "dense":
        return (layer.outputs,)
    kernel = np.array(layer.dilation) * (np.array(layer.kernel) - 1) + 1
    height, width = (np.array(shape[1:]) + 2 * np.array(layer.padding) - kernel) // np.array(layer.stride) + 1
    return layer.outputs, int(height), int(width)


def draw_layer(layer: Layer, shape: tuple[int, ...], level: float, rng: np.random.Generator) -> tuple[Layer, Arrays]:
    """Draw weights and biases of a layer whose input has a shape and an expected mean, and set its vth."""
    fan_in = (shape[0] // layer.groups, *layer.kernel) if layer.kind == "conv" else (int(np.prod(shape)),)
    low, high = layer.weight_range or WEIGHT_RANGE[layer.sign_mode]
    weights = rng.integers(low, high, (layer.outputs, *fan_in), np.int32, endpoint=True)
    exponent = layer.weight_exp if layer.kind == "dense" else 0  # Lava's Conv has one and ignores it
    expected_sum = np.abs(weights).reshape(layer.outputs, -1).sum(1).mean() * level * 2.0**exponent
    vth = layer.vth or int(np.clip(layer.threshold * expected_sum, 1, 131071))
    bias = rng.uniform(*layer.bias, output_shape(layer, shape)) * (vth << 6)
    bias_mant = np.clip(bias / (1 << layer.bias_exp), -4096, 4095).astype(np.int32)
    return replace(layer, vth=vth), {"weights": weights, "bias_mant": bias_mant}


def make_synapse(layer: Layer, arrays: Arrays, message_bits: int, input_shape: tuple[int, ...]) -> Conv | Dense:
    """Build Lava's Conv or Dense for an input in Lava's shape, (W, H, C) or (features,)."""
    weights = arrays["weights"]
    shared = {
        "weight_exp": layer.weight_exp,
        "num_weight_bits": layer.num_weight_bits,
        "num_message_bits": message_bits,
    }
    if layer.kind == "conv":  # Lava convolves where torch correlates, hence the flip; its pairs are (W, H)
        return Conv(
            weight=swap_order(weights)[:, ::-1, ::-1].copy(),
            input_shape=input_shape,
            stride=layer.stride[::-1],
            padding=layer.padding[::-1],
            dilation=layer.dilation[::-1],
            groups=layer.groups,
            **shared,
        )
    if len(input_shape) == 3:  # the columns follow Lava's order of flattening
        weights = swap_order(weights.reshape(-1, *input_shape[::-1])).reshape(weights.shape)
    return Dense(weights=weights, sign_mode=SignMode(layer.sign_mode), **shared)


def run_in_lava(case: Case, inputs: np.ndarray, drawn: list[tuple[Layer, Arrays]]) -> list[Arrays]:
    """Return the "spikes", "u" and "v" of every layer, each (samples, steps, ...) in torch's order."""
    # the samples follow one another, and a tail gives the last layer time to answer
    data = np.concatenate([*inputs, np.zeros((len(drawn), *case.input_shape), np.int32)])
    data = swap_order(data) if len(case.input_shape) == 3 else data
    source = RingBuffer(data=np.ascontiguousarray(np.moveaxis(data, 0, -1)))  # time is the last axis
    port, monitors = source.s_out, []
    for index, (layer, arrays) in enumerate(drawn):
        synapse = make_synapse(layer, arrays, case.num_message_bits if index == 0 else 0, tuple(port.shape))
        port = port if port.shape == synapse.s_in.shape else port.reshape(synapse.s_in.shape)
        port.connect(synapse.s_in)
        # Lava counts its steps from 1: the first activation of sample 0 reaches layer l at step l + 2
        bias_mant = swap_order(arrays["bias_mant"]) if layer.kind == "conv" else arrays["bias_mant"]
        neurons = LIFReset(
            shape=synapse.a_out.shape,
            du=layer.du,
            dv=layer.dv,
            vth=layer.vth,
            bias_mant=bias_mant,
            bias_exp=layer.bias_exp,
            name=layer.reset,
            reset_interval=case.steps,
            reset_offset=(index + 2) % case.steps,
        )
        synapse.a_out.connect(neurons.a_in)
        port = neurons.s_out
        for key, target in (("spikes", neurons.s_out), ("u", neurons.u), ("v", neurons.v)):
            monitors.append((index, key, Monitor()))
            monitors[-1][2].probe(target, len(data))
    source.run(condition=RunSteps(num_steps=len(data)), run_cfg=RunConfig(select_tag="fixed_pt"))
    records: list[Arrays] = [{} for _ in drawn]
    for index, key, monitor in monitors:
        (trace,) = next(iter(monitor.get_data().values())).values()  # {process: {variable: trace}}
        trace = swap_order(trace) if drawn[index][0].kind == "conv" else trace
        trace = trace[index + 1 :][: case.samples * case.steps].astype(bool if key == "spikes" else np.int32)
        records[index][key] = trace.reshape(case.samples, case.steps, *trace.shape[1:])
    source.stop()
    return records


def record_case(number: int) -> tuple[dict[str, object], Arrays]:
    """Draw and run a case; return its entry in the JSON list and its arrays."""
    case, rng = CASES[number], np.random.default_rng([SEED, number])
    present = rng.random((case.samples, case.steps, *case.input_shape)) < case.input_rate
    inputs = (present * rng.integers(1, 1 << max(case.num_message_bits, 1), present.shape)).astype(np.int32)
    shape, level, drawn = case.input_shape, max(float(inputs.mean()), 0.3), []
    for layer in case.layers:
        drawn.append(draw_layer(layer, shape, level, rng))
        shape, level = output_shape(layer, shape), 0.3
    arrays, entries = {f"{number}.input": inputs}, []
    records = run_in_lava(case, inputs, drawn)
    for index, ((layer, drawn_arrays), record) in enumerate(zip(drawn, records, strict=True)):
        arrays.update({f"{number}.{index}.{key}": array for key, array in {**drawn_arrays, **record}.items()})
        names = (
            "kind",
            "stride",
            "padding",
            "dilation",
            "groups",
            "weight_exp",
            "num_weight_bits",
            "sign_mode",
            "vth",
            "du",
            "dv",
            "bias_exp",
            "reset",
        )
        entry = {name: getattr(layer, name) for name in names}
        entries.append({**entry, "num_message_bits": case.num_message_bits if index == 0 else 0})
    return {"name": case.name, "steps": case.steps, "samples": case.samples, "layers": entries}, arrays


def _child(number: int, results: Connection) -> None:
    os.setsid()  # one process group with Lava's actors, so that the parent can end them all
    try:
        results.send(record_case(number))
    except BaseException:
        results.send(traceback.format_exc())


def record_case_watched(number: int) -> tuple[dict[str, object], Arrays]:
    """Call record_case in a child process: an exception in a Lava actor leaves its caller waiting forever.

    Raises:
        RuntimeError: the case failed, or did not end within TIMEOUT_S.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_child, args=(number, sender))
    child.start()
    result = receiver.recv() if receiver.poll(TIMEOUT_S) else f"no answer within {TIMEOUT_S} s"
    child.join(5.0)
    with contextlib.suppress(ProcessLookupError):  # usually nothing is left to end
        os.killpg(child.pid, signal.SIGKILL)
    if isinstance(result, str):
        raise RuntimeError(f"case {number} ({CASES[number].name}): {result}")
    return result


def main(path: str) -> None:
    """Run all cases and write the file."""
    entries, arrays = [], {}
    for number, case in enumerate(CASES):
        entry, of_case = record_case_watched(number)
        entries.append(entry)
        arrays.update(of_case)
        rates = [of_case[f"{number}.{index}.spikes"].mean() for index in range(len(case.layers))]
        print(f"{number:3d} {case.name}: firing rates", *(f"{rate:.2f}" for rate in rates), flush=True)
    np.savez_compressed(path, cases=json.dumps(entries), lava_version=version("lava-nc"), **arrays)
    print(f"{path}: {len(CASES)} cases, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
