"""Several processes that train a round's shards at once, on one machine."""

import contextlib
import json
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from edgekit.errors import TrainingError
from edgekit.server.engines import parcels
from edgekit.server.engines.shards import Answered, Common, Shard
from edgekit.server.engines.simulation import Recipe

BEGIN = """import json, sys
sys.path[:] = json.loads(sys.argv[2])  # modules are found where this process finds them
from edgekit.server.engines.worker import main
main(int(sys.argv[1]))
"""
END_SECONDS = 2.0
"""For a process that has closed its line to end by itself."""
MOST_LOSSES = 3
"""Processes that one shard may cost: what ends each that tries it would end all."""


class Processes:
    """Processes with the same clients, which end with this one.

    Shards are handed out in their order to whoever is free; one whose process ended goes to the next.

    Args:
        recipe: of the clients.
        count: of the processes.
        say: called with a line for people.
    """

    def __init__(self, recipe: Recipe, count: int, say: Callable[[str], None]) -> None:
        self._recipe, self._count, self._say = recipe, count, say
        self._made: list[_Process] = []

    def __str__(self) -> str:
        return f"{self._count} processes"

    def each(self, common: Common, shards: Sequence[Shard]) -> Iterator[Answered]:
        """Return what comes of each shard, in their order."""
        self._begin(min(self._count, len(shards)))
        waiting, losses = list(range(len(shards))), [0] * len(shards)
        found: dict[int, Answered] = {}
        with parcels.shared(common) as both, selectors.DefaultSelector() as ready:
            for process in self._made:
                ready.register(process.line, selectors.EVENT_READ, process)
            for place in range(len(shards)):
                while place not in found:
                    for process in self._made:
                        if process.busy is None and waiting:
                            process.give(waiting.pop(0), both, shards)
                    for key, _ in ready.select():
                        process, number = key.data, key.data.busy
                        try:
                            answer = process.taken()
                        except EOFError:
                            ready.unregister(process.line)
                            self._made.remove(process)
                            if number is not None:
                                losses[number] += 1
                                waiting.insert(0, number)
                            told = process.ended()
                            if number is not None:
                                if losses[number] >= MOST_LOSSES:
                                    raise TrainingError(f"a process that trains clients {told}") from None
                                self._say(f"a process that trains clients {told}: its shard is done again")
                            self._begin(len(self._made) + 1)
                            ready.register(self._made[-1].line, selectors.EVENT_READ, self._made[-1])
                            continue
                        if number is not None:
                            found[number] = answer
                yield found.pop(place)

    def close(self) -> None:
        """End the processes."""
        for process in self._made:
            process.end()
        self._made.clear()

    def _begin(self, count: int) -> None:
        if len(self._made) >= count:
            return
        if not self._made:
            self._say(f"starting {count} processes that train")
        with parcels.shared(self._recipe) as recipe:
            while len(self._made) < count:
                self._made.append(_Process(recipe.fileno()))


class _Process:
    """One process.

    Args:
        recipe: descriptor of a file with the clients' recipe.

    Attributes:
        line: to it.
        busy: the shard that it does.
    """

    def __init__(self, recipe: int) -> None:
        self.line, its = socket.socketpair()
        with its:
            command = [sys.executable, "-P", "-c", BEGIN, str(its.fileno()), json.dumps(sys.path)]
            self._child = subprocess.Popen(command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)
        socket.send_fds(self.line, [b"."], [recipe])
        self.busy: int | None = None

    def give(self, number: int, common: Any, shards: Sequence[Shard]) -> None:
        """Have it do a shard."""
        self.busy = number
        with contextlib.suppress(OSError):  # it has ended, which is seen when its answer is waited for
            socket.send_fds(self.line, [b"."], [common.fileno()])
            parcels.send(self.line, shards[number])

    def taken(self) -> Answered:
        """Return what came of the shard.

        Raises:
            EOFError: it has ended.
        """
        found: Answered = parcels.receive(self.line, mapped=False)
        self.busy = None
        return found

    def ended(self) -> str:
        """Say how it ended, which it does now if it has not."""
        self.line.close()
        try:
            code = self._child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:  # as with a thread of the experiment's own that goes on
            self.end()
            return "does not answer any more"
        if code >= 0:
            return f"ended with {code}"
        killed = " (is there enough memory?)" if code == -signal.SIGKILL else ""
        return f"was ended by {signal.Signals(-code).name}{killed}"

    def end(self) -> None:
        """End it."""
        self.line.close()
        self._child.kill()
        self._child.wait()
