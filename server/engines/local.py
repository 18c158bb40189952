"""The local engine: all clients of a dataset, simulated in this process, in several, or by Ray."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import nn

from edgekit.algorithms.base import Algorithm
from edgekit.asks import Ask, Scored
from edgekit.data import FederatedDataset
from edgekit.errors import ExperimentError
from edgekit.local_settings import LocalSettings
from edgekit.runfolder import RunFolder
from edgekit.server.engines.base import Draw, Exchanged, Fold, Taken
from edgekit.server.engines.processes import Processes
from edgekit.server.engines.shards import Answered, Kind, Pool, cut, done, forwarded
from edgekit.server.engines.simulation import Recipe, Simulation
from edgekit.server.settings import Sections
from edgekit.transforms.base import Transform


class LocalEngine:
    """All clients of a dataset. A round's bits are the same wherever they are simulated.

    Args:
        experiment: the experiment.
        dataset: the clients' data.
        model: the network.
        run: the run folder.
        seed: of the batches, and of the noise that clients add.
        on_notice: called with a line for people.
        algorithm: whose client half they run.
        transforms: what happens to their updates then.
        settings: a round's instructions to clients, for which the network is tried on real examples; None is plainly.
        phase: number of the run's phase, each of which has a network of its own.

    Raises:
        EdgekitError: the network cannot be trained so.
    """

    repeatable = True

    def __init__(
        self,
        experiment: Sections,
        dataset: FederatedDataset,
        model: nn.Module,
        run: RunFolder,
        seed: int,
        on_notice: Callable[[str], None],
        algorithm: Algorithm,
        transforms: Sequence[Transform] = (),
        settings: LocalSettings | None = None,
        phase: int = 0,
    ) -> None:
        place = (run.checkpoint / f"phase-{phase}" if phase else run.checkpoint).absolute()
        plain = settings or LocalSettings()
        recipe = Recipe(experiment, dataset, model, place, seed, algorithm, transforms, plain)
        self._dataset, self._on_notice, self._said = dataset, on_notice, set[str]()
        self._here = Simulation(recipe, self._say)
        self.trainer = self._here.trainer
        self._counterpart = self._here.counterpart
        self.folds = self._counterpart is None  # else all clients' steps meet the server's
        self._pool = self._elsewhere(experiment)
        if self._pool is not None:
            self.trainer = f"{self.trainer}; {self._pool}"

    def _elsewhere(self, experiment: Sections) -> Pool | None:
        """Return who trains instead of this process."""
        workers, ray = experiment.training.workers, experiment.federation.engine == "ray"
        if not ray and workers == 1:
            return None
        if self._counterpart is not None:
            key = "federation.engine = 'ray'" if ray else "training.workers"
            raise ExperimentError(f"{key}: clients of split learning meet the server in each step: leave it out")
        if ray:
            from edgekit.server.engines.ray import Actors

            return Actors(self._here.tried, experiment.federation.ray_address, workers, self._say)
        if self._here.threads:
            self._say("training.workers is left at one: compiled steps take all cores already")
            return None
        return Processes(self._here.tried, workers, self._say)

    def choose(self, number: int, draw: Draw) -> list[int]:
        """Return those drawn of all clients."""
        return draw(range(self._dataset.clients))

    def conditions(self, clients: Sequence[int]) -> None:
        """Return nothing: these clients have no devices."""

    def exchange(self, asks: Mapping[int, Ask], fold: Fold | None = None) -> Exchanged:
        """Return the clients' replies, or the mean of each shard's."""
        down = sum(ask.nbytes for ask in asks.values())
        if self._counterpart is not None:
            replies = self._here.clients.train(asks)
            answered = [reply.update for reply in replies if reply.update is not None]
            up, more = self._counterpart.take_traffic()  # beside their own parts of the network
            size = self._counterpart.device_bytes
            return Exchanged(replies, up + size * len(answered), more + size * len(asks))
        replies, taken, up = [], list[Taken](), 0
        for one in self._each("train", asks, fold):
            replies += one.replies
            taken += [] if one.taken is None else [one.taken]
            up += one.bytes_up
        return Exchanged(replies, up, down, folded=taken or None)

    def measure(self, asks: Mapping[int, Ask]) -> Mapping[int, Scored]:
        """Return how good models are on what clients hold back."""
        if self._counterpart is not None:
            return self._here.clients.measure(asks)
        return {client: scored for one in self._each("measure", asks) for client, scored in one.scores.items()}

    def name_of(self, client: int) -> str:
        """Return `client` and its number."""
        return f"client {client}"

    def is_everyone(self, cohort: Sequence[int]) -> bool:
        """Whether these are all clients."""
        return len(cohort) == self._dataset.clients

    def examples(self) -> int | None:
        """Return how many examples the dataset's clients own."""
        return self._dataset.total_examples

    def close(self) -> None:
        """End the processes that train."""
        if self._pool is not None:
            self._pool.close()

    def _say(self, line: str) -> None:
        """Tell people a line, once a round: what is so of one shard is often so of all."""
        if line not in self._said:
            self._said.add(line)
            self._on_notice(line)

    def _each(self, kind: Kind, asks: Mapping[int, Ask], fold: Fold | None = None) -> Iterator[Answered]:
        """Return what comes of each shard."""
        self._said.clear()
        common, parts = cut(kind, asks, fold)
        if self._pool is not None:
            yield from forwarded(self._pool.each(common, parts), self._say)
            return
        for part in parts:
            yield done(self._here, common, part)
