"""Runs spiking networks in Lava. With the two files beside it, it needs numpy and lava-nc there, nothing else of ours.

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
from lava.magma.core.run_configs import Loihi2HwCfg
from lava.proc.lif.process import LIF, LIFRefractory, LIFReset
from lava.proc.monitor.process import Monitor
from lava.utils.loihi import is_installed
from lava_models import RunConfig
from lava_network import Network, load, swapped

DEAD_AFTER_S = 3.0
"""How long a process may lie dead before the run counts as broken: Lava itself would wait for it forever."""


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
