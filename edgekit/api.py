"""edgekit in Python: the same as the command line, with objects where files take names."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

from edgekit import experiment as experiments
from edgekit import plugins
from edgekit.cli.new import TEMPLATE
from edgekit.experiment import Experiment
from edgekit.opened import OBJECTS, Run
from edgekit.progress import Told
from edgekit.runfolder import RunFolder

if TYPE_CHECKING:
    from edgekit.pipeline.comparing import Comparison, Summary
    from edgekit.pipeline.sweeping import Setting
    from edgekit.server.loop.metrics import RoundMetrics


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
    with plugins.given(objects), Told(progress, on_round) as listener:
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
    from edgekit.pipeline.comparing import compare, write_page

    found = compare([one.path if isinstance(one, Run) else Path(one) for one in given])
    if html is not None:
        write_page(Path(html), "Runs compared", found)
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
    with Told(progress, None) as listener:

        def ended(cell: sweeping.Cell, found: "Summary") -> None:
            listener.notice(f"{cell.label}: {found.outcome}")

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


__all__: Sequence[str] = ["Run", "compare", "open", "run", "runs", "sweep"]
