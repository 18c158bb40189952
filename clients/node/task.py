"""What a coordinator asks a node to learn: the network, how it is trained, and the training graph; signed."""

import hashlib
import importlib.util
import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from edgekit import algorithms, arrays, objectives, plugins
from edgekit.algorithms.base import Algorithm
from edgekit.algorithms.settings import Federation
from edgekit.algorithms.split.device import HalvesMaker
from edgekit.arrays import Array, Weights, problem_with
from edgekit.clients.node.folder import NodeSettings
from edgekit.clients.node.task_facts import TaskFacts
from edgekit.clients.trainer import Trainer
from edgekit.data import Examples, FederatedDataset
from edgekit.data.sources import load_own
from edgekit.errors import DataError, EdgekitError, MissingExtraError, RefusedError
from edgekit.objectives import Objective
from edgekit.runfolder import write_whole
from edgekit.section import first_problem
from edgekit.transforms import chain
from edgekit.transforms.base import Transform

OWN_SOURCES = ("digits", "moving-digits", "gestures", "machine-sounds", "presence")
"""Data sets that come with edgekit's packages, which a task may choose; all else is the owner's to name."""
FIXED = "fixed:"
"""With which the names of arrays that are never trained begin, in a task."""
log = logging.getLogger("edgekit.node")
OF_STATE = {"run", "run_id", "seed", "model", "parameters", "method", "transforms"}
"""Of a task: what tells apart the runs for which this device keeps something."""


class LacksTaskError(RefusedError):
    """This node must be given the task again."""

    def __init__(self) -> None:
        super().__init__("this node does not have the round's task (any more)")


@dataclass(frozen=True)
class Task:
    """A task, as it travels.

    Attributes:
        facts: in words and numbers.
        training: the training graph for nodes without torch; None where it was left out.
        fixed: what is never trained and not as the network is made: frozen parameters, constants.
    """

    facts: TaskFacts
    training: bytes | None
    fixed: Weights = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the task as bytes, to be signed and sent."""
        held: Weights = {} if self.training is None else {"training": np.frombuffer(self.training, np.uint8)}
        held |= {f"{FIXED}{name}": array for name, array in self.fixed.items()}
        return arrays.to_bytes(held, self.facts.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, content: bytes) -> "Task":
        """Read a task, from whoever sent it.

        Raises:
            RefusedError: it is none.
        """
        try:
            held, description = arrays.from_bytes(content)
            facts = TaskFacts.model_validate(description)
        except ValidationError as error:
            raise RefusedError(
                f"the task does not fit this edgekit ({first_problem(error)}): install the coordinator's version"
            ) from None
        except EdgekitError as error:
            raise RefusedError(f"the task cannot be read: {error}") from None
        training: Array | None = held.get("training")
        if training is not None and training.dtype != np.uint8:
            raise RefusedError("the task's training graph is no file")
        fixed = {name.removeprefix(FIXED): array for name, array in held.items() if name.startswith(FIXED)}
        if problem := problem_with(fixed, fixed):
            raise RefusedError(f"what the task fixes cannot be taken: {problem}")
        return cls(facts, None if training is None else training.tobytes(), fixed)

    @property
    def weights_like(self) -> Weights:
        """Arrays of the shapes that weights must have."""
        return {name: np.empty(shape, np.float32) for name, shape in self.facts.parameters.items()}

    def trainer(self, kind: str, modules: list[str]) -> Trainer:
        """Return the trainer, with model and interpreter loaded.

        Args:
            kind: `torch` or `litert`.
            modules: that the owner lets a task import.

        Raises:
            EdgekitError: this device cannot train it.
        """
        if kind == "litert":
            from edgekit.clients.litert import LiteRTTrainer

            if self.training is None:
                raise RefusedError("the task came without the training graph that this device needs")
            by_graph = LiteRTTrainer(self.training, self.objective(modules))
            by_graph.fix({name: array for name, array in self.fixed.items() if name in by_graph.initial()})
            return by_graph
        from edgekit.clients.torch_trainer import TorchTrainer
        from edgekit.models import build

        facts = self.facts
        check_allowed(facts.model.name, modules)
        objective = self.objective(modules)
        network = build(facts.model, facts.shape, len(facts.classes), facts.seed, objective=objective)
        if facts.compression:
            from edgekit.compression.record import rebuilt

            network = rebuilt(network, facts.shape, facts.compression)
            network.objective = objective  # type: ignore[assignment]
        made = TorchTrainer(network, log.warning)
        made.fix(self.fixed)
        return made

    def objective(self, modules: list[str]) -> Objective:
        """Return what the network is trained for; arguments and errors as of `algorithm`."""
        check_allowed(self.facts.objective.name, modules)
        return objectives.make(self.facts.objective)

    def algorithm(self, modules: list[str]) -> Algorithm:
        """Return the method whose client half this device runs.

        Args:
            modules: that the owner lets a task import.

        Raises:
            EdgekitError: this device does not have it, or must not import it.
        """
        method = self.facts.method
        if method is None:
            return Algorithm()
        check_allowed(method.algorithm or method.strategy, modules)
        measures = self.facts.data.client_test_fraction > 0
        return algorithms.make(Federation(**method.model_dump()), measures=measures)

    def transforms(self, modules: list[str]) -> list[Transform]:
        """Return what happens to this device's updates before they leave it; arguments and errors as of `algorithm`."""
        for one in self.facts.transforms:
            check_allowed(one.name, modules)
        return chain.make(self.facts.transforms)

    def state_name(self) -> str:
        """Return what names that which this device keeps between the rounds of a run with this method and network."""
        facts = self.facts.model_dump(mode="json", include=OF_STATE)
        return name_of(json.dumps(facts, sort_keys=True).encode())

    def halves(self, kind: str, modules: list[str]) -> HalvesMaker:
        """Return what computes this device's parts of a network that is cut; arguments and errors as of `trainer`."""
        facts, split = self.facts, self.facts.split
        if split is None:
            raise RefusedError("the task is of no network that is cut")
        if kind == "litert":
            from edgekit.clients.litert_parts import LiteRTDevice

            if self.training is None:
                raise RefusedError("the task came without the training graph that this device needs")
            return LiteRTDevice(self.training)
        from edgekit.algorithms.split.by_torch import TorchDevice
        from edgekit.clients.cohort.memory import keep_freed_memory
        from edgekit.models import build
        from edgekit.models.cut import CutModel

        check_allowed(facts.model.name, modules)
        keep_freed_memory()  # a step between two messages takes a fifth less time
        model = build(facts.model, facts.shape, len(facts.classes), facts.seed)
        bottom, _, *rest = CutModel(model, facts.shape).parts(split.cuts)
        return TorchDevice(bottom, rest[0] if rest else None)

    def examples(self, node_settings: NodeSettings) -> Examples:
        """Return this device's own examples, in the experiment's shape and classes.

        Raises:
            DataError: there are none, or they do not fit.
        """
        facts, objective = self.facts, self.objective(node_settings.modules)
        if node_settings.client >= 0:
            from edgekit.data import load

            check_allowed(facts.data.source, node_settings.modules)
            if not plugins.is_import_path(facts.data.source) and facts.data.source not in OWN_SOURCES:
                raise RefusedError(
                    f"the task's data is {facts.data.source!r}: a task may not choose what is read on this device; "
                    "give --data yourself"
                )
            settings = facts.data.model_copy(update={"client_test_fraction": 0.0})
            whole = load(settings, facts.seed, objective=objective)
            if node_settings.client >= whole.clients:
                raise DataError(
                    f"client = {node_settings.client}, but the experiment's data has {whole.clients} clients"
                )
            found = whole.client(node_settings.client)
        else:
            settings = facts.data.model_copy(update={"source": node_settings.data})
            found, _ = load_own(settings, facts.classes, objective)
        fitting(facts, found, objective).check(found, "this device")
        return found


def fitting(facts: TaskFacts, found: Examples, objective: Objective) -> FederatedDataset:
    """Return a dataset of a task's shape and classes whose one client has these examples."""
    dataset = FederatedDataset.of_shape(facts.shape, facts.classes, objective)
    return replace(dataset, load_client=lambda index: found, held_back=facts.data.client_test_fraction, seed=facts.seed)


def check_allowed(path: str, modules: list[str]) -> None:
    """See that a task imports only what the owner allows: a name from the network must not choose what runs here."""
    module = path.partition(":")[0]
    if plugins.is_import_path(path) and module.partition(".")[0] not in modules:
        raise RefusedError(
            f"the task names {path!r}, code of this device: if you trust the coordinator with it, add "
            f"modules = [{module.partition('.')[0]!r}] to node.toml"
        )


def verify(signing_key: str, content: bytes, signature: object) -> None:
    """See that the coordinator signed this.

    Raises:
        RefusedError: it did not.
    """
    try:
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signing_key))
        public.verify(signature if isinstance(signature, bytes) else b"", content)
    except (InvalidSignature, ValueError):
        raise RefusedError("what came is not signed by the coordinator's key: it is not taken") from None


def name_of(content: bytes) -> str:
    """Return what names a task: its hash."""
    return hashlib.sha256(content).hexdigest()[:32]


def keep(folder: Path, content: bytes) -> str:
    """Keep a task over restarts, and drop all but the newest two; return its name."""
    name = name_of(content)
    write_whole(folder / f"{name}.task", content)
    for old in sorted(folder.glob("*.task"), key=lambda path: path.stat().st_mtime)[:-2]:
        old.unlink(missing_ok=True)
        old.with_suffix(".tried").unlink(missing_ok=True)
    return name


def kept(folder: Path, name: str) -> Task | None:
    """Return a task that was kept, if it is there and whole."""
    path = folder / f"{name}.task"
    if not (len(name) == 32 and name.isalnum() and path.exists()):
        return None
    content = path.read_bytes()
    return Task.from_bytes(content) if name_of(content) == name else None


def choose_kind(trainer: str) -> str:
    """Return how this device trains.

    Args:
        trainer: the owner's wish.

    Raises:
        MissingExtraError: it cannot train at all, or not as wished.
    """
    has = {"torch": _importable("torch"), "litert": _importable("ai_edge_litert") or _importable("tflite_runtime")}
    if trainer == "auto":
        chosen = next((kind for kind in ("torch", "litert") if has[kind]), None)
        if chosen is None:
            raise MissingExtraError("ai-edge-litert", "node")
        return chosen
    if not has[trainer]:
        raise MissingExtraError(*(("torch", "train") if trainer == "torch" else ("ai-edge-litert", "node")))
    return trainer


def _importable(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
