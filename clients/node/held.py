"""What a device holds of a coordinator's task: network, examples, and how much of their privacy may be spent."""

import hashlib
import hmac
import logging
from typing import Any

import numpy as np

from edgekit.algorithms.base import Algorithm
from edgekit.arrays import Weights, problem_with
from edgekit.clients.budget import Budget
from edgekit.clients.node import task, trial
from edgekit.clients.node.agreement import agree, agreed, keep, planned_run
from edgekit.clients.node.folder import NodeFolder, NodeSettings
from edgekit.clients.node.limits import Limits
from edgekit.clients.node.sides import Side, side_of
from edgekit.clients.node.task import Task
from edgekit.clients.states import OwnState
from edgekit.clients.trainer import Trainer
from edgekit.data import Examples, FederatedDataset
from edgekit.errors import DataError, EdgekitError, RefusedError
from edgekit.local_settings import LocalSettings
from edgekit.privacy import Ledger
from edgekit.transforms.base import Transform

log = logging.getLogger("edgekit.node")


class DeclinedError(EdgekitError):
    """The device does not train now, as its owner wants."""


class Held:
    """A task made ready; network, interpreter and examples stay loaded between messages.

    Args:
        folder: of the node.
        lasting: whether this process lasts over messages.

    Attributes:
        folder: as given.
        node_settings: its owner's.
        kind: how this device trains.
        ledger: what was spent of its data's privacy.
        name, task, algorithm, transforms, examples: of the task that is ready; "" and None before.
        trainer: of a whole network; None where the method is an interactive one.
        side: this device's of an interactive method; None of others.
    """

    def __init__(self, folder: NodeFolder, *, lasting: bool) -> None:
        self._lasting = lasting
        self.folder = folder
        self.node_settings: NodeSettings = folder.node_settings()
        self.kind = task.choose_kind(self.node_settings.trainer)
        self.ledger = Ledger(folder.ledger, folder.ledger_head)
        self._secret = folder.secret()
        self.name = ""
        self.task: Task | None = None
        self.trainer: Trainer | None = None
        self.algorithm: Algorithm | None = None
        self.transforms: list[Transform] = []
        self.side: Side | None = None
        self.examples: Examples | None = None
        self._owned = ""
        self._others: Any = None

    def load(self, name: str) -> bool:
        """Make a task that is kept here ready for training; return whether it is there."""
        found = task.kept(self.folder.tasks, name)
        if found is None or (self.kind == "litert" and found.training is None):
            return False
        if self.kind == "litert" and found.training is not None:
            trial.check(found.training, self.folder.tasks / f"{name}.tried")
        agreement = agree(self.folder.agreement, found.facts, self.node_settings.epsilon)
        trainer = examples = None
        side = side_of(found, self.kind, self.node_settings, lasting=self._lasting)
        if side is None:
            trainer = found.trainer(self.kind, self.node_settings.modules)
        algorithm = found.algorithm(self.node_settings.modules)
        transforms = found.transforms(self.node_settings.modules)
        owned = ""
        if side is None or not side.own_data:
            try:
                examples = found.examples(self.node_settings)
            except DataError as error:
                if not agreement.protects:
                    raise
                # What does not fit tells of the data: of a class that is there, or a value that is not.
                log.warning("this device's data does not fit the task: %s", error)
                raise RefusedError("this device's data does not fit the task; its own log says why") from None
            owned = _fingerprint(examples)
        if not self.node_settings.epsilon:
            keep(self.folder.agreement, agreement)
        self._owned = owned
        self.trainer, self.side, self.examples = trainer, side, examples
        self.algorithm, self.transforms = algorithm, transforms
        self.task, self.name, self._others = found, name, None
        return True

    def ready(self, name: str, weights: Weights | None) -> None:
        """See that this node holds a task, and that the weights are of its network."""
        if name != self.name:
            self.load(name)
        if self.task is None or name != self.name:
            raise task.LacksTaskError
        like = self.task.weights_like if self.side is None else self.side.weights_like
        if weights is not None and (problem := problem_with(weights, like)):
            raise RefusedError(f"the weights are not of the task's network: {problem}")

    def trainer_of(self, module: str) -> Trainer:
        """Return what trains one of the method's networks.

        Raises:
            RefusedError: this device cannot train another than the run's own.
            TrainingError: there is none of this name.
        """
        assert self.trainer is not None
        if not module:
            return self.trainer
        if self.kind != "torch":
            raise RefusedError("without torch a device trains the one network of its training graph")
        if self._others is None:
            from edgekit.clients.others import Others
            from edgekit.clients.torch_trainer import TorchTrainer

            assert self.task is not None
            assert self.algorithm is not None
            facts = self.task.facts
            for section in self.algorithm.modules.values():
                task.check_allowed(section.name, self.node_settings.modules)
            objective, classes = self.task.objective(self.node_settings.modules), len(facts.classes)

            def made(name: str, network: Any) -> Trainer:
                return TorchTrainer(network)

            self._others = Others(self.algorithm, made, facts.shape, classes, facts.seed, objective=objective)
        trainer: Trainer = self._others[module]
        return trainer

    def fit(self, settings: LocalSettings) -> Examples:
        """Return the examples; where they are protected, single unfit ones are left out, as in simulation."""
        return self.whole().client(0, drop_unfit=settings.work != "sgd")

    def whole(self) -> FederatedDataset:
        """Return the examples as a dataset of one client."""
        assert self.task is not None
        assert self.examples is not None
        return task.fitting(self.task.facts, self.examples, self.task.objective(self.node_settings.modules))

    def budget(self) -> Budget | None:
        """Return what limits this device; None where another protects the data, and the owner agreed to that."""
        assert self.task is not None
        facts = self.task.facts
        planned = None if facts.planned is None else planned_run(f"{facts.run} {facts.run_id}", facts.planned)
        if self.node_settings.epsilon:
            delta = min(self.node_settings.delta, facts.planned.delta) if facts.planned else self.node_settings.delta
            return Budget(self.ledger, self.node_settings.epsilon, delta, planned=planned)
        held = agreed(self.folder.agreement)
        if held is None or not held.protects:
            return None
        return Budget(self.ledger, held.epsilon * (1 + 1e-9), held.delta, held.unit, planned)

    def limits(self) -> Limits:
        """Return how often this device takes part in this run."""
        assert self.task is not None
        return Limits(self.folder.rounds / f"{self.task.state_name()}.json", self.node_settings)

    def own_state(self) -> OwnState:
        """Return what this device keeps between the rounds of this run."""
        assert self.task is not None
        return OwnState(self.folder.states / f"{self.task.state_name()}.safetensors")

    def digest(self, purpose: str, weights: Weights, settings: str) -> bytes:
        """Return what this node's random numbers for a piece of work come from.

        The same work on the same weights and examples gives the same numbers, so that a round repeated after a crash
        releases nothing new; anything else, by one bit, gives others. Nobody without the node's secret can tell them.
        """
        mac = hmac.new(self._secret.to_bytes(32, "big"), digestmod=hashlib.sha256)
        for part in (purpose, self.name, self.kind, self._owned, settings):
            mac.update(len(part).to_bytes(4, "big") + part.encode())
        for name, array in weights.items():
            mac.update(name.encode() + b"\0" + np.ascontiguousarray(array).tobytes())
        return mac.digest()


def _fingerprint(examples: Examples) -> str:
    """Return what changes when a single value of the examples does."""
    content = hashlib.sha256(np.ascontiguousarray(examples.x).tobytes())
    content.update(np.ascontiguousarray(examples.y).tobytes())
    return content.hexdigest()


def rng_of(digest: bytes, purpose: str) -> np.random.Generator:
    """Return the random numbers that belong to a purpose of a piece of work."""
    seed = hmac.new(digest, purpose.encode(), hashlib.sha256).digest()
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(int.from_bytes(seed, "big"))))
