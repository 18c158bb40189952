"""What a tracker is, and what it is told."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from edgekit.experiment import Experiment, flat
from edgekit.runfolder import RunFolder
from edgekit.server.loop.metrics import RoundMetrics

PLACE = "tracking"
"""Folder in the run for what trackers keep there."""


class Tracker:
    """Keeps a run's figures somewhere else, too.

    Args:
        folder: of the run.
        name: of the experiment.
        settings: all keys of the experiment, as texts.

    Attributes:
        place: a folder of the run's for what it keeps.
    """

    def __init__(self, folder: RunFolder, name: str, settings: Mapping[str, str]) -> None:
        self.folder, self.name, self.settings = folder, name, settings
        self.place = folder.path / PLACE
        self.place.mkdir(parents=True, exist_ok=True)
        self.begin()

    def begin(self) -> None:
        """The run begins, or goes on."""

    def round(self, number: int, figures: Mapping[str, float]) -> None:
        """A round ended.

        Args:
            number: from 1.
            figures: finite numbers by name.
        """
        raise NotImplementedError

    def end(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """The run ended.

        Args:
            figures: finite numbers by name.
            files: that it made.
        """


def settings_of(experiment: Experiment) -> dict[str, str]:
    """Return all keys of an experiment as texts."""
    return {key: str(value) for key, value in flat(experiment.model_dump()).items()}


def figures_of_round(metrics: RoundMetrics) -> dict[str, float]:
    """Return a round's figures by name."""
    names = ("accuracy", "loss", "epsilon", "cohort", "replies", "failures", "bytes_up", "bytes_down", "seconds")
    found: dict[str, Any] = {name: getattr(metrics, name) for name in names}
    found |= metrics.metrics
    found |= {f"clients_{name}": value for name, value in metrics.clients.items()}
    return _numbers(found)


def figures_of_result(result: Mapping[str, Any]) -> dict[str, float]:
    """Return a whole run's figures by name."""
    found = {name: value for name, value in result.items() if not isinstance(value, bool)}
    for preset, facts in result.get("tflite", {}).items():
        found |= {f"{preset}_bytes": facts["bytes"], f"{preset}_max_error": facts.get("max_abs_error")}
    if spiking := result.get("spiking"):
        found |= {f"spiking_{name}": spiking.get(name) for name in ("accuracy_loihi", "synops", "steps")}
    if privacy := result.get("privacy"):
        found |= {name: privacy.get(name) for name in ("epsilon", "noise_multiplier")}
    return _numbers(found)


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    }


def files_of(folder: RunFolder) -> list[Path]:
    """Return the files of a run that are worth keeping elsewhere."""
    own = [folder.experiment, folder.metrics, folder.privacy, folder.model, folder.result, folder.report]
    made = [*sorted(folder.export.glob("*.tflite")), *sorted(folder.spiking.glob("*.n*"))]
    return [path for path in (*own, *made) if path.is_file()]
