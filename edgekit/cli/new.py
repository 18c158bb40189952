"""`edgekit new`: a commented experiment to start from."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

TEMPLATE = Path(str(files("edgekit").joinpath("example.toml")))
"""The built-in example, which is also what `edgekit new` writes."""

SCHEMA = "experiment.schema.json"


def schema_text() -> str:
    """Return the JSON schema of experiments, which is made of the sections themselves."""
    import json

    from edgekit.experiment import Experiment

    return json.dumps(Experiment.model_json_schema(), indent=1) + "\n"


def new(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")] = Path("experiment.toml"),
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of experiments instead.")] = False,
) -> None:
    """Write a commented experiment file: the built-in example, every line explained.

    Beside it lies the schema that it names, so that editors complete keys and tell what is wrong.

    Examples:

        edgekit new mine.toml

        edgekit new --schema > experiment.schema.json
    """
    if schema:
        print(schema_text(), end="")
        return
    from edgekit.errors import UsageError
    from edgekit.runfolder import write_whole

    if path.exists():
        raise UsageError(f"{path} exists already: give another name")
    write_whole(path.with_name(SCHEMA), schema_text())
    write_whole(path, f"#:schema ./{SCHEMA}\n{TEMPLATE.read_text()}")
    print(f"Wrote {path}. Change what you like, then: edgekit run {path}")
