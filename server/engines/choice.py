"""Which trainer simulated clients have: the fastest that can train their network, by a rule without a clock."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from edgekit.clients.client_major.choice import client_major, lacks, too_large, too_little
from edgekit.clients.cohort.choice import slower
from edgekit.clients.cohort.trainer import VectorisedTrainer, differs, obstacle, probed, remembers
from edgekit.clients.trainer import CohortTrainer
from edgekit.compiled import ready
from edgekit.data import FederatedDataset
from edgekit.errors import ExperimentError, ModelError
from edgekit.local_settings import LocalSettings
from edgekit.runfolder import write_whole
from edgekit.server.settings import Sections

TRAINER = "trainer.txt"
"""In a run's checkpoints: `client-major`, or why its clients train one after the other, empty if they do not."""
CLIENT_MAJOR, COHORT, ONE_BY_ONE = "client-major", "cohort", "one-by-one"


def kind_of(trainer: CohortTrainer | None) -> str:
    """Return what kind of trainer was chosen, for `again`."""
    if trainer is None:
        return ONE_BY_ONE
    return COHORT if isinstance(trainer, VectorisedTrainer) else CLIENT_MAJOR


def again(kind: str, model: nn.Module, dataset: FederatedDataset, memory_bytes: int) -> CohortTrainer | None:
    """Return a cohort's trainer of a kind that was chosen and tried elsewhere; None for one client at a time.

    Raises:
        ExperimentError: it cannot be had here.
    """
    if kind == ONE_BY_ONE:
        return None
    if kind == COHORT:
        return VectorisedTrainer(model, memory_bytes)
    try:
        return client_major(model, dataset.shape, len(dataset.classes), memory_bytes)
    except (ModelError, ImportError) as error:
        raise ExperimentError(f"the run trains client-major, which cannot be had here: {error}") from None


class Choice:
    """Chooses the trainer of a network's clients.

    Args:
        experiment: the experiment.
        dataset: the clients' data.
        settings: a round's instructions to clients.
        on_notice: called with a line for people.
    """

    def __init__(
        self,
        experiment: Sections,
        dataset: FederatedDataset,
        settings: LocalSettings,
        on_notice: Callable[[str], None],
    ) -> None:
        self._experiment, self._dataset, self._settings, self._say = experiment, dataset, settings, on_notice
        self._clients = experiment.federation.cohort or dataset.clients

    def __call__(self, model: nn.Module, kept: Path) -> tuple[CohortTrainer | None, str]:
        """Return the cohort's trainer, None for one client at a time, and words on the choice.

        Args:
            model: the network.
            kept: where the run keeps its choice, so that it goes on with the same bits.

        Raises:
            ExperimentError: what the run began with cannot be had here.
            ModelError: the trainer that is asked for cannot train this network.
        """
        training, dataset = self._experiment.training, self._dataset
        if training.trainer == ONE_BY_ONE:
            return None, "one client at a time, as training.trainer says"
        begun = self._begun(kept)
        if begun == CLIENT_MAJOR or (begun is None and training.trainer in (CLIENT_MAJOR, "auto")):
            try:
                found = self._client_major(model, asked=CLIENT_MAJOR in (begun, training.trainer))
            except ModelError as problem:
                if begun == CLIENT_MAJOR:
                    raise ExperimentError(f"the run was begun with client-major training, but here {problem}") from None
                if training.trainer == CLIENT_MAJOR:
                    self._say(f"not client-major: {problem}")
                found = None
            if found is not None:
                self._keep(kept, CLIENT_MAJOR)
                return found, "client after client in compiled steps"
        reason = obstacle(model, dataset.shape, len(dataset.classes), dataset.calibration, self._settings)
        if reason is None and training.trainer != COHORT and self._settings.work == "sgd":
            reason = (slower(model, self._clients) if begun is None else begun) or None
            self._keep(kept, reason or "")
        if reason is None:
            self._keep(kept, "")
            return VectorisedTrainer(model, training.memory_mb << 20), "whole cohort in vectorised steps"
        if training.trainer == COHORT:
            raise ModelError(f"training.trainer is 'cohort', but {reason}: use 'auto'")
        self._say(f"one client at a time: {reason}")
        return None, f"one client at a time: {reason}"

    def _begun(self, kept: Path) -> str | None:
        """Return what a run began with, None if it begins."""
        if kept.exists():
            return kept.read_text()
        asked = self._experiment.training.trainer == CLIENT_MAJOR  # whose choice was not kept at first
        if not asked and any(kept.parent.glob("round-*.safetensors")):
            return ""  # begun when every cohort that could was trained together
        return None

    def _keep(self, kept: Path, choice: str) -> None:
        if not kept.exists():
            write_whole(kept, choice)

    def _client_major(self, model: nn.Module, *, asked: bool) -> CohortTrainer | None:
        """Return the client-major trainer, tried on real examples; None where nobody asked and others are faster.

        Raises:
            ModelError: it cannot train this network so, or its steps are not torch's.
        """
        if not asked and too_little(model, self._examples_trained_on()):
            return None
        if reason := lacks(self._settings):
            raise ModelError(reason)
        data = self._dataset
        shape, classes = data.shape, len(data.classes)
        examples, blocks = probed(model, shape, classes, data.calibration)
        if reason := remembers(model, examples):
            raise ModelError(reason)
        try:
            made = client_major(model, shape, classes, self._experiment.training.memory_mb << 20)
            if not asked and too_large(model, made.products, private=self._settings.work != "sgd"):
                return None
            from edgekit.clients.client_major.steps import train
        except ImportError as error:
            raise ModelError(f"it needs numba: {error}") from None
        if not ready(train):
            self._say("compiling the training steps, once on this machine: about half a minute")
        if reason := differs(model, made, self._settings, blocks):
            raise ModelError(reason)
        return made

    def _examples_trained_on(self) -> float:
        """Return how many examples clients train on in the whole run, each time counted."""
        settings = self._settings
        each: float = self._dataset.examples_a_client
        if settings.work == "sgd":
            each *= settings.epochs
        else:
            each *= settings.sample_rate * (settings.steps if settings.work == "dp-sgd" else 1)
        return each * self._clients * self._experiment.federation.rounds
