"""TensorBoard: event files in the run, which `tensorboard --logdir runs` finds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.errors import MissingExtraError
from edgekit.report.trackers.base import Tracker


class TensorBoard(Tracker):
    """Scalars by round, and settings and figures of the whole run."""

    def begin(self) -> None:
        """Open an event file."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError("tensorboard", "trackers") from None
        self._writer = SummaryWriter(str(self.place / "tensorboard"))
        settings = "\n".join(f"    {key} = {value}" for key, value in self.settings.items())
        self._writer.add_text("experiment", settings)

    def round(self, number: int, figures: Mapping[str, float]) -> None:
        """Write a scalar a figure."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, number)
        self._writer.flush()

    def end(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Write the run's figures; its files lie beside."""
        for name, value in figures.items():
            self._writer.add_scalar(f"run/{name}", value, 0)
        self._writer.add_text("files", "\n".join(f"    {path}" for path in files))
        self._writer.close()
