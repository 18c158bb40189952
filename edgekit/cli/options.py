"""Options that several commands take, and how their values are read."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgekit.experiment import Experiment

Model = Annotated[str | None, typer.Option(metavar="package.module:Class", help="A torch module instead of a run.")]
Arguments = Annotated[str, typer.Option(metavar="JSON", help="With --model: the class's arguments.")]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="With --model: its state, .safetensors or .pt.")]
ExperimentArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[EXPERIMENT.toml] [section.key=value …]", help="An experiment file, and overrides."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the facts as JSON and nothing else.")]


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
    from edgekit.registry import OF_PRIVACY, check_names

    given = arguments or []
    paths = [argument for argument in given if "=" not in argument]
    if len(paths) > 1:
        raise UsageError(
            f"one experiment file at a time: {paths[1]!r} is neither an override (key=value) nor the first"
        )
    overrides = [argument for argument in given if "=" in argument]
    experiment = experiments.load(Path(paths[0]) if paths else TEMPLATE, overrides)
    federation = experiment.federation
    check_names(
        {
            "model.name": experiment.model.name,
            "data.source": experiment.data.source,
            "federation.algorithm": federation.algorithm,
            "federation.selector": federation.selector,
            "federation.strategy": "" if federation.strategy.startswith(OF_PRIVACY) else federation.strategy,
        },
        [one.name for one in federation.transforms],
    )
    return experiment
