"""Who trains in a round: simulated clients in this process, or (`server/fleet.py`) nodes somewhere else."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

from flwr.app import Message
from flwr.serverapp import Grid
from torch import nn

from edgekit import __version__
from edgekit.clients.app import SimulatedClients
from edgekit.clients.cohort import VectorisedTrainer, obstacle
from edgekit.clients.litert import LiteRTTrainer
from edgekit.clients.split.cohort import Plan as SplitPlan
from edgekit.clients.split.cohort import SplitTrainer
from edgekit.clients.torch_trainer import TorchTrainer
from edgekit.clients.trainer import CohortTrainer, OneTrainer
from edgekit.data import FederatedDataset
from edgekit.data.vertical import VerticalDataset
from edgekit.errors import ModelError
from edgekit.experiment import Experiment
from edgekit.export.training.file import training_file
from edgekit.export.training.split_file import split_file
from edgekit.export.training.steps import Options
from edgekit.models.vertical import VerticalNetwork
from edgekit.runfolder import RunFolder, write_whole
from edgekit.server.local_grid import LocalGrid
from edgekit.server.split import choose_cut, split_trainer
from edgekit.server.vertical import VerticalTrainer

Draw = Callable[[int], list[int]]
"""Draws places out of so many."""


class Crew(Protocol):
    """The clients of a federation, as the coordinator sees them.

    Attributes:
        trainer: how they train, for people.
        patient: whether a round without any update is run again, because clients come and go.
        released: whether clients have sent anything in the last round, of split learning with a fleet.
    """

    trainer: str
    patient: bool
    released: bool

    def choose(self, number: int, draw: Draw) -> list[int]:
        """Return who takes part in a round, as numbers; `draw(n)` draws places out of n. It may wait for clients."""

    def grid(self, cohort: list[int]) -> Grid:
        """Return the grid that a strategy sees: exactly these clients are online."""

    def train(self, messages: Iterable[Message]) -> list[Message]:
        """Return the clients' replies."""

    def client_of(self, node: int) -> int:
        """Return a client's number by its node's id."""

    def name_of(self, client: int) -> str:
        """Return what people call a client."""

    def is_everyone(self, cohort: list[int]) -> bool:
        """Whether nobody's data is outside this cohort."""

    def examples(self) -> int | None:
        """Return how many examples all clients own together, as far as it is known."""

    def moved(self, size: int, sent: int, accepted: int) -> tuple[int, int]:
        """Return the bytes that went up and down in the round that has just ended.

        Args:
            size: of the network.
            sent: messages.
            accepted: updates.
        """


class SimulatedCrew:
    """All clients of a dataset, in this process.

    Args:
        experiment: the experiment.
        dataset: the clients' data.
        model: the network.
        run: the run folder.
        seed: of the batches, and of the noise that clients add.
        on_notice: called with a line for people.
    """

    patient = False
    released = True

    def __init__(
        self,
        experiment: Experiment,
        dataset: FederatedDataset,
        model: nn.Module,
        run: RunFolder,
        seed: int,
        on_notice: Callable[[str], None],
    ) -> None:
        self._experiment, self._dataset, self._model = experiment, dataset, model
        self._on_notice = on_notice
        cohort_trainer: CohortTrainer | None
        single: OneTrainer
        self._split: SplitTrainer | VerticalTrainer | None = None
        if isinstance(dataset, VerticalDataset):
            assert isinstance(model, VerticalNetwork)
            self._split = parties = VerticalTrainer(experiment.split, model, dataset, seed, on_notice)
            self.trainer = f"split learning with {dataset.clients} parties that hold different features"
            self._grid = LocalGrid(parties.app, dataset.clients, parties.train_cohort, on_notice, apart=False)
            return
        split_clients: SplitTrainer | None = None
        if experiment.split.cut:
            split = experiment.split
            if split.cut == "auto":
                split = choose_cut(experiment, model, dataset, on_notice)
            single = cohort_trainer = self._split = split_clients = split_trainer(split, model, dataset)
            self.trainer = f"split learning, cut behind {split.cut}"
            if dataset.total_examples is not None:
                on_notice(self._split_costs(split_clients, experiment, dataset.total_examples / dataset.clients))
        elif experiment.training.trainer == "litert":
            making = partial(on_notice, "making the training graph")
            single = LiteRTTrainer(kept_training_graph(experiment, dataset, model, run, making))
            cohort_trainer, self.trainer = None, "one client at a time in LiteRT, as devices without torch train"
        else:
            single = TorchTrainer(model)
            cohort_trainer, self.trainer = self._choose_trainer()
        clients = SimulatedClients(dataset, single, cohort_trainer, seed)
        together = clients.train_cohort if cohort_trainer else None
        self._grid = LocalGrid(
            clients.app,
            dataset.clients,
            together,
            on_notice,
            apart=split_clients is None or not split_clients.server.shared,
        )

    def choose(self, number: int, draw: Draw) -> list[int]:
        """Return the drawn clients."""
        return draw(self._dataset.clients)

    def grid(self, cohort: list[int]) -> LocalGrid:
        """Return the grid, with these clients online."""
        self._grid.online = cohort
        return self._grid

    def train(self, messages: Iterable[Message]) -> list[Message]:
        """Return the clients' replies."""
        return list(self._grid.send_and_receive(messages))

    def client_of(self, node: int) -> int:
        """Return a client's number by its node's id."""
        return self._grid.client_of(node)

    def name_of(self, client: int) -> str:
        """Return `client` and its number."""
        return f"client {client}"

    def is_everyone(self, cohort: list[int]) -> bool:
        """Whether these are all clients."""
        return len(cohort) == self._dataset.clients

    def examples(self) -> int | None:
        """Return how many examples the dataset's clients own."""
        return self._dataset.total_examples

    def moved(self, size: int, sent: int, accepted: int) -> tuple[int, int]:
        """Return the bytes of updates and weights; of split learning, of its stream too."""
        if self._split is None:
            return size * accepted, size * sent
        up, down = self._split.take_traffic()
        return up + self._split.device_bytes * accepted, down + self._split.device_bytes * sent

    def _split_costs(self, split: SplitTrainer, experiment: Experiment, share: float) -> str:
        """Say what split learning moves, beside federated averaging, which people may not expect."""
        stream = split.bytes_an_example * share * experiment.training.epochs + 2 * split.device_bytes
        whole = 2 * sum(tensor.nbytes for tensor in self._model.state_dict().values())
        return (
            f"split learning moves about {stream / 1e6:.2g} MB a client and round, federated averaging would move "
            f"{whole / 1e6:.2g} MB"
        )

    def _choose_trainer(self) -> tuple[VectorisedTrainer | None, str]:
        training = self._experiment.training
        if training.trainer == "one-by-one":
            return None, "one client at a time, as training.trainer says"
        reason = obstacle(self._model, self._dataset.shape, len(self._dataset.classes))
        if reason is None:
            return VectorisedTrainer(self._model, training.memory_mb << 20), "whole cohort in vectorised steps"
        if training.trainer == "cohort":
            raise ModelError(f"training.trainer is 'cohort', but {reason}: use 'auto'")
        self._on_notice(f"one client at a time: {reason}")
        return None, f"one client at a time: {reason}"


def kept_training_graph(
    experiment: Experiment, dataset: FederatedDataset, model: nn.Module, run: RunFolder, making: Callable[[], None]
) -> Path:
    """Return the graph with which clients without torch train: the one that the run keeps, or a new one.

    Args:
        experiment: the experiment.
        dataset: its data.
        model: its network.
        run: the run folder, which keeps it over restarts.
        making: called before it is made, which takes a while.
    """

    def made() -> bytes:
        options = replace(Options.of(experiment), private=experiment.privacy.unit == "example")
        return training_file(model, dataset.shape, len(dataset.classes), options, {})[0]

    return _kept(run.checkpoint / "training.tflite", made, making)


def kept_split_graph(
    experiment: Experiment, plan: SplitPlan, dataset: FederatedDataset, run: RunFolder, making: Callable[[], None]
) -> Path:
    """Return the graph with which clients without torch train their parts of a network that is cut.

    Args:
        experiment: the experiment.
        plan: how it is cut.
        dataset, run, making: as of `kept_training_graph`.
    """

    def made() -> bytes:
        device = plan.device
        options = replace(Options.of(experiment), private=experiment.privacy.on)
        crossing, classes = plan.terms.crossing, len(dataset.classes)
        return split_file(device.bottom, device.tail, dataset.shape, crossing, classes, options, {})[0]

    what = [plan.names, Options.of(experiment).batch, experiment.privacy.on, __version__]
    name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]  # a profile may have changed what `auto` chooses
    return _kept(run.checkpoint / f"split-{name}.tflite", made, making)


def _kept(path: Path, made: Callable[[], bytes], making: Callable[[], None]) -> Path:
    """Return a run's training file; a new one is told by `making`, whether it is converted or taken from the cache."""
    if not path.exists():
        making()
        write_whole(path, made())
    return path
