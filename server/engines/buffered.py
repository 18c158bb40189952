"""Simulated devices that train at their own pace: a round is over when a buffer of updates is full."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgekit import compact
from edgekit.algorithms.fedbuff import STALENESS
from edgekit.arrays import Weights
from edgekit.asks import Ask, Reply, Update, packed, unpacked
from edgekit.devices.population import clock as clocks
from edgekit.devices.population.clock import Loads, Played
from edgekit.devices.population.kinds import Floats
from edgekit.errors import ExperimentError, TrainingError
from edgekit.server.engines.base import Draw, Exchanged, Fold
from edgekit.server.engines.virtual import LOST, VirtualDevices

STALE, FAILED = "stale", "failed"
ENDS = (clocks.DONE, clocks.LATE, clocks.LEFT, clocks.EMPTY, STALE, FAILED)
WORDS = {**LOST, STALE: "older than federation.arguments.most_stale allows"}


@dataclass
class Flight:
    """A client that trains.

    Attributes:
        client: its number.
        round: in which it began.
        starts: seconds of the clock at which it began.
        download, compute, upload: seconds that it would take for each.
        stops: seconds of the clock at which it is done, or gone.
        joules: that it will have drawn by then.
        end: how it ends.
        update: what it will send; None if it sends nothing.
        problem: why its training failed.
    """

    client: int
    round: int
    starts: float
    download: float
    compute: float
    upload: float
    stops: float
    joules: float
    end: str
    update: Update | None = None
    problem: str = ""

    def __lt__(self, other: "Flight") -> bool:
        return (self.stops, self.client) < (other.stops, other.client)


class BufferedDevices(VirtualDevices):
    """Devices of which as many as a cohort train at once; whoever is done is followed by another.

    What a client will send is trained when it begins, from the model of that time, and kept until the clock is there.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        if more["secret"]:
            raise ExperimentError(
                "who is fast takes part more often, so that nobody is drawn as privacy counts on: use "
                "federation.selector = 'uniform', or privacy.noise = 'client'"
            )
        super().__init__(*arguments, **more)
        self.folds = False
        self._flights: list[Flight] = []
        settings = self._algorithm.settings
        self._buffer, self._most_stale = self._algorithm.buffer, int(getattr(settings, "most_stale", 1 << 30))
        if self._buffer > self._wanted:
            raise ExperimentError(
                f"federation.arguments.buffer is {self._buffer}, but only {self._wanted} clients train at once: take "
                "fewer, or a larger federation.cohort"
            )
        if self._settings.over_selection > 1:
            raise ExperimentError("devices.over_selection is of rounds that wait for all: leave it out")

    def choose(self, number: int, draw: Draw) -> list[int]:
        """Draw those who begin: as many as there is room for, and one after each that will be done before the last."""
        before = self.clock.time
        busy = {one.client for one in self._flights}
        self._online = len(self.clock.there())
        wanted = self._wanted - len(busy) + self._buffer - 1
        free = self._free(busy)
        if not len(free) and not busy:
            self.clock.wait(1, 0.0)
            free = self._free(busy)
        self._waited = self.clock.time - before
        return draw(free, min(wanted, len(free))) if free else []

    def exchange(self, asks: Mapping[int, Ask], fold: Fold | None = None) -> Exchanged:
        """Let time pass until the buffer is full; return whose updates are in it."""
        number, began, waiting = self._shown.round, self.clock.time, list(asks)
        room = self._wanted - len(self._flights)
        begun = self._begin(waiting[:room], asks)
        del waiting[:room]
        landed: list[Flight] = []
        filled = 0
        while filled < self._buffer and self._flights:
            one = self._flights[0]
            self.clock.advance(one.stops, self._loads())
            heapq.heappop(self._flights)
            self.clock.joules[one.client] += one.joules
            if one.end == clocks.DONE and number - one.round > self._most_stale:
                one.end = STALE
            if one.end == clocks.DONE:
                self.clock.rounds[one.client] += 1
                filled += 1
            landed.append(one)
            there = set(self.clock.there().tolist())
            while waiting and waiting[0] not in there:
                del waiting[0]  # its owner took it before it could begin
            if filled < self._buffer:
                begun += self._begin(waiting[:1], asks)
                del waiting[:1]
        over = self.clock.time
        self._train(begun)
        self.clock.advance(began + self._settings.every_seconds, self._loads())
        self.last = _played(landed, began, over)
        self._tell(number)
        answered = {one.client: replace(self._shown, round=one.round) for one in landed}
        replies = [self._reply(one, number) for one in landed if one.end in (clocks.DONE, FAILED)]
        gone = [one for one in landed if one.end in WORDS]
        missed = [(one.client, f"{self.name_of(one.client)} was {WORDS[one.end]}") for one in gone]
        up = compact.bytes_of(replies, answered, compact=self._compacts)
        down = sum(ask.nbytes for _, ask in begun)
        return Exchanged(replies, up, down, missed=missed, asks=answered)

    def state(self) -> Weights:
        """Return what a checkpoint keeps: those who train, and what they will send."""
        flights = sorted(self._flights)
        rows = [
            (
                *(one.client, one.round, one.starts, one.download, one.compute, one.upload, one.stops, one.joules),
                *(ENDS.index(one.end), one.update.weight if one.update else 0.0, _loss(one.update)),
            )
            for one in flights
        ]
        kept: Weights = {**super().state(), "flights": np.array(rows, np.float64).reshape(-1, 11)}
        for one in flights:
            if one.update is not None:
                kept |= {f"{one.client} {path}": array for path, array in packed(one.update.bundles).items()}
        return kept

    def go_on(self, state: Weights, number: int) -> None:
        """Go on from a checkpoint."""
        names = super().state()
        super().go_on({name: array for name, array in state.items() if name in names}, number)
        self._flights = []
        for row in state.get("flights", np.empty((0, 11))):
            client, end = int(row[0]), ENDS[int(row[8])]
            prefix = f"{client} "
            flat = {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
            facts = {} if np.isnan(row[10]) else {"train_loss": float(row[10])}
            update = Update(unpacked(flat), float(row[9]), facts) if flat else None
            if update is None and end == clocks.DONE:
                raise TrainingError(f"the checkpoint lacks what client {client} sends: start a new run")
            starts, download, compute, upload, stops, joules = (float(one) for one in row[2:8])
            times = starts, download, compute, upload, stops, joules
            self._flights.append(Flight(client, int(row[1]), *times, end, update))
        heapq.heapify(self._flights)

    def _free(self, busy: set[int]) -> list[int]:
        return [int(one) for one in self.clock.there() if int(one) not in busy]

    def _loads(self) -> Loads:
        """Return what those in flight draw."""
        rows = np.array([[one.joules, one.starts, one.stops] for one in self._flights], np.float64).reshape(-1, 3)
        return Loads.of(np.array([one.client for one in self._flights], np.int64), *rows.T)

    def _begin(self, clients: Sequence[int], asks: Mapping[int, Ask]) -> list[tuple[Flight, Ask]]:
        """Let clients begin now."""
        if not clients:
            return []
        own = {client: self._fitted(client, asks[client]) for client in clients}
        found = self.clock.outcome(np.array(clients), self._work(own), self._settings.deadline_seconds)
        joules, begun = self.clock.drawn(found, found.stops), []
        for place, (client, ask) in enumerate(own.items()):
            download, compute, upload = (float(one[place]) for one in (found.download, found.compute, found.upload))
            stops = self.clock.time + float(found.stops[place])
            times = self.clock.time, download, compute, upload, stops, float(joules[place])
            begun.append((Flight(client, ask.round, *times, found.ends[place]), ask))
            heapq.heappush(self._flights, begun[-1][0])
        return begun

    def _train(self, begun: Sequence[tuple[Flight, Ask]]) -> None:
        """Have those train who will be done."""
        flights = {one.client: one for one, _ in begun if one.end == clocks.DONE}
        asks = {one.client: ask for one, ask in begun if one.client in flights}
        for reply in self._engine.exchange(dict(sorted(asks.items()))).replies:
            one = flights[reply.client]
            one.update, one.problem = reply.update, reply.problem
            one.end = FAILED if reply.update is None else one.end

    def _reply(self, one: Flight, number: int) -> Reply:
        if one.update is None:
            return Reply(one.client, None, one.problem or "its training failed")
        facts = {**one.update.facts, STALENESS: number - one.round}
        return Reply(one.client, replace(one.update, facts=facts))


def _played(landed: Sequence[Flight], began: float, over: float) -> Played:
    def of(name: str) -> Floats:
        return np.array([getattr(one, name) for one in landed], np.float64)

    clients, ends = np.array([one.client for one in landed], np.int64), [one.end for one in landed]
    times = of("download"), of("compute"), of("upload")
    return Played(clients, ends, began, *times, of("joules"), over, [one.starts for one in landed])


def _loss(update: Update | None) -> float:
    loss = None if update is None else update.facts.get("train_loss")
    return float(loss) if isinstance(loss, int | float) else float("nan")
