"""Trackers: a run's rounds, figures and files, told to what people keep their runs in. A tracker a file."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from edgekit.errors import MissingExtraError
from edgekit.experiment import Experiment
from edgekit.registry import TRACKERS
from edgekit.report.trackers.base import Tracker, figures_of_result, figures_of_round, files_of, settings_of
from edgekit.runfolder import RunFolder
from edgekit.server.loop.metrics import RoundMetrics

__all__ = ["Tracker", "Trackers"]


class Trackers:
    """All trackers of a run. One that fails is left out from then on, with a line for people: the run goes on.

    Args:
        names: of the experiment's `tracking`.
        folder: of the run.
        experiment: resolved.
        on_notice: called with lines for people.
    """

    def __init__(
        self, names: Sequence[str], folder: RunFolder, experiment: Experiment, on_notice: Callable[[str], None]
    ) -> None:
        self._folder, self._on_notice = folder, on_notice
        self._trackers: dict[str, Tracker] = {}
        for name in names:
            self._guarded(name, partial(self._begin, name, experiment))

    def _begin(self, name: str, experiment: Experiment) -> None:
        made: type[Tracker] = TRACKERS.load(name)
        self._trackers[name] = made(self._folder, experiment.name, settings_of(experiment))

    def round(self, metrics: RoundMetrics) -> None:
        """A round ended."""
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, partial(tracker.round, metrics.round, figures_of_round(metrics)))

    def end(self, result: dict[str, Any]) -> None:
        """The run ended, and its files are there."""
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, partial(tracker.end, figures_of_result(result), files_of(self._folder)))

    def _guarded(self, name: str, act: Callable[[], None]) -> None:
        try:
            act()
        except MissingExtraError as error:
            self._on_notice(f"not tracked by {name}: {error}")
        except Exception as error:  # trackers are other people's programs, and networks fail
            told = " ".join(str(error).split())[:200] or type(error).__name__
            self._on_notice(f"not tracked by {name} from here on: {told}")
            self._trackers.pop(name, None)
