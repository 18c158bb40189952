"""The runtimes that devices have, and where each of them can be run here."""

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from edgekit.environments import Environment
from edgekit.errors import ExportError, MissingExtraError

NAMES = ("ai-edge-litert", "tflite-runtime")

TFLITE_RUNTIME = Environment("tflite-runtime-2.14.0", "3.11", ("tflite-runtime==2.14.0", "numpy<2"))
"""The last release of TFLite under its old name, which many boards still have. It is built for numpy 1."""


def label(name: str) -> str:
    """Return a runtime's name and version."""
    return f"{name} {version(name)}" if name == "ai-edge-litert" else "tflite-runtime 2.14.0"


def executable(name: str) -> str:
    """Return the Python that has this runtime.

    Raises:
        ExportError: there is none, or the runtime is unknown; the message says how to get it.
    """
    if name == "ai-edge-litert":
        try:
            version(name)
        except PackageNotFoundError:
            raise MissingExtraError(name, "tflite") from None
        return sys.executable
    if name != "tflite-runtime":
        raise ExportError(f"runtime {name!r} is unknown; there are {', '.join(NAMES)}")
    if not TFLITE_RUNTIME.installed:
        raise ExportError("tflite-runtime is not installed; install it with: edgekit doctor --install tflite-runtime")
    return str(TFLITE_RUNTIME.executable)


def check(names: Sequence[str]) -> None:
    """See that every runtime is here, before any work.

    Raises:
        ExportError: one is not.
    """
    for name in names:
        executable(name)
