"""A network as Lava's processes, from its file.

Part of `worker.py`; it runs in Lava's Python.
"""

import json
import os

import numpy as np
from lava.proc.conv.process import Conv
from lava.proc.dense.process import DelayDense, Dense
from lava.proc.io.source import RingBuffer
from lava.proc.lif.process import LIF, LIFRefractory, LIFReset
from lava.proc.sdn.process import ActivationMode, Delta, Sigma, SigmaDelta
from lava.proc.sparse.process import DelaySparse, Sparse
from lava.utils.weightutils import SignMode
from scipy.sparse import csr_matrix, identity

SIGNS = {"mixed": SignMode.MIXED, "excitatory": SignMode.EXCITATORY, "inhibitory": SignMode.INHIBITORY}


def load(path):
    """Return (description, arrays) of a network's file."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(str(arrays["network"])), arrays


def order(shape):
    """Return, in Lava's order (W, H, C), where each neuron lies in ours, (C, H, W)."""
    places = np.arange(int(np.prod(shape))).reshape(shape)
    return (places.transpose(2, 1, 0) if len(shape) == 3 else places).ravel()


def swapped(maps):
    """Turn ours (..., C, H, W) into Lava's (..., W, H, C), or back."""
    return np.swapaxes(maps, -1, -3)


def lavas(shape):
    """Return a shape in Lava's order."""
    return tuple(int(n) for n in (shape[::-1] if len(shape) == 3 else shape))


class Network:
    """A network built of Lava's processes.

    Args:
        description, arrays: of the network's file.
        codes: (samples, steps, ...).
        pipelined: whether nothing resets the neurons; one sample only.
        float_refractory: whether refractory neurons are Lava's own floating-point ones.
        folder: where the neurons write their records.
        record: whether all do, or only the last layer's.
    """

    def __init__(self, description, arrays, codes, pipelined, float_refractory, folder, record):
        self.layers, self.arrays, self.pipelined = description["layers"], arrays, pipelined
        self.float_refractory, self.folder, self.record = float_refractory, folder, record
        self.voltage_is_answer = self.layers[-1]["model"] == "lif"
        self.input_shape, self.steps, self.samples = description["input_shape"], codes.shape[1], len(codes)
        self.total = self.samples * self.steps + (0 if pipelined else len(self.layers))
        data = codes.reshape(-1, *self.input_shape)
        self.data = swapped(data) if len(self.input_shape) == 3 else data
        self.outputs, self.neurons = [], []
        for number in range(len(self.layers)):
            self._add(number)

    def _add(self, number):
        layer = self.layers[number]
        neurons = self._make_neurons(number, layer)
        for place, synapse in enumerate(layer["synapses"]):
            source = synapse["source"]
            shape = self.input_shape if source < 0 else self.layers[source]["shape"]
            # A sample reaches layer l at step l + 2, counted from 1; what skips layers must wait for the others.
            late = 0 if self.pipelined else (number if source < 0 else number - 1 - source)
            port = self._input(late) if source < 0 else self.outputs[source]
            if source < 0:
                late = 0
            self._connect(number, place, synapse, port, shape, late, neurons)
        self.neurons.append(neurons)
        self.outputs.append(neurons.s_out)

    def _input(self, late):
        empty = np.zeros((self.total, *self.data.shape[1:]), np.int32)
        empty[late : late + len(self.data)] = self.data[: self.total - late]
        return RingBuffer(data=np.ascontiguousarray(np.moveaxis(empty, 0, -1))).s_out

    def _connect(self, number, place, synapse, port, shape, late, neurons):
        if synapse["kind"] == "direct":
            port.connect(neurons.a_in)
            return
        weight = self.arrays[f"{number}.{place}.weight"]
        target = self.layers[number]["shape"]
        bits = synapse["message_bits"]
        shared = {"weight_exp": synapse["weight_exponent"], "num_weight_bits": synapse["weight_bits"]}
        shared["num_message_bits"] = bits
        delay = synapse.get("delay", self.arrays.get(f"{number}.{place}.delay"))
        if synapse["kind"] == "conv":
            if late + delay:  # Lava's convolution has no delays: hold the messages back before it
                size = int(np.prod(shape))
                hold = DelaySparse(
                    weights=identity(size, np.int32, "csr"),
                    delays=identity(size, int, "csr") * (late + delay - 1),
                    max_delay=late + delay - 1,
                    sign_mode=SignMode.EXCITATORY,
                    num_message_bits=bits,
                )
                port.reshape((size,)).connect(hold.s_in)
                port = hold.a_out.reshape(lavas(shape))
            made = Conv(  # Lava convolves where torch correlates, hence the flip; its pairs are (W, H)
                weight=swapped(weight)[:, ::-1, ::-1].copy(),
                input_shape=lavas(shape),
                stride=synapse["stride"][::-1],
                padding=synapse["padding"][::-1],
                dilation=synapse["dilation"][::-1],
                groups=synapse["groups"],
                **shared,
            )
            port.connect(made.s_in)
            made.a_out.connect(neurons.a_in)
            return
        shared["sign_mode"] = SIGNS[synapse["sign"]]
        rows, columns = order(target), order(shape)
        if synapse["kind"] == "sparse":
            starts = self.arrays[f"{number}.{place}.starts"]
            where = (self.arrays[f"{number}.{place}.columns"], starts)
            waits = np.broadcast_to(np.asarray(delay, int) + late, weight.shape)
            weight, waits = (csr_matrix((v, *where), shape=synapse["shape"])[rows][:, columns] for v in (weight, waits))
            if waits.nnz and waits.max():
                made = DelaySparse(weights=weight, delays=waits, **shared)
            else:
                made = Sparse(weights=weight, **shared)
        else:
            waits = np.broadcast_to(np.asarray(delay, int) + late, weight.shape)[rows][:, columns]
            weight = weight[rows][:, columns]
            made = (
                DelayDense(weights=weight, delays=waits, **shared) if waits.any() else Dense(weights=weight, **shared)
            )
        flat = (int(np.prod(shape)),)
        (port if tuple(port.shape) == flat else port.reshape(flat)).connect(made.s_in)
        to = lavas(target)
        (made.a_out if tuple(made.a_out.shape) == to else made.a_out.reshape(to)).connect(neurons.a_in)

    def _make_neurons(self, number, layer):
        settings, bias, shape = layer["neurons"], self.arrays[f"{number}.bias"], lavas(layer["shape"])
        bias = swapped(bias) if bias.ndim == 3 else bias
        if layer["model"] == "sigma-delta":
            exponents = {"spike_exp": settings["spike_exponent"], "state_exp": settings["state_exponent"]}
            encoder = {"vth": settings["threshold"], "cum_error": settings["cumulative"], **exponents}
            if settings["kind"] == "sigma":
                return Sigma(shape=shape)
            if settings["kind"] == "delta":
                return Delta(shape=shape, **encoder)
            mode = ActivationMode.RELU if settings["activation"] == "relu" else ActivationMode.UNIT
            return SigmaDelta(shape=shape, bias=bias, act_mode=mode, **encoder)
        if settings["refractory"] and self.float_refractory:
            return self._recorded(number, self._float_refractory(settings, bias, shape))
        shared = {
            "shape": shape,
            "du": settings["current_decay"],
            "dv": settings["voltage_decay"],
            "vth": settings["threshold"],
            "bias_mant": bias,
            "bias_exp": settings["bias_exponent"],
        }
        if self.pipelined:
            made = LIF(**shared)
        else:
            made = LIFReset(reset_interval=self.steps, reset_offset=(number + 2) % self.steps, **shared)
        made.proc_params["reset"], made.proc_params["rest"] = settings["reset"], settings["refractory"]
        return self._recorded(number, made)

    def record_path(self, number):
        """Return where a layer's record goes."""
        return os.path.join(self.folder, f"layer{number}.npz")

    def _recorded(self, number, made):
        last = number == len(self.layers) - 1
        made.proc_params["keep"] = (self.record_path(number), self.total) if self.record or last else None
        return made

    def _float_refractory(self, settings, bias, shape):
        """Lava's own refractory neurons, in floats, which are exact where nothing decays; in units of 2^-6."""
        if settings["current_decay"] != 4095 or settings["voltage_decay"] or settings["reset"] != "hard":
            raise ValueError("Lava's floating-point refractory neurons are exact only without decay")
        exponent = settings["bias_exponent"]
        return LIFRefractory(
            shape=shape,
            du=1.0,
            dv=0.0,
            vth=float(settings["threshold"]),
            bias_mant=(bias << max(exponent, 0) >> max(-exponent, 0)) / 64,
            refractory_period=settings["refractory"],
        )
