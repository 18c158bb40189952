"""edgekit in Python: the same as the command line, with objects where files take names."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any, TextIO

from edgekit import experiment as experiments
from edgekit import plugins
from edgekit.cli.new import TEMPLATE
from edgekit.errors import UsageError
from edgekit.experiment import Experiment
from edgekit.runfolder import RunFolder, measure_of, read_lines

if TYPE_CHECKING:
    from torch import nn

    from edgekit.pipeline.comparing import Comparison, Summary
    from edgekit.pipeline.predicting import Predictions
    from edgekit.pipeline.sweeping import Setting
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

    def evaluate(self, data: Any = "") -> dict[str, Any]:
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

        with plugins.given(self._objects), _Told(progress, on_round) as listener:
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


def run(
    experiment: "str | Path | Mapping[str, Any] | Experiment | None" = None,
    *,
    model: Any = None,
    data: Any = None,
    out: str | Path | None = None,
    on_round: "Callable[[RoundMetrics], None] | None" = None,
    progress: bool | None = None,
    **sections: Any,
) -> Run:
    """Train, export, convert, report: the whole main job, into one run folder.

    Args:
        experiment: a file, its settings as a dict, or an `Experiment`; None is the built-in example, or all defaults
            where `model` or `data` is given.
        model: a name of the zoo, `package.module:Class`, or a torch module or its class.
        data: a source's name, or an object: `(x, y)`, `(x, y, groups)`, a table of pandas, polars or pyarrow, a torch
            Dataset, a scikit-learn Bunch, a Hugging Face dataset, a `FederatedDataset`.
        out: the run folder; by default runs/NAME-001, -002 …
        on_round: called with each round's figures.
        progress: whether to print lines; None does on a terminal and in notebooks.
        sections: keys of the experiment that are others: `seed=3`, `federation={"rounds": 5}`.

    Raises:
        EdgekitError: something failed; what could be done is in the folder.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> run = edgekit.run(data=load_wine(), model="mlp", federation={"rounds": 30})
        >>> run.accuracy
        0.94
    """
    from edgekit.pipeline import job

    made, objects = _resolved(experiment, model, data, sections)
    folder = Path(out) if out is not None else RunFolder.next_free(Path("runs"), made.name)
    RunFolder.check_free(folder)
    with plugins.given(objects), _Told(progress, on_round) as listener:
        result = job.run(made, folder, listener)
    if result["interrupted"]:
        raise KeyboardInterrupt(
            f"stopped after round {result['rounds']}; edgekit.open({str(folder)!r}).resume() goes on"
        )
    found = Run(folder)
    found._objects = objects
    return found


def open(path: str | Path, *, model: Any = None, data: Any = None) -> Run:
    """Open a run's folder.

    Args:
        path: of the folder.
        model: the network's module or class, where the run was given one as an object.
        data: likewise, its data: what needs it is its test set, and more training.

    Raises:
        UsageError: it is no run folder.
    """
    return Run(path, model, data)


def runs(place: str | Path = "runs") -> "list[Summary]":
    """Return a line on each run below a folder."""
    from edgekit.pipeline.comparing import find

    return find(Path(place))


def compare(*given: "str | Path | Run", html: str | Path | None = None) -> "Comparison":
    """Put runs beside each other: what each reached and spent, and what differs in their experiments.

    Args:
        given: runs, their folders, or folders of them.
        html: a file to write the comparison to as a page.

    Raises:
        UsageError: there are fewer than two.
    """
    from edgekit.pipeline.comparing import compare

    found = compare([one.path if isinstance(one, Run) else Path(one) for one in given])
    if html is not None:
        from edgekit.report import write_comparison

        facts, curves = [one.facts() for one in found.runs], [one.curve for one in found.runs]
        write_comparison(Path(html), "Runs compared", facts, curves, found.differences, found.notes)
    return found


def sweep(
    experiment: "str | Path | Mapping[str, Any] | Experiment | None" = None,
    grid: Mapping[str, Iterable[Any]] | None = None,
    *,
    workers: int = 1,
    out: str | Path | None = None,
    progress: bool | None = None,
    **sections: Any,
) -> "list[Setting]":
    """Run an experiment with every combination of settings, each in a process of its own.

    Args:
        experiment: as of `run`; models and data by their names, since other processes run them.
        grid: values by key, such as `{"training.learning_rate": [0.05, 0.1], "seed": range(5)}`.
        workers: processes at once.
        out: the sweep's folder, which it goes on with; by default runs/NAME-sweep-001 …
        progress: as of `run`.
        sections: as of `run`.

    Returns:
        Mean and deviation over seeds of each other setting, the best first.

    Raises:
        UsageError: nothing varies, or a run would have no valid experiment.
    """
    from edgekit.pipeline import sweeping

    made, _ = _resolved(experiment, None, None, sections)
    texts = {key: tuple(experiments.as_text(value) for value in values) for key, values in (grid or {}).items()}
    place = Path(out) if out is not None else RunFolder.next_free(Path("runs"), f"{made.name}-sweep")
    held = sweeping.begin(made, texts, place)
    with _Told(progress, None) as listener:

        def ended(cell: sweeping.Cell, found: "Summary") -> None:
            score = found.problem or found.state if found.score is None else f"{found.measure} {found.score:.4f}"
            listener.notice(f"{cell.label}: {score}")

        return sweeping.by_setting(sweeping.run(held, workers, ended))


def _resolved(
    given: "str | Path | Mapping[str, Any] | Experiment | None", model: Any, data: Any, sections: Mapping[str, Any]
) -> tuple[Experiment, dict[str, Any]]:
    """Return an experiment, and the objects that it names."""
    settings: dict[str, Any] = {}
    if isinstance(given, Experiment):
        settings = given.model_dump(exclude_unset=True)
    elif isinstance(given, Mapping):
        settings = dict(given)
    elif given is not None:
        settings = experiments.read(Path(given))
    elif model is None and data is None:
        settings = experiments.read(TEMPLATE)
    objects: dict[str, Any] = {}
    for what, one in (("model", model), ("data", data)):
        if one is not None:
            name = one if isinstance(one, str) else _name_of(one, what)
            if name.startswith(plugins.OBJECT):
                objects[name] = one
            section, _, key = OBJECTS[what].partition(".")
            settings[section] = {**settings.get(section, {}), key: name}
    for key, value in sections.items():
        if isinstance(value, Mapping) and isinstance(settings.get(key), Mapping):
            settings[key] = {**settings[key], **value}
        else:
            settings[key] = value
    return experiments.of(settings), objects


def _name_of(given: Any, what: str) -> str:
    """Return an import path where there is one, and otherwise a name that means this object."""
    module, name = getattr(given, "__module__", "") or "", getattr(given, "__qualname__", "")
    reached = isinstance(given, type | FunctionType) and name.isidentifier() and module not in ("", "__main__")
    if reached and getattr(sys.modules.get(module), name, None) is given:
        return f"{module}:{name}"
    kind = given if isinstance(given, type | FunctionType) else type(given)
    found = kind.__name__
    return f"{plugins.OBJECT}{found if found.isidentifier() else what}"


def _named(folder: RunFolder, key: str) -> str:
    section, _, name = key.partition(".")
    return str(getattr(getattr(experiments.load(folder.experiment), section), name))


def _quiet(line: str) -> None:
    """Tell nobody."""


def _in_words(path: Path) -> str:
    from edgekit.pipeline.comparing import summary

    one = summary(path)
    return one.state if one.score is None else f"{one.measure} {one.score:.4f}"


class _Told:
    """Tells what happens in lines, each where the last was: on terminals and in notebooks they do not flood."""

    def __init__(self, progress: bool | None, on_round: "Callable[[RoundMetrics], None] | None") -> None:
        self._on_round, self._shown = on_round, _shows() if progress is None else progress
        self._place: Any = None

    def __enter__(self) -> "_Told":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown and not _in_notebook():
            _clear(sys.stderr)

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._show(f"{name} …")

    def round(self, metrics: "RoundMetrics", rounds: int) -> None:
        """A round ended."""
        if self._on_round is not None:
            self._on_round(metrics)
        score = metrics.accuracy if metrics.measure == "accuracy" else metrics.metrics.get(metrics.measure)
        told = "" if score is None else f", {metrics.measure} {score:.4f}"
        self._show(f"round {metrics.round}/{rounds}{told}")

    def notice(self, line: str) -> None:
        """Something a person should know."""
        self._show(line)

    def _show(self, line: str) -> None:
        if not self._shown:
            return
        if _in_notebook():
            from IPython.display import display

            shown = {"text/plain": line}
            if self._place is None:
                self._place = display(shown, raw=True, display_id=True)
            else:
                self._place.update(shown, raw=True)
            return
        _clear(sys.stderr)
        print(line[:110], end="", file=sys.stderr, flush=True)


def _clear(stream: TextIO) -> None:
    print("\r\x1b[K", end="", file=stream, flush=True)


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _shows() -> bool:
    return _in_notebook() or sys.stderr.isatty()


__all__: Sequence[str] = ["Run", "compare", "open", "run", "runs", "sweep"]
