"""Lava in a process of its own, on a leash: jobs go in as files, and whatever happens, nothing of it is left behind."""

import contextlib
import json
import select
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import LavaError
from edgekit.neuromorphic.emulator import Record
from edgekit.neuromorphic.lava.environment import LAVA
from edgekit.neuromorphic.loihi import Integers, LoihiNetwork, save
from edgekit.runfolder import write_whole

TIMEOUT_S = 600.0
START_S = 120.0
AGAIN = "`edgekit spike setup-lava --again` makes it anew"
SCRIPTS = ("worker.py", "lava_models.py", "lava_network.py")
"""What runs in Lava's Python; the first is started."""


def write_scripts(folder: Path, name: str = SCRIPTS[0]) -> Path:
    """Write what runs in Lava's Python into a folder; return the script to start, which is called `name` there."""
    source = files("edgekit.neuromorphic.lava")
    for script in SCRIPTS:
        write_whole(folder / (name if script == SCRIPTS[0] else script), source.joinpath(script).read_bytes())
    return folder / name


class Ran:
    """What Lava found: `scores` (samples, ...), `records` by layer, and the `seconds` its steps took."""

    def __init__(self, arrays: dict[str, NDArray[Any]], layers: int) -> None:
        self.scores: Integers = arrays["v"]
        self.seconds = float(arrays["seconds"])
        self.records: list[Record] = []
        for number in range(layers):
            if f"{number}.spikes" not in arrays:
                break
            spikes = arrays[f"{number}.spikes"]
            states = [arrays.get(f"{number}.{kind}", np.zeros_like(spikes)) for kind in ("u", "v")]
            self.records.append(Record(spikes, states[0], states[1]))


class Lava:
    """A Lava process that runs networks, one after the other. To be used as a context.

    Args:
        timeout: seconds that one run may take; a hung Lava waits forever.

    Raises:
        LavaError: Lava is not installed, or does not start.
    """

    def __init__(self, timeout: float = TIMEOUT_S) -> None:
        self.timeout = timeout
        if not LAVA.installed:
            raise LavaError(
                "Lava is not installed; install it, in a Python 3.10 of its own, with: edgekit spike setup-lava"
            )
        self._folder = tempfile.TemporaryDirectory(prefix="edgekit-lava-")
        self._log = (Path(self._folder.name) / "worker.log").open("wb")
        script = write_scripts(Path(self._folder.name))  # a folder of its own: Lava looks through those of its code
        try:
            self._process = subprocess.Popen(
                [str(LAVA.executable), "-u", str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                cwd=self._folder.name,
                text=True,
                start_new_session=True,  # a Ctrl-C for us is not for it: it ends when its input does
            )
        except OSError as error:
            self._log.close()
            self._folder.cleanup()
            raise LavaError(f"Lava's Python does not start ({error.strerror}); {AGAIN}") from None
        try:
            self._answer(START_S)
        except BaseException:
            self._process.kill()
            self.close()
            raise

    def __enter__(self) -> "Lava":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and whatever it was doing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()
        self._folder.cleanup()

    def run(
        self,
        network: LoihiNetwork,
        codes: Integers,
        *,
        record: bool = False,
        pipelined: bool = False,
        float_refractory: bool = False,
    ) -> Ran:
        """Run samples through a network.

        Args:
            network: the network.
            codes: (samples, ...) for the same at every step, or (samples, steps, ...).
            record: keep spikes, currents and voltages of every step.
            pipelined: run plain neurons that nothing resets, from the first step on; one sample only.
            float_refractory: use Lava's own refractory neurons, which it has in floats only.

        Raises:
            LavaError: Lava failed, died or hung; why is in the message, and nothing of it is left running.
        """
        if pipelined and len(codes) != 1:
            raise ValueError("a pipelined run takes one sample: nothing separates it from the next")
        if not pipelined and any(
            np.any(np.asarray(synapse.delay) > 0) for layer in network.layers for synapse in layer.synapses
        ):
            raise LavaError(
                "the network has delays, and Lava's resets do not stop spikes that are still on their way: "
                "it can be run pipelined, one sample at a time"
            )
        folder = Path(self._folder.name)
        paths = {name: folder / name for name in ("network.npz", "codes.npy", "out.npz")}
        save(network, paths["network.npz"])
        np.save(paths["codes.npy"], network.over_time(codes), allow_pickle=False)
        paths["out.npz"].unlink(missing_ok=True)
        job = {
            "network": str(paths["network.npz"]),
            "codes": str(paths["codes.npy"]),
            "out": str(paths["out.npz"]),
            "record": record,
            "pipelined": pipelined,
            "hardware": False,
            "float_refractory": float_refractory,
            "timeout": self.timeout,
        }
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait()
            raise LavaError(f"the Lava process is gone: {self._last_words()}") from None
        answer = self._answer(self.timeout + START_S)
        if "error" in answer:
            raise LavaError(f"Lava could not run the network: {answer['error']}")
        with np.load(paths["out.npz"], allow_pickle=False) as file:
            return Ran({name: file[name] for name in file.files}, len(network.layers))

    def _answer(self, limit: float) -> dict[str, Any]:
        """Wait for the worker's next line, for at most so many seconds."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], limit)
        if not ready:
            raise LavaError(f"the Lava process says nothing for {limit:g} s; {AGAIN}")
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise LavaError(f"the Lava process ended: {self._last_words()}; {AGAIN}")
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise LavaError(f"the Lava process says {line.strip()[:80]!r}; {AGAIN}") from None
        return answer

    def _last_words(self) -> str:
        self._log.flush()
        lines = Path(self._log.name).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"code {self._process.returncode}"
