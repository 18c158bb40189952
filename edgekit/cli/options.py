"""Options that several commands take, and how their values are read."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgekit.experiment import Experiment
    from edgekit.runfolder import RunFolder

Model = Annotated[str | None, typer.Option(metavar="package.module:Class", help="A torch module instead of a run.")]
Arguments = Annotated[str, typer.Option(metavar="JSON", help="With --model: the class's arguments.")]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="With --model: its state, .safetensors or .pt.")]
ExperimentArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[EXPERIMENT.toml] [section.key=value …]", help="An experiment file, and overrides."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON and nothing else.")]


def _trusted(given: bool) -> bool:
    from edgekit.plugins import guarding
    from edgekit.trust import VARIABLE, Gate

    gate = guarding()
    if given and isinstance(gate, Gate):
        gate.trusts = True
        os.environ[VARIABLE] = "1"  # for what this command starts
    return given


Trust = Annotated[
    bool,
    typer.Option(
        "--trust", callback=_trusted, is_eager=True, help="Run code that the experiment names, and remember that."
    ),
]


def from_elsewhere() -> None:
    """Say that what names code may come from elsewhere, as run folders do: trust goes by content then."""
    from edgekit.plugins import guarding
    from edgekit.trust import Gate

    gate = guarding()
    if isinstance(gate, Gate):
        gate.elsewhere = True


def open_run(path: Path) -> "RunFolder":
    """Open a run folder, which may come from elsewhere.

    Raises:
        UsageError: it is none.
    """
    from edgekit.runfolder import RunFolder

    from_elsewhere()
    return RunFolder.open(path)


def json_object(option: str, text: str) -> dict[str, Any]:
    """Read an option's JSON object.

    Raises:
        UsageError: it is none.
    """
    from edgekit.errors import UsageError

    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{option} {text!r}: give a JSON object, as '{{\"width\": 2}}'")
    return found


def read_experiment(arguments: list[str] | None) -> "Experiment":
    """Read the experiment that a command was given: a file, or the built-in example, and single keys.

    Raises:
        UsageError: there are two files, the experiment breaks the schema, or it names what nobody knows.
    """
    from edgekit import experiment as experiments
    from edgekit.cli.new import TEMPLATE
    from edgekit.errors import UsageError

    given = arguments or []
    paths = [argument for argument in given if "=" not in argument]
    if len(paths) > 1:
        raise UsageError(
            f"one experiment file at a time: {paths[1]!r} is neither an override (key=value) nor the first"
        )
    overrides = [argument for argument in given if "=" in argument]
    if not paths and any(one.startswith("model.name=") for one in overrides):
        overrides.insert(0, "model.arguments={}")  # the example's are of its own network
    if paths and not Path(paths[0]).resolve().is_relative_to(Path.cwd()):
        from_elsewhere()
    experiment = experiments.load(Path(paths[0]) if paths else TEMPLATE, overrides)
    check_named(experiment)
    return experiment


def check_named(experiment: "Experiment") -> None:
    """See that what an experiment names is known, and that its code may be run here.

    Raises:
        UsageError: it may not.
        ExperimentError: nobody knows it.
    """
    from edgekit.registry import OF_PRIVACY, check_names

    federation = experiment.federation
    check_names(
        {
            "model.name": experiment.model.name,
            "objective.name": experiment.objective.name,
            "data.source": experiment.data.source,
            "federation.algorithm": federation.algorithm,
            "federation.selector": federation.selector,
            "federation.strategy": "" if federation.strategy.startswith(OF_PRIVACY) else federation.strategy,
        },
        [one.name for one in federation.transforms],
        experiment.tracking,
    )
