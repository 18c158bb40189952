"""MLflow: a folder `mlruns` beside the runs, or the server that MLFLOW_TRACKING_URI names."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.errors import MissingExtraError
from edgekit.report.trackers.base import Tracker
from edgekit.runfolder import write_whole

LONGEST_SETTING = 500
"""Letters of a parameter that every MLflow keeps."""


class MLflow(Tracker):
    """Parameters, metrics by round, and the run's files as artefacts."""

    def begin(self) -> None:
        """Open a run of MLflow's, the same again when a run of ours goes on."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise MissingExtraError("mlflow-skinny", "trackers") from None
        beside = (self.folder.path.absolute().parent / "mlruns").as_uri()
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", beside))
        known = self.place / "mlflow"
        if known.exists():
            self._run = known.read_text().strip()
            return
        found = self._client.get_experiment_by_name(self.name)
        experiment = self._client.create_experiment(self.name) if found is None else found.experiment_id
        self._run = self._client.create_run(experiment, run_name=self.folder.path.name).info.run_id
        write_whole(known, f"{self._run}\n")
        for key, value in self.settings.items():
            self._client.log_param(self._run, key, value[:LONGEST_SETTING])

    def round(self, number: int, figures: Mapping[str, float]) -> None:
        """Log a metric a figure."""
        for name, value in figures.items():
            self._client.log_metric(self._run, name, value, step=number)

    def end(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log the run's figures and files."""
        for name, value in figures.items():
            self._client.log_metric(self._run, f"run_{name}", value)
        for path in files:
            beside = path.parent.relative_to(self.folder.path).as_posix()
            self._client.log_artifact(self._run, str(path), None if beside == "." else beside)
        self._client.set_terminated(self._run)
