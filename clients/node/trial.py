"""A training graph is tried in a process of its own before it is loaded in the node's: `python -m ….trial < GRAPH`.

Whoever made it could crash a runtime, or let it take all memory or time. In its trial it has little of each, and may
write no file; every signature is called once.
"""

import resource
import subprocess
import sys
from pathlib import Path

from edgekit.errors import ModelError

MEMORY_BYTES = 1 << 30
"""Beside what Python and the runtime take."""
SECONDS = 120
"""Of the processor's time; of real time five times as long."""
OPEN_FILES = 64


def check(content: bytes, mark: Path) -> None:
    """Try a training graph, once.

    Args:
        content: the file.
        mark: left behind when it has passed.

    Raises:
        ModelError: it crashes, or takes too much of the device.
    """
    if mark.exists():
        return
    command = [sys.executable, "-P", "-m", __name__]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=5 * SECONDS, check=False)
        how = f"by signal {-done.returncode}" if done.returncode < 0 else _last_line(done.stderr)
        ended = done.returncode
    except subprocess.TimeoutExpired:
        ended, how = 1, f"after {5 * SECONDS} s"
    if ended:
        raise ModelError(f"the training graph failed in its trial ({how}): nothing of it was loaded")
    mark.touch()


def _last_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip().splitlines() or ["no message"])[-1][:200]


def limit() -> None:
    """Take from this process what a training graph does not need."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    for what, value in (
        (resource.RLIMIT_AS, most),
        (resource.RLIMIT_CPU, SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (value, value))


def main() -> None:
    """Call every signature of the graph on stdin."""
    import numpy as np

    from edgekit.clients.litert_runtime import interpreter_of

    content = sys.stdin.buffer.read()
    limit()
    interpreter = interpreter_of(content)
    for name in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(name)
        runner(**{key: np.zeros(of["shape"], of["dtype"]) for key, of in runner.get_input_details().items()})


if __name__ == "__main__":
    main()
