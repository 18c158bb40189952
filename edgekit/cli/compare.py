"""`edgekit compare` and `edgekit runs`: several runs beside each other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.options import AsJson, from_elsewhere

if TYPE_CHECKING:
    from edgekit.pipeline.comparing import Summary

SHOWN_VALUE = 40
"""Letters of a setting in a table."""
Page = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page, too.")]


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders, or folders of them.")],
    page: Page = None,
    as_json: AsJson = False,
) -> None:
    """Put runs beside each other: what each reached and spent, and what differs in their experiments.

    Examples:

        edgekit compare runs/digits-001 runs/digits-002

        edgekit compare runs/sweep-001 --html compared.html
    """
    import json

    from rich.console import Console

    from edgekit.pipeline import comparing

    from_elsewhere()
    found = comparing.compare(runs)
    if page is not None:
        comparing.write_page(page, "Runs compared", found)
    if as_json:
        print(
            json.dumps(
                {
                    "runs": [run.facts() for run in found.runs],
                    "differences": {key: list(values) for key, values in found.differences.items()},
                    "notes": list(found.notes),
                },
                indent=2,
            )
        )
        return
    console = Console(highlight=False)
    from edgekit.report.comparison import short

    names = short([run.path for run in found.runs])
    console.print(table(found.runs, names))
    if found.differences:
        console.print()
        console.print(_differences(found.differences, names))
    for note in found.notes:
        console.print(f"  {note}", markup=False, soft_wrap=True)
    if page is not None:
        console.print(f"  Wrote {page}", markup=False, soft_wrap=True)


def runs(
    place: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where runs lie.")] = Path("runs"),
    page: Page = None,
    as_json: AsJson = False,
) -> None:
    """List the runs below a folder: what each is, whether it finished, and what it reached.

    Example:

        edgekit runs
    """
    import json

    from rich.console import Console

    from edgekit.errors import UsageError
    from edgekit.pipeline import comparing

    from_elsewhere()
    if not place.exists():
        raise UsageError(f"{place} does not exist: edgekit run makes the first run, or give another folder")
    found = comparing.find(place)
    if page is not None and len(found) > 1:
        comparing.write_page(page, f"Runs in {place}", comparing.compare([place]))
    if as_json:
        print(json.dumps([run.facts() for run in found], indent=2))
        return
    console = Console(highlight=False)
    if not found:
        console.print(f"no runs below {place}", markup=False)
        return
    console.print(table(found))
    for run in found:
        if run.problem:
            console.print(f"  {run.path}: {run.problem}", markup=False, soft_wrap=True)
    if page is not None:
        told = f"Wrote {page}" if len(found) > 1 else "one run alone: its own report.html is the page"
        console.print(f"  {told}", markup=False, soft_wrap=True)


def table(found: "list[Summary] | tuple[Summary, ...]", names: "list[str] | None" = None) -> Any:
    """Return runs as a table of the terminal, by names that are shorter than their paths, where there are some."""
    from rich.table import Table
    from rich.text import Text

    measures = {run.measure for run in found if run.score is not None}
    one = measures.pop() if len(measures) == 1 else ""
    made = Table(box=None, header_style="bold", pad_edge=True)
    for name in ("run", "state", one or "score", "rounds", "seconds", "weights", "epsilon", "MB", "model"):
        made.add_column(name, justify="left" if name in ("run", "state", "model") else "right", overflow="fold")
    for name, run in zip(names or [run.path for run in found], found, strict=True):
        made.add_row(
            Text(name),
            Text(run.state),
            "-" if run.score is None else f"{'' if one else f'{run.measure} '}{run.score:.4f}",
            str(run.rounds),
            "-" if run.seconds is None else f"{run.seconds:.1f}",
            "-" if run.parameters is None else f"{run.parameters:,}",
            "-" if run.epsilon is None else f"{run.epsilon:.2f}",
            f"{run.bytes / 1e6:.1f}",
            Text(run.model),
        )
    return made


def _differences(differences: Any, names: list[str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, header_style="bold", pad_edge=True)
    for name in ("what differs", *names):
        made.add_column(Text(name), overflow="fold")
    for key, values in differences.items():
        made.add_row(Text(key), *(Text("-" if value is None else str(value)[:SHOWN_VALUE]) for value in values))
    return made
