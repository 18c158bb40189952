"""Weights & Biases: kept in the run, to be sent with `wandb sync`; sent at once where WANDB_MODE=online."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.errors import MissingExtraError
from edgekit.report.trackers.base import Tracker
from edgekit.runfolder import write_whole


class WandB(Tracker):
    """Settings, figures by round, and the run's files as an artefact."""

    def begin(self) -> None:
        """Open a run of W&B's, the same again when a run of ours goes on."""
        for name, value in (("WANDB_SILENT", "true"), ("WANDB_MODE", "offline"), ("WANDB_ERROR_REPORTING", "false")):
            os.environ.setdefault(name, value)
        try:
            import wandb
        except ImportError:
            raise MissingExtraError("wandb", "trackers") from None
        known = self.place / "wandb-id"
        if not known.exists():
            write_whole(known, f"{secrets.token_hex(4)}\n")
        settings = wandb.Settings(console="off", disable_git=True, save_code=False, x_disable_stats=True)
        self._run = wandb.init(
            project=self.name,
            name=self.folder.path.name,
            id=known.read_text().strip(),
            resume="allow" if os.environ["WANDB_MODE"] == "online" else None,
            config=dict(self.settings),
            dir=str(self.place),
            settings=settings,
        )
        self._wandb = wandb

    def round(self, number: int, figures: Mapping[str, float]) -> None:
        """Log a step."""
        self._run.log(dict(figures), step=number)

    def end(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Keep the run's figures as its summary, and its files."""
        self._run.summary.update(dict(figures))
        kept = self._wandb.Artifact(f"{self.name}-{self.folder.path.name}", type="run")
        for path in files:
            kept.add_file(str(path), path.relative_to(self.folder.path).as_posix())
        self._run.log_artifact(kept)
        self._run.finish()
