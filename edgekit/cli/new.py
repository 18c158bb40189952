"""`edgekit new`: a commented experiment to start from."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

TEMPLATE = Path(str(files("edgekit").joinpath("example.toml")))
"""The built-in example, which is also what `edgekit new` writes."""


def new(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")] = Path("experiment.toml"),
) -> None:
    """Write a commented experiment file: the built-in example, every line explained.

    Example:

        edgekit new mine.toml
    """
    from edgekit.errors import UsageError
    from edgekit.runfolder import write_whole

    if path.exists():
        raise UsageError(f"{path} exists already: give another name")
    write_whole(path, TEMPLATE.read_text())
    print(f"Wrote {path}. Change what you like, then: edgekit run {path}")
