"""Ray actors that train a round's shards: on the cores of this machine, or on the machines of a cluster."""

import contextlib
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import EdgekitError, ExperimentError, TrainingError
from edgekit.runfolder import write_whole
from edgekit.server.engines import parcels
from edgekit.server.engines.processes import MOST_LOSSES
from edgekit.server.engines.shards import Answered, Common, Shard, Worker, failed, versions
from edgekit.server.engines.simulation import Recipe

REACH_SECONDS = 5.0
"""For a cluster's address to answer."""
START_SECONDS, LATER_SECONDS = 300.0, 20.0
"""For the first actor to start, and for others once there is one."""
MARK = "shared"
"""A file in the run's folder, by which machines tell that they see it."""


class Actors:
    """Actors with the same clients.

    Shards are handed out in their order to whoever is free; one whose actor was lost goes to the next.

    Args:
        recipe: of the clients.
        address: of a running cluster, as `ray start` tells it; "" begins one on this machine.
        count: of the actors; 1 is as many as the cluster has cores.
        say: called with a line for people.

    Raises:
        ExperimentError: Ray is not installed, the cluster cannot be used, or has other versions.
    """

    def __init__(self, recipe: Recipe, address: str, count: int, say: Callable[[str], None]) -> None:
        self._recipe, self._say = recipe, say
        self._actors: list[Any] = []
        self._held: tuple[Any, str] | None = None
        self._ray = _joined(address, count, say)
        cores = int(self._ray.cluster_resources().get("CPU", 0))
        if not cores:
            raise ExperimentError("federation.engine = 'ray': its cluster has no cores to train on")
        self._count = count if count > 1 else cores

    def __str__(self) -> str:
        return f"{self._count} Ray actors"

    def each(self, common: Common, shards: Sequence[Shard]) -> Iterator[Answered]:
        """Return what comes of each shard, in their order."""
        ray = self._ray
        self._begin(min(self._count, len(shards)))
        both = ray.put(parcel(common))
        waiting, losses = list(range(len(shards))), [0] * len(shards)
        free, busy, found = list(self._actors), dict[Any, tuple[int, Any]](), dict[int, Answered]()
        for place in range(len(shards)):
            while place not in found:
                while free and waiting:
                    number, actor = waiting.pop(0), free.pop(0)
                    busy[actor.work.remote(both, parcel(shards[number]))] = number, actor
                for one in ray.wait(list(busy), num_returns=1)[0]:
                    number, actor = busy.pop(one)
                    try:
                        found[number] = opened(ray.get(one))
                        free.append(actor)
                    except ray.exceptions.RayError as error:
                        losses[number] += 1
                        waiting.insert(0, number)
                        self._actors.remove(actor)
                        if losses[number] >= MOST_LOSSES:
                            told = f"the Ray actors of one shard were lost {MOST_LOSSES} times: {_line(error)}"
                            raise TrainingError(told) from None
                        self._say(f"a Ray actor was lost ({type(error).__name__}): its shard is done again")
                        if not self._actors:  # else those that are left go on: a lost machine's cores are gone
                            self._begin(1)
                            free = list(self._actors)
            yield found.pop(place)

    def close(self) -> None:
        """End the actors; a cluster that was begun for them ends with the program."""
        for actor in self._actors:
            with contextlib.suppress(Exception):
                self._ray.kill(actor)
        self._actors.clear()
        self._held = None

    def _begin(self, count: int) -> None:
        """Have so many actors, or as many more as there are cores for.

        Raises:
            ExperimentError: there is none, and none can be had.
        """
        ray, own = self._ray, len(self._actors)
        if own >= count:
            return
        if own:
            count = min(count, own + int(ray.available_resources().get("CPU", 0)))
        else:
            self._say(f"starting {count} Ray actors")
        made = [_actor(ray).remote(sys.path) for _ in range(count - own)]
        started = self._started(made, LATER_SECONDS if own else START_SECONDS)
        for actor in made:
            if actor not in started:
                ray.kill(actor)
        if not started and not own:
            told = f"no worker could start within {START_SECONDS:g} s: are its cores taken?"
            raise ExperimentError(f"federation.engine = 'ray': {told}")
        self._actors += started

    def _started(self, made: Sequence[Any], limit: float) -> list[Any]:
        """Return those of new actors that can train.

        Raises:
            ExperimentError: one cannot, for a reason that holds for others as well.
        """
        ray = self._ray
        if self._held is None:
            mark = _marked(self._recipe.place) if self._recipe.needs_place else ""
            self._held = ray.put(parcel(self._recipe)), mark
        recipe, mark = self._held
        asked = {actor.versions.remote(): actor for actor in made}
        if ray.wait(list(asked), timeout=limit)[0]:
            limit = LATER_SECONDS  # what Ray says of free cores may be of a while ago
        there = ray.wait(list(asked), num_returns=len(asked), timeout=limit)[0]
        try:
            for found in ray.get(there):
                if other := [f"{key} {found[key]}, here {own}" for key, own in versions().items() if found[key] != own]:
                    told = f"a worker has {'; '.join(other)}: install the same"
                    raise ExperimentError(f"federation.engine = 'ray': {told}")
            started = [asked[one] for one in there]
            problems = [one for one in ray.get([actor.begin.remote(recipe, mark) for actor in started]) if one]
        except ray.exceptions.RayError as error:
            raise ExperimentError(f"federation.engine = 'ray': a worker cannot start: {_line(error)}") from None
        if problems:
            raise ExperimentError(f"federation.engine = 'ray': a worker {problems[0]}")
        return started


def _actor(ray: Any) -> Any:
    """Return the class of actors, each of which has the clients of a run, wherever Ray puts it.

    Made here, so that Ray sends it whole: it sets the path of modules before any of ours is imported.
    """

    class Actor:
        def __init__(self, path: list[str]) -> None:
            import sys

            sys.path[:] = [*path, *[one for one in sys.path if one not in path]]
            self.worker: Any = None

        def versions(self) -> dict[str, str]:
            from edgekit.server.engines.shards import versions

            return versions()

        def begin(self, recipe: Any, mark: str) -> str:
            from edgekit.server.engines.ray import begun

            self.worker, problem = begun(recipe, mark)
            return problem

        def work(self, common: Any, shard: Any) -> Any:
            from edgekit.server.engines.ray import worked

            return worked(self.worker, common, shard)

    return ray.remote(num_cpus=1, max_restarts=0)(Actor)


def worked(worker: Worker, common: Any, shard: Any) -> Any:
    """Do a shard, in an actor; parcels come and go."""
    try:
        return parcel(worker(opened(common), opened(shard)))
    except EdgekitError as error:  # something cannot be sent
        return parcel(failed(error))


def begun(recipe: Any, mark: str) -> tuple[Worker | None, str]:
    """Make the clients, in an actor.

    Args:
        recipe: of them, as a parcel.
        mark: that the run's folder holds, where it has to be seen; "" where not.

    Returns:
        Them, and what is wrong, "" if nothing.
    """
    try:
        found: Recipe = opened(recipe)
        if mark and _mark_in(found.place) != mark:
            told = f"does not see the run's folder {found.place}, in which clients keep what they need: share it"
            return None, told
        return Worker(found), ""
    except Exception as error:
        return None, f"cannot make the clients: {type(error).__name__}: {' '.join(str(error).split())}"


def _joined(address: str, count: int, say: Callable[[str], None]) -> Any:
    """Return Ray, connected."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ExperimentError("federation.engine = 'ray' needs Ray: pip install 'edgekit[ray]'") from None
    if address and address != "auto":
        _reach(address)
    if ray.is_initialized():
        own = ray.get_runtime_context().gcs_address
        if address not in ("", "auto", own):
            raise ExperimentError(f"federation.ray_address is {address!r}, but this program uses the cluster at {own}")
        return ray
    say(f"joining the Ray cluster at {address}" if address else "starting Ray on this machine: some seconds")
    quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False, "configure_logging": False}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(num_cpus=count if count > 1 else None, include_dashboard=False, **quiet)
    except Exception as error:  # of many kinds: no cluster, another version of Ray or Python
        where = f"the Ray cluster at {address}" if address else "Ray"
        raise ExperimentError(f"federation.engine = 'ray': {where} cannot be used: {_line(error)}") from None
    return ray


def _reach(address: str) -> None:
    """See that something listens at an address.

    Raises:
        ExperimentError: nothing does.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not (separator and host and port.isdigit()):
        raise ExperimentError(f"federation.ray_address {address!r}: HOST:PORT was expected, or 'auto'")
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ExperimentError(f"federation.ray_address {address!r} does not answer: {error}") from None


def _marked(place: Path) -> str:
    """Write into a folder by what machines tell that they see it; return that."""
    mark = secrets.token_hex(8)
    place.mkdir(parents=True, exist_ok=True)
    write_whole(place / MARK, mark)
    return mark


def _mark_in(place: Path) -> str:
    with contextlib.suppress(OSError):
        return (place / MARK).read_text()
    return ""


def parcel(thing: Any) -> tuple[bytes, list[Any]]:
    """Return an object as Ray carries it without copies: a pickle, and arrays of bytes."""
    content, buffers = parcels.pickled(thing)
    return content, [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]


def opened(parcel: tuple[bytes, list[Any]]) -> Any:
    """Return the object of a parcel, whose arrays can be written to: Ray's own cannot."""
    content, arrays = parcel
    return parcels.restored(content, [array.copy() for array in arrays])


def _line(error: Exception) -> str:
    """Return the end of what Ray says, which is long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
