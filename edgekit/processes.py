"""Processes that end with the one that started them, however it ended."""

import contextlib
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable

LOOK_SECONDS = 0.5
END_SECONDS = 2.0
"""How long children have to end by themselves."""
_BE_SUBREAPER = 36
"""Of prctl(2): children of children that ended become this process's own."""


async def parent_ended(parent: int) -> None:
    """Wait until the process that started this one has ended.

    Args:
        parent: its id, as it told it.
    """
    import asyncio

    while os.getppid() == parent:
        await asyncio.sleep(LOOK_SECONDS)


def when_parent_ends(act: Callable[[], None]) -> None:
    """Watch the process that started this one, in a thread, and do something when it has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        act()

    threading.Thread(target=watch, daemon=True).start()


def adopt_children() -> None:
    """Let what children leave behind become children of this process, where the system can (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_BE_SUBREAPER, 1, 0, 0, 0)


def end_children() -> None:
    """End all children of this process, as those that an experiment's own code has left."""
    asked: set[int] = set()
    until = time.monotonic() + END_SECONDS
    while left := children(os.getpid()):
        late = time.monotonic() > until
        for child in left:
            if late or child not in asked:
                with contextlib.suppress(OSError):
                    os.kill(child, signal.SIGKILL if late else signal.SIGTERM)
                asked.add(child)
        with contextlib.suppress(OSError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)
        if time.monotonic() > until + END_SECONDS:
            return


def children(process: int, *, alive: bool = False) -> set[int]:
    """Return a process's children, where the system tells them (Linux).

    Args:
        process: its id.
        alive: without those that have ended, and wait for their parent to look.
    """
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{task}/children") as file:
                found |= {int(child) for child in file.read().split()}
    return {child for child in found if not (alive and _has_ended(child))}


def _has_ended(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
