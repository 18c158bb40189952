"""Runs spiking networks in Lava. This file alone is what the other Python needs: numpy and lava-nc, nothing of ours.

    python worker.py                         serve jobs, one JSON object a line: see `serve`
    python worker.py NETWORK CODES OUT       run one network; with --hardware on a Loihi 2 chip

NETWORK is an .npz that edgekit wrote (`loihi.save`), CODES an .npy of (samples, steps, ...), OUT an .npz with `v`, the
readout's final voltages. `--hardware` uses `Loihi2HwCfg`. It was prepared from Lava's documentation and NOT RUN ON A
CHIP: Intel's extension of Lava, which has the models for the chip, is given to members of its research community only.
"""

import argparse
import json
import os
import select
import signal
import sys
import tempfile
import threading
import time
import traceback

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2HwCfg, Loihi2SimCfg
from lava.proc.conv.process import Conv
from lava.proc.dense.process import DelayDense, Dense
from lava.proc.io.source import RingBuffer
from lava.proc.lif.models import PyLifModelBitAcc, PyLifRefractoryModelFloat, PyLifResetModelBitAcc
from lava.proc.lif.process import LIF, LIFRefractory, LIFReset
from lava.proc.monitor.process import Monitor
from lava.proc.sdn.process import ActivationMode, Delta, Sigma, SigmaDelta
from lava.proc.sparse.process import DelaySparse, Sparse
from lava.utils.loihi import is_installed
from lava.utils.weightutils import SignMode
from scipy.sparse import csr_matrix, identity

SIGNS = {"mixed": SignMode.MIXED, "excitatory": SignMode.EXCITATORY, "inhibitory": SignMode.INHIBITORY}
DEAD_AFTER_S = 3.0
"""How long a process may lie dead before the run counts as broken: Lava itself would wait for it forever."""


class Soft:
    """A neuron that fires keeps what exceeds its threshold."""

    def reset_voltage(self, spike_vector):
        """Take one threshold off the voltage of the neurons that fired, however far above it they were."""
        self.v[spike_vector] -= np.int32(np.ravel(self.effective_vth)[0])


class Refractory:
    """Lava's rule of its floating-point LIFRefractory, over the fixed-point arithmetic of its other models."""

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self.rest = int(proc_params["rest"])
        self.rest_end = None

    def run_spk(self):
        """Forget the rest where a sample begins."""
        interval = getattr(self, "reset_interval", 0)
        if self.rest_end is None or (interval and self.time_step % interval == self.reset_offset):
            self.rest_end = np.zeros(self.v.shape, int)
        super().run_spk()

    def subthr_dynamics(self, activation_in):
        """Hold the voltage of neurons at rest."""
        before, resting = self.v.copy(), self.rest_end >= self.time_step
        super().subthr_dynamics(activation_in)
        self.v[resting] = before[resting]

    def reset_voltage(self, spike_vector):
        """Send the neurons that fired to rest."""
        super().reset_voltage(spike_vector)
        self.rest_end[spike_vector] = self.time_step + self.rest


class Recorder:
    """Keeps every step's spikes, currents and voltages, and writes them when the last step is done.

    Lava's own monitors say the same, but take 0.1 ms for each value.
    """

    def __init__(self, proc_params):
        super().__init__(proc_params)
        self.path, self.total = proc_params["keep"]
        self.kept = []

    def reset_voltage(self, spike_vector):
        """Keep which neurons fired."""
        self.fired = np.array(spike_vector, np.int32)
        super().reset_voltage(spike_vector)

    def process_spikes(self, spike_vector):
        """Keep them, as the floating-point refractory model calls it."""
        self.fired = np.array(spike_vector, np.int32)
        super().process_spikes(spike_vector)

    def run_spk(self):
        """Keep the step."""
        super().run_spk()
        self.kept.append((self.fired, self.u.copy(), self.v.copy()))
        if self.time_step == self.total:
            spikes, u, v = (np.stack(kind) for kind in zip(*self.kept, strict=True))
            np.savez(self.path, spikes=spikes, u=u, v=v)


class SoftLif(Soft, PyLifModelBitAcc):
    """Lava's LIF with a soft reset."""


class SoftLifReset(Soft, PyLifResetModelBitAcc):
    """Lava's LIFReset with a soft reset."""


MODELS = {
    ("LIF", "hard"): PyLifModelBitAcc,
    ("LIF", "soft"): SoftLif,
    ("LIFReset", "hard"): PyLifResetModelBitAcc,
    ("LIFReset", "soft"): SoftLifReset,
}


class RunConfig(Loihi2SimCfg):
    """Lava's own fixed-point models, with the additions above for what it lacks.

    Chosen here, since Lava would execute every .py file in the folder of a Process class of our own.
    """

    def select(self, process, proc_models):
        """Return the model that runs a process."""
        settings = process.proc_params
        if isinstance(process, LIFRefractory):
            model = PyLifRefractoryModelFloat
        elif isinstance(process, (LIF, LIFReset)):
            model = MODELS[type(process).__name__, settings["reset"]]
            if settings["rest"]:
                model = type("Resting" + model.__name__, (Refractory, model), {})
        else:
            return super().select(process, proc_models)
        return type("Recorded" + model.__name__, (Recorder, model), {}) if settings["keep"] else model


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


def run(description, arrays, codes, folder, record, pipelined, hardware=False, float_refractory=False):
    """Run a network in Lava.

    Args:
        description, arrays: of the network's file.
        codes: (samples, steps, ...).
        folder: for records while it runs.
        record, pipelined, hardware, float_refractory: see `serve`.

    Returns:
        `v`: the readout's final voltages, (samples, ...); with `record` also `LAYER.spikes`, `LAYER.u`, `LAYER.v`, each
        (samples, steps, ...); `seconds` of the steps.
    """
    network = Network(description, arrays, codes, pipelined, float_refractory, folder, record and not hardware)
    watched, last = [], len(network.neurons) - 1
    for number, neurons in enumerate(network.neurons):
        if (record or number == last) and (hardware or not isinstance(neurons, (LIF, LIFReset, LIFRefractory))):
            states = {"spikes": neurons.s_out}
            for kind, names in (("u", ("u", "sigma")), ("v", ("v", "act"))):
                for name in names:
                    if hasattr(neurons, name):
                        states[kind] = getattr(neurons, name)
            for kind in states if record else (("v",) if hardware else ("spikes",)):
                watched.append((number, kind, Monitor()))
                watched[-1][2].probe(states[kind], network.total)
    config = Loihi2HwCfg() if hardware else RunConfig(select_tag="fixed_pt")
    first = network.neurons[0]
    advance(first, 1, config)
    started = time.perf_counter()
    if network.total > 1:
        advance(first, network.total - 1, config)
    seconds = (time.perf_counter() - started) * network.total / max(1, network.total - 1)
    traces = {}
    for number, kind, monitor in watched:
        (trace,) = next(iter(monitor.get_data().values())).values()  # {process: {variable: trace}}
        traces[number, kind] = trace
    first.stop()
    for number in range(len(network.neurons)):
        path = network.record_path(number)
        if os.path.exists(path):
            with np.load(path) as file:
                scale = 64 if isinstance(network.neurons[number], LIFRefractory) else 1
                traces.update({(number, kind): file[kind] * (1 if kind == "spikes" else scale) for kind in file.files})
    found = {"seconds": np.array(seconds)}
    for (number, kind), trace in traces.items():
        trace = swapped(trace) if len(description["layers"][number]["shape"]) == 3 else trace
        start = 0 if pipelined else number + 1
        trace = trace[start : start + network.samples * network.steps]
        trace = trace.reshape(network.samples, network.steps, *trace.shape[1:])
        found[f"{number}.{kind}"] = np.rint(trace).astype(np.int32)
    found["v"] = found[f"{last}.v" if (last, "v") in traces and network.voltage_is_answer else f"{last}.spikes"][:, -1]
    return found


def advance(process, steps, config):
    """Run some steps; if one of Lava's processes fails, say with what."""
    try:
        process.run(condition=RunSteps(num_steps=steps), run_cfg=config)
    except RuntimeError:
        for actor in process.runtime._messaging_infrastructure.actors:
            if getattr(actor, "exception", None):
                print(actor.exception[1], file=sys.stderr)
        raise


def work(job):
    """Do one job: run its network, and write the arrays."""
    description, arrays = load(job["network"])
    codes = np.load(job["codes"], allow_pickle=False).astype(np.int32)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(job["out"])) as folder:
        options = {name: job[name] for name in ("record", "pipelined", "hardware", "float_refractory")}
        found = run(description, arrays, codes, folder, **options)
    with open(job["out"] + ".part", "wb") as file:
        np.savez(file, **found)
    os.replace(job["out"] + ".part", job["out"])


def session_processes(session):
    """Return (pid, state, whether it is Python's resource tracker) of a session's processes."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                tracker = b"resource_tracker" in file.read()
        except OSError:
            continue
        if int(fields[3]) == session:
            found.append((int(entry), fields[0], tracker))
    return found


def end_session(session):
    """Kill a session's processes; the resource tracker goes last, by itself, and removes their shared memory."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        alive = [(pid, tracker) for pid, state, tracker in session_processes(session) if state != "Z"]
        others = [pid for pid, tracker in alive if not tracker]
        for pid in others or ([pid for pid, _ in alive] if deadline - time.monotonic() < 5 else []):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not alive:
            return
        time.sleep(0.02)


def end_with(leash):
    """End this job's session when its supervisor is gone: only that held the pipe's other end."""
    if os.read(leash, 1) == b"":
        for pid, _, tracker in session_processes(os.getsid(0)):
            if not tracker and pid != os.getpid():
                os.kill(pid, signal.SIGKILL)
        os._exit(1)


def supervise(job):
    """Run a job in a session of its own, and answer for its end, whatever it is.

    Returns:
        `{"ok": true}`, or `{"error": why}`; nothing of the job is left running, and no shared memory.
    """
    leash, held = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.close(held)
        threading.Thread(target=end_with, args=(leash,), daemon=True).start()
        log = os.open(job["out"] + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        try:
            work(job)
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    os.close(leash)
    deadline = time.monotonic() + job["timeout"]
    dead_since, why, code = None, None, None
    while why is None and code is None:
        ready, _, _ = select.select([sys.stdin], [], [], 0.02)
        if ready:  # edgekit writes its next job only after our answer: this is the end of its pipe
            why = "edgekit went away"
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        elif time.monotonic() > deadline:
            why = f"it gave no answer within {job['timeout']:g} s"
        elif any(state == "Z" for _, state, _ in session_processes(child)):
            dead_since = dead_since or time.monotonic()
            if time.monotonic() - dead_since > DEAD_AFTER_S:
                why = "one of its processes died"
        else:
            dead_since = None
    end_session(child)
    os.close(held)
    if code is None:
        os.waitpid(child, 0)
    if code == 0 and os.path.exists(job["out"]):
        return {"ok": True}
    with open(job["out"] + ".log", errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    cause = next((line for line in lines if "Error:" in line and "File" not in line), "")
    why = why or (
        f"it ended with code {code}" if code is not None and code >= 0 else f"it was killed by signal {-code}"
    )
    return {"error": f"{why}: {cause}" if cause else why}


def serve():
    """Read jobs from standard input and answer each on standard output, both one JSON object a line.

    A job: `network`, `codes`, `out` (paths), `record`, `pipelined`, `hardware`, `float_refractory` (booleans),
    `timeout` (seconds). The end of the input ends the server.
    """
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(supervise(json.loads(line))), flush=True)


def require_chip(description):
    """End with one line if there is no chip here, or the network needs what the chip's own neurons lack."""
    if not is_installed():
        sys.exit("no Loihi 2 here: Intel's extension of Lava for the chip (lava-loihi) is not installed")
    for layer in description["layers"][:-1]:
        if layer["neurons"].get("reset") == "soft" or layer["neurons"].get("refractory"):
            sys.exit(f"layer {layer['name']!r}: the chip's LIF resets hard; make the network with reset=hard")


def main():
    """Serve, or run one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("network", "codes", "out"):
        parser.add_argument(name, nargs="?")
    parser.add_argument("--hardware", action="store_true", help="run on a Loihi 2 chip")
    given = parser.parse_args()
    if given.network is None:
        serve()
        return
    description, arrays = load(given.network)
    codes = np.load(given.codes, allow_pickle=False).astype(np.int32)
    if given.hardware:
        require_chip(description)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(given.out, **run(description, arrays, codes, folder, False, False, given.hardware))


if __name__ == "__main__":
    main()
