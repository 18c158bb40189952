"""What our long-lived processes need of the system: a port of their own, and to end with their parents."""

import asyncio
import os
import socket

from edgekit.errors import ServeError

LOOK_SECONDS = 0.5


async def parent_ended(parent: int) -> None:
    """Wait until the process that started this one has ended, however it ended.

    Args:
        parent: its id, as it told it.
    """
    while os.getppid() == parent:
        await asyncio.sleep(LOOK_SECONDS)


def check_port(host: str, port: int, what: str) -> None:
    """See that a port can be listened on, before anything is begun that needs it.

    Args:
        host: address to bind.
        port: wanted.
        what: would listen there.

    Raises:
        ServeError: somebody else does.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServeError(
                f"cannot listen on {host} port {port} ({error.strerror}): is another {what} running? "
                "Choose another with --port"
            ) from None
