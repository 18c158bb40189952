"""The local engine: all clients of a dataset, in this process."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import nn

from edgekit.algorithms.base import Algorithm
from edgekit.algorithms.interactive import Counterpart, Interactive
from edgekit.asks import Ask, Scored, Train
from edgekit.clients.client_major.choice import client_major, lacks
from edgekit.clients.cohort.choice import slower
from edgekit.clients.cohort.trainer import VectorisedTrainer, difference, few_steps, obstacle, probed, remembers
from edgekit.clients.halves import keeps
from edgekit.clients.litert import LiteRTTrainer
from edgekit.clients.others import Others
from edgekit.clients.simulated import SimulatedClients, Trainers
from edgekit.clients.states import ClientStates
from edgekit.clients.torch_trainer import TorchTrainer, state, trained_weights
from edgekit.clients.trainer import CohortTrainer, Trainer
from edgekit.data import FederatedDataset
from edgekit.errors import ExperimentError, ModelError
from edgekit.local_settings import LocalSettings
from edgekit.models import check_private
from edgekit.models.requirements import moving_buffers
from edgekit.objectives import objective_of
from edgekit.runfolder import RunFolder, write_whole
from edgekit.server.engines.base import Draw, Exchanged
from edgekit.server.engines.graphs import kept_training_graph
from edgekit.server.settings import Sections
from edgekit.transforms.base import Transform

TRAINER = "trainer.txt"
"""In a run's checkpoints: why its clients train one after the other, empty if they do not."""


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
        single: Trainer = TorchTrainer(model, on_notice)
        cohort_trainer: CohortTrainer | None = None
        others: Others[Trainers] | None = None
        self._counterpart: Counterpart | None = None
        if isinstance(algorithm, Interactive):
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
            cohort_trainer, self.trainer = self._choose_trainer(model, place / TRAINER)
            others = self._others(algorithm, self._by_torch)
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

    def _by_torch(self, name: str, model: nn.Module) -> Trainers:
        return TorchTrainer(model, self._on_notice), self._choose_trainer(model, None)[0]

    def _by_graph(self, algorithm: Algorithm, model: nn.Module, place: Path, name: str = "") -> LiteRTTrainer:
        making = partial(self._on_notice, "making the training graph" + (f" of width {name}" if name else ""))
        kept = kept_training_graph(self._experiment, algorithm, self._dataset, model, place, making, name)
        return LiteRTTrainer(kept, self._dataset.objective)

    def _slower(self, model: nn.Module, kept: Path | None) -> str:
        """Return why clients train faster one after the other, "" if they do not; what the run began with holds."""
        if kept is not None and kept.exists():
            return kept.read_text()
        if kept is not None and any(kept.parent.glob("round-*.safetensors")):
            return ""  # begun when every cohort that could was trained together
        reason = slower(model, self._experiment.federation.cohort or self._dataset.clients)
        if kept is not None:
            write_whole(kept, reason)
        return reason

    def _try(self, trainer: Trainer, model: nn.Module) -> None:
        """Try a round's work on the server's own examples, before anything is charged."""
        held, examples = state(model), self._dataset.calibration
        buffers = {name: held[name] for name in moving_buffers(model, examples.x) if name in held}
        trainer.check(Train(trained_weights(model), self._settings, buffers=buffers), examples)

    def _client_major(self, model: nn.Module) -> CohortTrainer:
        """Return the client-major trainer, tried on real examples.

        Raises:
            ModelError: it cannot train this network so, or its steps are not torch's.
        """
        data = self._dataset
        if reason := lacks(self._settings):
            raise ModelError(reason)
        shape, classes = data.shape, len(data.classes)
        examples, blocks = probed(model, shape, classes, data.calibration)
        if reason := remembers(model, examples):
            raise ModelError(reason)
        try:
            made = client_major(model, shape, classes, self._experiment.training.memory_mb << 20)
        except ImportError as error:
            raise ModelError(f"it needs numba: {error}") from None
        self._on_notice("client-major training is compiled when it is first used on a machine: about half a minute")
        asked = Train(trained_weights(model), few_steps(self._settings, "sgd"))
        if reason := difference(model, made, asked, blocks):
            raise ModelError(reason)
        return made

    def _choose_trainer(self, model: nn.Module, kept: Path | None) -> tuple[CohortTrainer | None, str]:
        """Return the cohort's trainer, None for one client at a time, and words on the choice.

        Args:
            model: the network.
            kept: where the run keeps its choice, so that it goes on with the same bits.
        """
        training = self._experiment.training
        if training.trainer == "one-by-one":
            return None, "one client at a time, as training.trainer says"
        dataset = self._dataset
        if training.trainer == "client-major":
            try:
                return self._client_major(model), "client after client in compiled steps"
            except ModelError as problem:
                self._on_notice(f"not client-major: {problem}")
        reason = obstacle(model, dataset.shape, len(dataset.classes), dataset.calibration, self._settings)
        if reason is None and training.trainer != "cohort" and self._settings.work == "sgd":
            reason = self._slower(model, kept) or None
        if reason is None:
            return VectorisedTrainer(model, training.memory_mb << 20), "whole cohort in vectorised steps"
        if training.trainer == "cohort":
            raise ModelError(f"training.trainer is 'cohort', but {reason}: use 'auto'")
        self._on_notice(f"one client at a time: {reason}")
        return None, f"one client at a time: {reason}"
