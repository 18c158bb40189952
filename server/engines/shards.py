"""A round's clients in shards, which an engine has done one after the other, or at once by several processes."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from typing import Literal, Protocol

from edgekit import compact
from edgekit.asks import Ask, Reply, Scored
from edgekit.errors import EdgekitError, TrainingError
from edgekit.server.engines.base import Fold, Taken
from edgekit.server.engines.simulation import Recipe, Simulation

SHARD = 50
"""Clients of a shard. The same on every engine: a vectorised step's rounding may depend on who else is in it. Half as
many took a cohort up to half longer, twice as many gained a tenth."""
Kind = Literal["train", "measure"]


def shards(asks: Mapping[int, Ask]) -> Iterator[dict[int, Ask]]:
    """Cut a round's asks by the clients' order."""
    each = iter(asks.items())
    while shard := dict(islice(each, SHARD)):
        yield shard


@dataclass(frozen=True)
class Common:
    """What the shards of a round share, so that it is sent once.

    Attributes:
        kind: what clients do.
        asks: that several shards have.
        fold: keeps means of what they answer; None keeps all replies.
    """

    kind: Kind
    asks: list[Ask]
    fold: Fold | None


@dataclass(frozen=True)
class Shard:
    """Some of a round's clients.

    Attributes:
        clients: with the number of their ask among the common ones, or their own ask.
    """

    clients: dict[int, int | Ask]


@dataclass(frozen=True)
class Answered:
    """What came of a shard.

    Attributes:
        replies: of training, in the order of the clients; none where they were folded.
        taken: of training that was folded.
        scores: of measuring.
        bytes_up: of all updates.
        notices: lines for people.
        problem: why the whole round cannot be done, where the method failed.
    """

    replies: Sequence[Reply] = ()
    taken: Taken | None = None
    scores: Mapping[int, Scored] = field(default_factory=dict)
    bytes_up: int = 0
    notices: Sequence[str] = ()
    problem: EdgekitError | None = None


class Pool(Protocol):
    """Processes, or machines, that do shards."""

    def each(self, common: Common, shards: Sequence[Shard]) -> Iterator[Answered]:
        """Return what comes of each shard, in their order, as it comes."""

    def close(self) -> None:
        """End the processes; the next shards begin them anew."""


def cut(kind: Kind, asks: Mapping[int, Ask], fold: Fold | None) -> tuple[Common, list[Shard]]:
    """Cut a round's asks into shards to be sent: asks that more than one shard has go along once.

    Of a single shard nothing is folded.
    """
    parts = list(shards(asks))
    having: dict[int, int] = {}
    for part in parts:
        for one in {id(ask) for ask in part.values()}:
            having[one] = having.get(one, 0) + 1
    shared: dict[int, int] = {}
    common = Common(kind, [], fold if len(parts) > 1 else None)
    for ask in asks.values():
        if having[id(ask)] > 1 and id(ask) not in shared:
            shared[id(ask)] = len(common.asks)
            common.asks.append(ask)
    made = [Shard({client: shared.get(id(ask), ask) for client, ask in part.items()}) for part in parts]
    return common, made


def done(simulation: Simulation, common: Common, shard: Shard) -> Answered:
    """Do a shard's work with these clients."""
    asks = {client: common.asks[one] if isinstance(one, int) else one for client, one in shard.clients.items()}
    if common.kind == "measure":
        return Answered(scores=simulation.clients.measure(asks))
    replies = simulation.clients.train(asks)
    size = compact.bytes_of(replies, asks, compact=any(one.compacts for one in simulation.recipe.transforms))
    if common.fold is None:
        return Answered(replies, bytes_up=size)
    return Answered(taken=common.fold(replies, asks), bytes_up=size)


class Worker:
    """The clients of a run in another process, which does shards of theirs.

    Args:
        recipe: of the clients.

    Raises:
        EdgekitError: they cannot be made here.
    """

    def __init__(self, recipe: Recipe) -> None:
        import torch

        from edgekit.clients.cohort.memory import keep_freed_memory

        torch.set_num_threads(1)  # as in the process that began it: the same bits
        keep_freed_memory()
        self._notices: list[str] = []
        self._simulation = Simulation(recipe, self._notices.append)

    def __call__(self, common: Common, shard: Shard) -> Answered:
        """Do a shard."""
        try:
            found = done(self._simulation, common, shard)
        except EdgekitError as error:
            found = failed(error)
        except Exception as error:  # the dataset or the method may be the user's own
            found = failed(TrainingError(f"a worker failed: {type(error).__name__}: {error}"))
        said, self._notices[:] = list(self._notices), []
        return Answered(**{**vars(found), "notices": said})


def failed(error: EdgekitError) -> Answered:
    """Return an error as an answer that any process can read: of a kind of ours, with its words alone."""
    ours = [one for one in type(error).__mro__ if one.__module__ == EdgekitError.__module__]
    kind = next(one for one in ours if "__init__" not in vars(one))  # its words are all that it takes
    made: EdgekitError = kind(str(error))
    return Answered(problem=made)


def versions() -> dict[str, str]:
    """Return what has to be the same wherever a run's clients are simulated."""
    parts = {name: version(name) for name in ("edgekit", "torch", "numpy", "flwr")}
    return {"python": platform.python_version().rpartition(".")[0], **parts}


def forwarded(answers: Iterator[Answered], say: Callable[[str], None]) -> Iterator[Answered]:
    """Tell what workers said; raise what ends the round.

    Raises:
        EdgekitError: of a worker.
    """
    for one in answers:
        for line in one.notices:
            say(line)
        if one.problem is not None:
            raise one.problem
        yield one
