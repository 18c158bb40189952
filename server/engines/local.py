"""The local engine: all clients of a dataset, in this process."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from torch import nn

from edgekit.algorithms.base import Algorithm
from edgekit.algorithms.interactive import Counterpart, Interactive
from edgekit.asks import Ask, Scored, Train
from edgekit.clients.halves import keeps
from edgekit.clients.litert import LiteRTTrainer
from edgekit.clients.others import Others
from edgekit.clients.simulated import SimulatedClients, Trainers
from edgekit.clients.states import ClientStates
from edgekit.clients.torch_trainer import TorchTrainer, state, trained_weights
from edgekit.clients.trainer import CohortTrainer, Trainer
from edgekit.data import FederatedDataset
from edgekit.errors import ExperimentError
from edgekit.local_settings import LocalSettings
from edgekit.models import check_private
from edgekit.models.requirements import moving_buffers
from edgekit.objectives import objective_of
from edgekit.runfolder import RunFolder
from edgekit.server.engines.base import Draw, Exchanged
from edgekit.server.engines.choice import TRAINER, Choice
from edgekit.server.engines.graphs import kept_training_graph
from edgekit.server.settings import Sections
from edgekit.transforms.base import Transform

WAVE = 500
"""Clients whose updates are held at once; more at once are no faster."""


class LocalEngine:
    """All clients of a dataset, in this process.

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
    wave = WAVE

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
        place = run.checkpoint / f"phase-{phase}" if phase else run.checkpoint
        self._experiment, self._dataset, self._on_notice = experiment, dataset, on_notice
        self._settings, self._model = settings or LocalSettings(), model
        self._choose = Choice(experiment, dataset, self._settings, on_notice)
        single: Trainer = TorchTrainer(model, on_notice)
        cohort_trainer: CohortTrainer | None = None
        others: Others[Trainers] | None = None
        self._counterpart: Counterpart | None = None
        if isinstance(algorithm, Interactive):
            self.wave = 0  # all clients' steps meet the server's
            training = experiment.training.plain()
            self._counterpart = algorithm.counterpart(model, dataset, training, seed, on_notice)
            self.trainer = self._counterpart.trainer
        elif experiment.training.trainer == "litert":
            if key := experiment.training.needs_torch:
                raise ExperimentError(f"training.{key} needs torch: set training.trainer = 'auto'")
            if key := algorithm.needs_torch:
                raise ExperimentError(f"{key} needs torch: set training.trainer = 'auto'")
            single = self._by_graph(algorithm, model, place)
            others = self._others(
                algorithm, lambda name, network: (self._by_graph(algorithm, network, place, name), None)
            )
            self.trainer = "one client at a time in LiteRT, as devices without torch train"
        else:
            cohort_trainer, self.trainer = self._choose(model, place / TRAINER)
            others = self._others(algorithm, partial(self._by_torch, place))
        if self._counterpart is None and cohort_trainer is None:
            self._try(single, model)
        self._clients = SimulatedClients(
            dataset,
            algorithm,
            single,
            cohort_trainer,
            seed,
            ClientStates(place / "clients") if keeps(algorithm, transforms) else None,
            on_notice,
            transforms,
            others,
            self._counterpart,
        )

    def choose(self, number: int, draw: Draw) -> list[int]:
        """Return the drawn clients."""
        return draw(self._dataset.clients)

    def exchange(self, asks: Mapping[int, Ask]) -> Exchanged:
        """Return the clients' replies."""
        replies = self._clients.train(asks)
        answered = [reply.update for reply in replies if reply.update is not None]
        if self._counterpart is None:
            return Exchanged(replies, sum(one.nbytes for one in answered), sum(ask.nbytes for ask in asks.values()))
        up, down = self._counterpart.take_traffic()  # beside their own parts of the network
        size = self._counterpart.device_bytes
        return Exchanged(replies, up + size * len(answered), down + size * len(asks))

    def measure(self, asks: Mapping[int, Ask]) -> Mapping[int, Scored]:
        """Return how good models are on what clients hold back."""
        return self._clients.measure(asks)

    def name_of(self, client: int) -> str:
        """Return `client` and its number."""
        return f"client {client}"

    def is_everyone(self, cohort: Sequence[int]) -> bool:
        """Whether these are all clients."""
        return len(cohort) == self._dataset.clients

    def examples(self) -> int | None:
        """Return how many examples the dataset's clients own."""
        return self._dataset.total_examples

    def _others(self, algorithm: Algorithm, make: Callable[[str, nn.Module], Trainers]) -> Others[Trainers]:
        """Return trainers of the method's further networks."""

        def made(name: str, model: nn.Module) -> Trainers:
            if self._experiment.privacy.on:
                check_private(model, data.calibration.x)
            return make(name, model)

        data, seed = self._dataset, self._experiment.seed
        classes, examples = len(data.classes), data.calibration.x
        return Others(algorithm, made, data.shape, classes, seed, examples, objective_of(self._model))

    def _by_torch(self, place: Path, name: str, model: nn.Module) -> Trainers:
        cohort, _ = self._choose(model, place / f"trainer-{quote(name, safe='')}.txt")
        return TorchTrainer(model, self._on_notice), cohort

    def _by_graph(self, algorithm: Algorithm, model: nn.Module, place: Path, name: str = "") -> LiteRTTrainer:
        making = partial(self._on_notice, "making the training graph" + (f" of width {name}" if name else ""))
        kept = kept_training_graph(self._experiment, algorithm, self._dataset, model, place, making, name)
        return LiteRTTrainer(kept, self._dataset.objective)

    def _try(self, trainer: Trainer, model: nn.Module) -> None:
        """Try a round's work on the server's own examples, before anything is charged."""
        held, examples = state(model), self._dataset.calibration
        buffers = {name: held[name] for name in moving_buffers(model, examples.x) if name in held}
        trainer.check(Train(trained_weights(model), self._settings, buffers=buffers), examples)
