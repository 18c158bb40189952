"""Processes that end with the one that started them, however it ended."""

import asyncio
import os
import threading
import time
from collections.abc import Callable

LOOK_SECONDS = 0.5


async def parent_ended(parent: int) -> None:
    """Wait until the process that started this one has ended.

    Args:
        parent: its id, as it told it.
    """
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
