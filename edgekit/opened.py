"""A run in Python: its figures, and its network to use."""

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit import experiment as experiments
from edgekit import plugins
from edgekit.errors import UsageError
from edgekit.experiment import Experiment
from edgekit.progress import Told
from edgekit.runfolder import RunFolder, measure_of, read_lines

if TYPE_CHECKING:
    from torch import nn

    from edgekit.pipeline.predicting import Evaluation, Predictions
    from edgekit.server.loop.metrics import RoundMetrics

OBJECTS = {"model": "model.name", "data": "data.source"}
"""What can be given as an object, and the key that names it."""


class Run:
    """A run: its folder, its figures, and its network to use.

    Args:
        path: of the folder.
        model: the network's module or class, where the run was given one as an object.
        data: likewise, its data.

    Attributes:
        path: of the folder.

    Example:
        >>> run = edgekit.open("runs/digits-001")
        >>> run.accuracy
        0.9526
    """

    def __init__(self, path: str | Path, model: Any = None, data: Any = None) -> None:
        self.path = Path(path)
        self._folder = RunFolder.open(self.path)
        self._objects = {}
        for what, given in (("model", model), ("data", data)):
            held = _named(self._folder, OBJECTS[what])
            if given is None:
                continue
            if not held.startswith(plugins.OBJECT):
                raise UsageError(f"{self.path} has {held!r} as {OBJECTS[what]}: it takes no {what} as an object")
            self._objects[held] = given

    @property
    def experiment(self) -> Experiment:
        """Its experiment, every key spelled out."""
        return experiments.load(self._folder.experiment)

    @property
    def result(self) -> dict[str, Any]:
        """What result.json holds.

        Raises:
            RunFolderError: it has not finished.
        """
        return self._folder.read_result()

    @property
    def score(self) -> float:
        """How good its network is on the test set, by the objective's measure; larger is better."""
        return float(measure_of(self.result)[1])

    @property
    def accuracy(self) -> float:
        """The share of the test set that is right.

        Raises:
            UsageError: it learns no classes; `score` tells then.
        """
        measure, value = measure_of(self.result)
        if measure != "accuracy":
            raise UsageError(f"{self.path} is judged by {measure}, not by accuracy: .score is {value:.4f}")
        return float(value)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A record a round, as metrics.jsonl has them: see `edgekit.server.loop.metrics.RoundMetrics`."""
        return list(read_lines(self._folder.metrics))

    @property
    def privacy(self) -> str:
        """What is protected, and how well, in a sentence."""
        return str(self.result["privacy_statement"])

    def model(self) -> "nn.Module":
        """Return its network with the trained weights, ready to run: it takes (examples, *shape) in float32.

        Raises:
            RunFolderError: it has not finished.
        """
        from edgekit.pipeline.trained import run_network

        with plugins.given(self._objects):
            return run_network(self._folder)[0]

    def predict(self, x: Any, top: int = 1) -> "Predictions":
        """Return its answers for new examples.

        Args:
            x: a file or folder, as `edgekit predict` takes; an array (examples, *shape), scaled as the data was where
                it holds whole numbers; a table of pandas, polars or pyarrow.
            top: classes to name an example.

        Returns:
            `rows`, a dict an example: `class` and `score` (of the chances), numbers, or labels.

        Raises:
            DataError: they are of another kind or shape than it takes.

        Example:
            >>> run.predict(x[:2]).rows
            [{'name': '0', 'class': '3', 'score': 0.991}, {'name': '1', 'class': '7', 'score': 0.874}]
        """
        from edgekit.pipeline.predicting import answers_of
        from edgekit.pipeline.trained import open_trained

        with plugins.given(self._objects):
            return answers_of(open_trained(self.path), x, top)

    def evaluate(self, data: Any = "") -> "Evaluation":
        """Return how good it is on labelled examples: see `edgekit.pipeline.predicting.evaluate`.

        Args:
            data: a file, folder or source as `edgekit evaluate` takes, an object as `edgekit.run` takes, or nothing:
                its own test set.

        Raises:
            DataError: they are of another kind or shape than it takes, or have other labels.
        """
        from edgekit.pipeline.predicting import evaluate

        with plugins.given(self._objects):
            return evaluate(self.path, data)

    def export(self, *presets: str, training: bool = False) -> dict[str, Any]:
        """Write .tflite files into the run, each checked in the runtimes; return their facts.

        Args:
            presets: number formats, such as "int8"; none are the experiment's.
            training: whether to write the training graph.

        Raises:
            ExportError: one cannot be made, or failed its check.
        """
        from edgekit.pipeline.exporting import export_run

        with plugins.given(self._objects):
            return export_run(self.path, presets, training, [], None, True, "", _quiet)

    def spiking(self, **settings: Any) -> dict[str, Any]:
        """Make its spiking form again; return its facts.

        Args:
            settings: keys of [spiking] that are others now, such as `steps=16`.

        Raises:
            ConversionError: the network has none.
        """
        from edgekit.pipeline.spiking_again import spike_run

        with plugins.given(self._objects):
            return spike_run(self.path, settings, _quiet)

    def report(self) -> Path:
        """Return its report's file, a page by itself.

        Raises:
            UsageError: it has none yet.
        """
        if not self._folder.report.exists():
            raise UsageError(f"{self.path} has no report yet: .resume() goes on with it")
        return self._folder.report

    def resume(self, on_round: "Callable[[RoundMetrics], None] | None" = None, progress: bool | None = None) -> "Run":
        """Go on where it was stopped, to the end; return itself. A finished run stays as it is."""
        from edgekit.pipeline import job

        with plugins.given(self._objects), Told(progress, on_round) as listener:
            job.resume(self.path, listener)
        return self

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}{', ' + _in_words(self.path) if self.path.exists() else ''})"

    def _repr_html_(self) -> str:
        from edgekit.pipeline.comparing import summary

        one = summary(self.path)
        facts = {
            "state": one.state,
            one.measure: "–" if one.score is None else f"{one.score:.4f}",
            "rounds": one.rounds,
            "parameters": "–" if one.parameters is None else f"{one.parameters:,}",
            "epsilon": "–" if one.epsilon is None else f"{one.epsilon:.2f}",
            "model": one.model,
            "data": one.data,
        }
        cells = "".join(f"<tr><th>{escape(key)}</th><td>{escape(str(value))}</td></tr>" for key, value in facts.items())
        report = self._folder.report
        link = f'<p><a href="{escape(str(report))}">report.html</a></p>' if report.exists() else ""
        return f"<table><caption>{escape(str(self.path))}</caption>{cells}</table>{link}"


def _named(folder: RunFolder, key: str) -> str:
    section, _, name = key.partition(".")
    return str(getattr(getattr(experiments.load(folder.experiment), section), name))


def _quiet(line: str) -> None:
    """Tell nobody."""


def _in_words(path: Path) -> str:
    from edgekit.pipeline.comparing import summary

    one = summary(path)
    return one.state if one.score is None else f"{one.measure} {one.score:.4f}"
