"""Options that several commands take, and how their values are read."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[str | None, typer.Option(metavar="package.module:Class", help="A torch module instead of a run.")]
Arguments = Annotated[str, typer.Option(metavar="JSON", help="With --model: the class's arguments.")]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="With --model: its state, .safetensors or .pt.")]
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
