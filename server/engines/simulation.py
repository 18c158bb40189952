"""Simulated clients, and all that it takes to make them: in this process, or once more in another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

from torch import nn

from edgekit.algorithms.base import Algorithm
from edgekit.algorithms.interactive import Counterpart, Interactive
from edgekit.asks import Train
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
from edgekit.server.engines.choice import CLIENT_MAJOR, TRAINER, Choice, again, kind_of
from edgekit.server.engines.graphs import kept_training_graph
from edgekit.server.settings import Sections
from edgekit.transforms.base import Transform


@dataclass(frozen=True)
class Recipe:
    """What simulated clients are made of; it can be sent to other processes.

    Attributes:
        experiment: the experiment.
        dataset: the clients' data.
        model: the network.
        place: folder of what the run keeps of them.
        seed: of the batches, and of the noise that clients add.
        algorithm: whose client half they run.
        transforms: what happens to their updates then.
        settings: a round's instructions to clients, for which the network is tried on real examples.
        trainer: that was chosen and tried already, by its kind; None has it chosen.
    """

    experiment: Sections
    dataset: FederatedDataset
    model: nn.Module
    place: Path
    seed: int
    algorithm: Algorithm
    transforms: Sequence[Transform]
    settings: LocalSettings
    trainer: str | None = None

    @property
    def keeps(self) -> bool:
        """Whether clients keep something between rounds."""
        return keeps(self.algorithm, self.transforms)

    @property
    def in_graph(self) -> bool:
        """Whether clients train in LiteRT, as devices without torch do."""
        return self.experiment.training.trainer == "litert"

    @property
    def needs_place(self) -> bool:
        """Whether whoever makes the clients must see the run's folder."""
        return self.keeps or self.in_graph or bool(self.algorithm.modules)


class Simulation:
    """Simulated clients with their trainers.

    Args:
        recipe: of what.
        on_notice: called with a line for people.

    Attributes:
        clients: the clients.
        trainer: how they train, for people.
        counterpart: of an interactive method, the server's side.

    Raises:
        EdgekitError: the network cannot be trained so.
    """

    def __init__(self, recipe: Recipe, on_notice: Callable[[str], None]) -> None:
        self.recipe, self._on_notice = recipe, on_notice
        experiment, dataset, model, algorithm = recipe.experiment, recipe.dataset, recipe.model, recipe.algorithm
        self._choose = Choice(experiment, dataset, recipe.settings, on_notice)
        self._single: Trainer = TorchTrainer(model, on_notice)
        self._cohort: CohortTrainer | None = None
        others: Others[Trainers] | None = None
        self.counterpart: Counterpart | None = None
        if isinstance(algorithm, Interactive):
            training = experiment.training.plain()
            self.counterpart = algorithm.counterpart(model, dataset, training, recipe.seed, on_notice)
            self.trainer = self.counterpart.trainer
        elif recipe.in_graph:
            if key := experiment.training.needs_torch:
                raise ExperimentError(f"training.{key} needs torch: set training.trainer = 'auto'")
            if key := algorithm.needs_torch:
                raise ExperimentError(f"{key} needs torch: set training.trainer = 'auto'")
            self._single = self._by_graph("", model)
            others = self._others(lambda name, network: (self._by_graph(name, network), None))
            self.trainer = "one client at a time in LiteRT, as devices without torch train"
        else:
            if recipe.trainer is None:
                self._cohort, self.trainer = self._choose(model, recipe.place / TRAINER)
            else:
                self._cohort = again(recipe.trainer, model, dataset, experiment.training.memory_mb << 20)
                self.trainer = recipe.trainer
            others = self._others(self._by_torch)
        if self.counterpart is None and self._cohort is None and recipe.trainer is None:
            self._try()
        self.clients = SimulatedClients(
            dataset,
            algorithm,
            self._single,
            self._cohort,
            recipe.seed,
            ClientStates(recipe.place / "clients") if recipe.keeps else None,
            on_notice,
            recipe.transforms,
            others,
            self.counterpart,
        )

    @property
    def threads(self) -> bool:
        """Whether training takes all cores already."""
        return kind_of(self._cohort) == CLIENT_MAJOR

    @property
    def tried(self) -> Recipe:
        """The recipe for the same clients elsewhere: what was chosen and tried here is not again."""
        return replace(self.recipe, trainer=kind_of(self._cohort))

    def _others(self, make: Callable[[str, nn.Module], Trainers]) -> Others[Trainers]:
        """Return trainers of the method's further networks."""
        recipe, data = self.recipe, self.recipe.dataset

        def made(name: str, model: nn.Module) -> Trainers:
            if recipe.experiment.privacy.on:
                check_private(model, data.calibration.x)
            return make(name, model)

        objective, seed = objective_of(recipe.model), recipe.experiment.seed
        return Others(recipe.algorithm, made, data.shape, len(data.classes), seed, data.calibration.x, objective)

    def _by_torch(self, name: str, model: nn.Module) -> Trainers:
        cohort, _ = self._choose(model, self.recipe.place / f"trainer-{quote(name, safe='')}.txt")
        return TorchTrainer(model, self._on_notice), cohort

    def _by_graph(self, name: str, model: nn.Module) -> LiteRTTrainer:
        recipe = self.recipe
        making = partial(self._on_notice, "making the training graph" + (f" of width {name}" if name else ""))
        parts = recipe.experiment, recipe.algorithm, recipe.dataset
        return LiteRTTrainer(kept_training_graph(*parts, model, recipe.place, making, name), recipe.dataset.objective)

    def _try(self) -> None:
        """Try a round's work on the server's own examples, before anything is charged."""
        model, examples = self.recipe.model, self.recipe.dataset.calibration
        held = state(model)
        buffers = {name: held[name] for name in moving_buffers(model, examples.x) if name in held}
        self._single.check(Train(trained_weights(model), self.recipe.settings, buffers=buffers), examples)
