"""Simulated devices around simulated clients: a virtual clock says who is there, who is done, and what it costs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.algorithms.base import Algorithm, answer_like
from edgekit.arrays import Weights
from edgekit.asks import WEIGHTS, Ask, Scored, size_of
from edgekit.data import FederatedDataset
from edgekit.devices.population import clock as clocks
from edgekit.devices.population import traces
from edgekit.devices.population.availability import HOUR, Always, Availability, Day
from edgekit.devices.population.clock import Played, VirtualClock, read_played
from edgekit.devices.population.kinds import PASSES, Floats, Places, Population, Work, counts, population_of
from edgekit.devices.settings import Devices
from edgekit.errors import ExperimentError
from edgekit.local_settings import LocalSettings
from edgekit.runfolder import RunFolder, append_line, write_whole
from edgekit.server.engines.base import Conditions, Draw, Engine, Exchanged, Fold
from edgekit.server.settings import Sections
from edgekit.transforms.base import Transform

JOULES_A_KWH = 3.6e6
EXPECTED = "expected"


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        macs: multiply-adds of one inference.
        nbytes: of its trained weights.
    """

    macs: int
    nbytes: int


class VirtualDevices:
    """An engine's clients, each on a simulated device.

    Args:
        engine: whose clients do the work, those alone whose updates count.
        experiment: the experiment.
        dataset: the clients' data.
        algorithm: the method.
        transforms: what happens to updates on their way.
        local: a round's instructions to clients.
        cost: of the network.
        run: the run folder.
        secret: whether nobody may learn who took part.

    Attributes:
        clock: the virtual clock.
        last: how the devices played the last round; None before the first.

    Raises:
        EdgekitError: the devices do not fit the experiment.
    """

    def __init__(
        self,
        engine: Engine,
        experiment: Sections,
        dataset: FederatedDataset,
        algorithm: Algorithm,
        transforms: Sequence[Transform],
        local: LocalSettings,
        cost: Cost,
        run: RunFolder,
        *,
        secret: bool,
    ) -> None:
        settings = self._settings = experiment.devices
        _check(settings, experiment, algorithm, secret=secret)
        self._engine, self._algorithm, self._dataset = engine, algorithm, dataset
        self._path, self._secret = run.devices, secret
        self.trainer, self.repeatable, self.folds = engine.trainer, engine.repeatable, engine.folds
        clients, seed = dataset.clients, experiment.seed
        self._wanted = experiment.federation.cohort or clients
        people = population_of(settings.population, clients, seed, settings.spread)
        self.clock = VirtualClock(
            people,
            _availability(settings.availability, people, seed),
            seed,
            start=settings.start_hour * HOUR,
            least_battery=settings.least_battery,
            metered=settings.metered,
        )
        self._began = self.clock.time
        self._operations = float(PASSES * cost.macs)
        self._compacts = any(one.compacts for one in transforms)
        self._share = float(np.prod([one.passed for one in transforms]))
        # What one client owns moves its own update alone: times by which others are judged may not go by it.
        self._equal = dataset.examples_a_client if experiment.privacy.on else 0
        self._sizes: dict[int, int] = {}
        self._plain, self._size = local, cost.nbytes
        self.last: Played | None = None
        self._online = self._waited = 0.0
        self._joules = self._expected = 0.0

    @property
    def population(self) -> Population:
        """The devices."""
        return self.clock.population

    def choose(self, number: int, draw: Draw) -> list[int]:
        """Wait until as many devices as wanted are there, and draw among them."""
        before = self.clock.time
        wanted = min(ceil(self._wanted * self._settings.over_selection), len(self.population))
        there = self.clock.wait(wanted, self._settings.wait_minutes * 60)
        self._online, self._waited = len(there), self.clock.time - before
        return draw([int(one) for one in there])

    def exchange(self, asks: Mapping[int, Ask], fold: Fold | None = None) -> Exchanged:
        """Have those train who are done in time, and the clock go on."""
        asks = {client: self._fitted(client, ask) for client, ask in asks.items()}
        clients = np.array(list(asks), np.int64)
        wanted = self._wanted if self._settings.over_selection > 1 else len(asks)
        work = self._work(asks)
        if self._secret:
            return self._hidden(asks, clients, work, fold)
        deadline, least = self._settings.deadline_seconds, self._settings.every_seconds
        self.last = self.clock.play(clients, work, wanted=wanted, deadline=deadline, least=least)
        found = self._exchanged(asks, self.last.done, fold)
        if asks:
            self._tell(self._shown.round)
        missed = [
            (client, f"{self.name_of(client)} was {LOST[end]}")
            for client, end in zip(asks, self.last.ends, strict=True)
            if end != clocks.DONE
        ]
        return replace(found, missed=missed)

    def _exchanged(self, asks: Mapping[int, Ask], done: Sequence[int], fold: Fold | None) -> Exchanged:
        """Have those train whose updates count; the others were sent their asks in vain."""
        found = self._engine.exchange({client: asks[client] for client in sorted(done)}, fold)
        unused = sum(ask.nbytes for client, ask in asks.items() if client not in set(done))
        return replace(found, bytes_down=found.bytes_down + unused)

    def _hidden(self, asks: Mapping[int, Ask], clients: Places, work: Work, fold: Fold | None) -> Exchanged:
        """Have those train who are done in a round of fixed length; what it costs is told as it is expected."""
        _, drawn = self._rough(self.clock.there())
        self._expected = float(drawn.sum()) * self._wanted / len(self.population)
        self._joules += self._expected
        done = self.clock.play_hidden(clients, work, self._round_seconds)
        found = self._exchanged(asks, done, fold)
        missed = [(client, "not done by the deadline, or gone") for client in asks if client not in set(done)]
        up = round(float(work.up.sum()))  # as if all had answered: who can, is no secret, so that these would tell
        return replace(found, bytes_up=up, missed=missed)

    @property
    def _round_seconds(self) -> float:
        """How long a round lasts of which nobody may tell who took part."""
        return max(self._settings.deadline_seconds, self._settings.every_seconds)

    def show(self, ask: Ask) -> None:
        """Tell what a round's clients are asked, be there any or not."""
        self._shown = ask

    def measure(self, asks: Mapping[int, Ask]) -> Mapping[int, Scored]:
        """Return how good models are on what clients hold back; no time passes by that."""
        return self._engine.measure(asks)

    def name_of(self, client: int) -> str:
        """Return a client's name and what it is."""
        return f"{self._engine.name_of(client)} ({self.population.kinds[self.population.kind[client]]})"

    def is_everyone(self, cohort: Sequence[int]) -> bool:
        """Whether these are all clients."""
        return self._engine.is_everyone(cohort)

    def examples(self) -> int | None:
        """Return how many examples all clients own together."""
        return self._engine.examples()

    def close(self) -> None:
        """End what works for it elsewhere."""
        self._engine.close()

    def conditions(self, clients: Sequence[int]) -> Conditions:
        """Return how some devices are now, and what a round would take them."""
        places = np.asarray(clients, np.int64)
        seconds, joules = self._rough(places)
        now = self.clock.presence()
        full = self.population.battery[places]
        return Conditions(
            battery=self.clock.level[places],
            charging=now.charging[places] | (full == 0),
            metered=now.metered[places],
            seconds=seconds,
            joules=joules,
            battery_joules=full,
            deadline=self._settings.deadline_seconds,
        )

    @property
    def secret(self) -> bool:
        """Whether nobody may learn who took part."""
        return self._secret

    @property
    def surplus(self) -> int:
        """How many of the last round were not needed any more: they did not fail."""
        return 0 if self.last is None else list(self.last.ends).count(clocks.SURPLUS)

    def metrics(self) -> dict[str, Any]:
        """Return what a round's line tells of the devices; under a secret draw what does not depend on it."""
        if self._secret:  # what is the same whoever took part
            return {
                "clock": round(self.clock.time, 3),
                "seconds": self._round_seconds,
                "began": self._began,
                "waited": round(self._waited, 3),
                "online": int(self._online),
                "joules": round(self._expected, 3),
            }
        if self.last is None:
            return {}
        ends = self.last.ends
        return {
            **self._times(self.last),
            "began": self._began,
            "waited": round(self._waited, 3),
            "online": int(self._online),
            "joules": round(float(self.last.joules.sum()), 3),
            **{end: ends.count(end) for end in (clocks.DONE, *LOST)},
        }

    def facts(self) -> dict[str, Any]:
        """Return what result.json tells: totals."""
        clock, grid = self.clock, self._settings.grid_gco2e_per_kwh
        joules = self._joules if self._secret else float(clock.joules.sum())
        found: dict[str, Any] = {
            "population": counts(self.population, range(len(self.population))),
            "hours": round((clock.time - self._began) / HOUR, 4),
            "joules": round(joules, 3),
            "assumed": list(self.population.assumed),
        }
        if not self._secret:
            found |= {"took_part": int((clock.rounds > 0).sum()), "most_rounds": int(clock.rounds.max(initial=0))}
        if grid:
            found["gco2e_estimate"] = round(joules / JOULES_A_KWH * grid, 6)
        return found

    def state(self) -> Weights:
        """Return what a checkpoint keeps; where who took part is secret, nothing that tells."""
        return {**self.clock.state(), EXPECTED: np.array([self._joules])}

    def go_on(self, state: Weights, number: int) -> None:
        """Go on from a checkpoint of a round; later rounds' lines are dropped, they will be played again."""
        if state:
            self.clock.go_on({name: array for name, array in state.items() if name != EXPECTED})
            expected = state.get(EXPECTED, np.zeros(1)).reshape(-1)
            self._joules = float(expected[0]) if len(expected) and np.isfinite(expected[0]) else 0.0
        if self._path.exists():
            kept = [line for line in read_played(self._path) if line["round"] <= number]
            write_whole(self._path, "".join(json.dumps(line) + "\n" for line in kept))

    def _tell(self, number: int) -> None:
        """Write down how a round was played, unless who took part is secret."""
        if self.last is not None and not self._secret:
            append_line(self._path, {"round": number, **self._times(self.last), "devices": self.last.rows()})

    def _times(self, played: Played) -> dict[str, float]:
        return {"clock": round(played.over, 3), "seconds": round(played.over - played.starts, 3)}

    def _examples(self, client: int) -> int:
        """Return how many examples a client trains on."""
        if self._equal:
            return self._equal
        if client not in self._sizes:
            owned = self._dataset.client_labels
            own = self._dataset.examples_a_client if owned is None else len(owned(client))
            self._sizes[client] = max(1, own - int(own * self._dataset.held_back))
        return self._sizes[client]

    def _work(self, asks: Mapping[int, Ask]) -> Work:
        """Return what each is asked to do."""
        ups: dict[int, int] = {}
        rows = []
        for client, ask in asks.items():
            if id(ask) not in ups:
                ups[id(ask)] = size_of(answer_like(self._algorithm, ask))
            own = size_of({WEIGHTS: ask.bundles.get(WEIGHTS, {})})
            part = own / self._size if self._algorithm.unequal else 1.0  # of a slice: as its weights
            taken, steps = self._batches(ask, self._examples(client))
            rows.append((ask.nbytes, taken, steps, ups[id(ask)] * self._share, self._operations * part))
        return _columns(rows)

    def _batches(self, ask: Ask, examples: int) -> tuple[float, float]:
        """Return how many examples a client takes for an ask, and in how many steps."""
        steps = self._algorithm.batches(ask)
        if steps is not None:
            return float(steps * min(ask.settings.batch_size, examples)), float(steps)
        taken, own = _passes(ask.settings, examples)
        return taken * self._algorithm.trainings, own * self._algorithm.trainings

    def _rough(self, clients: Places) -> tuple[Floats, Floats]:
        """Return the seconds and joules that a round will take about, before anybody is asked."""
        ask = Ask({}, settings=self._plain)
        each = [self._batches(ask, self._examples(int(client))) for client in clients]
        size = float(self._size)
        work = _columns([(size, taken, steps, size * self._share, self._operations) for taken, steps in each])
        download, compute, upload = self.population.seconds(clients, work)
        return download + compute + upload, self.population.joules(clients, compute, download + upload)

    def _fitted(self, client: int, ask: Ask) -> Ask:
        """Return an ask of no more steps than the device can make by the deadline."""
        if not self._settings.fit_work:
            return ask
        work = self._work({client: ask})
        place = np.array([client])
        download, compute, upload = (float(one[0]) for one in self.population.seconds(place, work))
        room = self._settings.deadline_seconds - download - upload
        if compute <= room or room <= 0:
            return ask
        # Time grows with steps, and faster where it gets hot: found by halving.
        least, most = 1, int(work.steps[0])
        while least < most:
            half = (least + most + 1) // 2
            fewer = replace(work, examples=work.examples * half / work.steps, steps=np.array([float(half)]))
            if float(self.population.seconds(place, fewer)[1][0]) <= room:
                least = half
            else:
                most = half - 1
        return replace(ask, settings=replace(ask.settings, most_steps=least))


LOST = {
    clocks.LATE: "not done by the deadline (devices.deadline_seconds)",
    clocks.LEFT: "taken by its owner before it was done",
    clocks.EMPTY: "empty before it was done",
    clocks.SURPLUS: "not needed any more",
}


def _passes(settings: LocalSettings, examples: int) -> tuple[float, float]:
    """Return how many examples are taken in a round, and in how many steps."""
    if settings.work in ("sgd", "local-dp"):
        steps = ceil(examples / settings.batch_size) * settings.epochs
        taken = float(examples * settings.epochs)
        if settings.most_steps and settings.most_steps < steps:
            return taken * settings.most_steps / steps, float(settings.most_steps)
        return taken, float(steps)
    steps = settings.steps if settings.work == "dp-sgd" else 1
    return settings.batch_of(examples) * steps, float(steps)


def _columns(rows: Sequence[tuple[float, ...]]) -> Work:
    columns: Floats = np.array(rows, np.float64).reshape(-1, 5).T
    return Work(*columns)


def _availability(name: str, people: Population, seed: int) -> Availability:
    if name == "always":
        return Always(len(people))
    if name == "day":
        return Day(people.on_battery, seed)
    return traces.read(Path(name), len(people))


def _check(settings: Devices, experiment: Sections, algorithm: Algorithm, *, secret: bool) -> None:
    if algorithm.interactive:
        raise ExperimentError("[devices] is of clients that train by themselves: leave it out with split learning")
    if settings.fit_work and not settings.deadline_seconds:
        raise ExperimentError("devices.fit_work goes by a deadline: set devices.deadline_seconds")
    if not experiment.privacy.on:
        return
    if secret and not settings.deadline_seconds:
        raise ExperimentError(
            "privacy counts on nobody knowing who took part, which a round's length would tell: set "
            "devices.deadline_seconds, and each lasts so long; or federation.selector = 'uniform'"
        )
    if settings.over_selection > 1:
        raise ExperimentError(
            "devices.over_selection keeps those who are first, so that one client changes who else counts, which "
            "privacy cannot bound: leave it out"
        )
    if settings.fit_work:
        raise ExperimentError("devices.fit_work changes steps that privacy has counted: leave it out")
