"""Processes that belong to others."""

import asyncio
import os

LOOK_SECONDS = 0.5


async def parent_ended(parent: int) -> None:
    """Wait until the process that started this one has ended, however it ended.

    Args:
        parent: its id, as it told it.
    """
    while os.getppid() == parent:
        await asyncio.sleep(LOOK_SECONDS)
