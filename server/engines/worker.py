"""A process that trains shards for another one (`processes.py`)."""

import os
import signal
import socket

from edgekit.errors import EdgekitError
from edgekit.processes import when_parent_ends
from edgekit.server.engines import parcels
from edgekit.server.engines.shards import Answered, Worker


def main(line: int) -> None:
    """Take the recipe of clients, then do what is handed over until the other side ends.

    Args:
        line: descriptor of a socket to it.
    """
    os.dup2(2, 1)  # what an experiment's own code prints is no result of the command's
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: whoever began this ends it
    when_parent_ends(lambda: os._exit(0))
    worker: Worker | None = None
    with socket.socket(fileno=line) as other:
        try:
            recipe = parcels.receive(other)
            while True:
                common, shard = parcels.receive(other), parcels.receive(other)
                try:
                    worker = worker or Worker(recipe)
                    answer = worker(common, shard)
                except EdgekitError as error:
                    answer = Answered(problem=error)
                parcels.send(other, answer)
        except (EOFError, ConnectionError):
            return
