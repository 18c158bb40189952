"""A process that trains shards for another one (`processes.py`)."""

import os
import signal
import socket

from edgekit.errors import EdgekitError
from edgekit.processes import when_parent_ends
from edgekit.server.engines import parcels
from edgekit.server.engines.shards import Worker, failed


def main(line: int) -> None:
    """Take the recipe of clients, then do what is handed over until the other side ends.

    Args:
        line: descriptor of a socket to it.
    """
    os.dup2(2, 1)  # what an experiment's own code prints is no result of the command's
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: whoever began this ends it
    when_parent_ends(lambda: os._exit(0))
    made: Worker | None = None
    with socket.socket(fileno=line) as other:
        try:
            recipe = parcels.receive(other, mapped=True)
            while True:
                try:
                    common, shard = parcels.receive(other, mapped=True), parcels.receive(other, mapped=True)
                    made = made or Worker(recipe)
                    answer = made(common, shard)
                except EdgekitError as error:
                    answer = failed(error)
                try:
                    parcels.send(other, answer)
                except EdgekitError as error:
                    parcels.send(other, failed(error))
        except (EOFError, ConnectionError):
            os._exit(0)  # whatever threads an experiment's own code has left
