"""The runtimes that devices have, and where each of them can be run here."""

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from edgekit.environments import Environment
from edgekit.errors import ExportError, MissingExtraError

NAMES = ("ai-edge-litert", "tflite-runtime", "tflite-micro")
MICRO = "tflite-micro"
FOUR_BITS = ("int4",)
"""Presets with weights of four bits, which ai-edge-litert alone has kernels for."""
HYBRID = ("float16", "int8-weights", "int8-dynamic", "int8-mixed")
"""Presets that TFLite Micro has no kernels for: they mix integers and floats within an operator."""

TFLITE_RUNTIME = Environment("tflite-runtime-2.14.0", "3.11", ("tflite-runtime==2.14.0", "numpy<2"))
"""The last release of TFLite under its old name, which many boards still have. It is built for numpy 1."""


def label(name: str) -> str:
    """Return a runtime's name and version."""
    return f"{name} {version(name)}" if name != "tflite-runtime" else "tflite-runtime 2.14.0"


def executable(name: str) -> str:
    """Return the Python that has this runtime.

    Raises:
        ExportError: there is none, or the runtime is unknown; the message says how to get it.
    """
    if name in ("ai-edge-litert", MICRO):
        if not _is_here(name):
            raise MissingExtraError(name, "tflite" if name != MICRO else "micro")
        return sys.executable
    if name != "tflite-runtime":
        raise ExportError(f"runtime {name!r} is unknown; there are {', '.join(NAMES)}")
    if not TFLITE_RUNTIME.installed:
        raise ExportError("tflite-runtime is not installed; install it with: edgekit doctor --install tflite-runtime")
    return str(TFLITE_RUNTIME.executable)


def with_signatures(names: Sequence[str]) -> list[str]:
    """Return the runtimes that know a file's signatures, for files of several; at least ai-edge-litert."""
    return [name for name in names if name != MICRO] or [NAMES[0]]


def installed() -> list[str]:
    """Return the runtimes that are here."""
    return [name for name in NAMES if (TFLITE_RUNTIME.installed if name == "tflite-runtime" else _is_here(name))]


def check(names: Sequence[str], presets: Sequence[str] = ()) -> None:
    """See that every runtime is here, and can run these presets, before any work.

    Raises:
        ExportError: one is not.
    """
    for name in names:
        executable(name)
    if MICRO in names and (hybrid := [preset for preset in presets if preset in HYBRID]):
        raise ExportError(
            f"{MICRO} has no kernels for {hybrid[0]}, which mixes integers and floats: leave it out of export.presets, "
            f"or {MICRO} out of export.runtimes"
        )

    if four := [preset for preset in presets if preset in FOUR_BITS]:
        for name in names:
            if name != NAMES[0]:
                raise ExportError(
                    f"{name} has no kernels for {four[0]}, whose weights have four bits: leave it out of "
                    f"export.presets, or {name} out of export.runtimes"
                )


def _is_here(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
