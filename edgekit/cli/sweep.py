"""`edgekit sweep`: many runs of one experiment."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli.options import AsJson, ExperimentArguments, Trust, read_experiment


def sweep(
    arguments: ExperimentArguments = None,
    out: Annotated[Path | None, typer.Option(help="The sweep's folder; by default runs/NAME-sweep-001 …")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Runs at once, each a process.")] = 1,
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Run an experiment with every combination of settings: several values by commas, a range as 0..4.

    Each run is a process and a folder of its own. A sweep that was stopped goes on by `edgekit sweep FOLDER`; runs that
    fail do not stop the others. Over seeds, mean and deviation are told.

    Examples:

        edgekit sweep mine.toml training.learning_rate=0.05,0.1 seed=0..4 --workers 2

        edgekit sweep runs/mine-sweep-001
    """
    from edgekit.cli.terminal import Terminal
    from edgekit.errors import TrainingError
    from edgekit.pipeline import comparing, sweeping
    from edgekit.runfolder import RunFolder

    given = arguments or []
    if len(given) == 1 and Path(given[0]).is_dir():
        made = sweeping.open_sweep(Path(given[0]))
        read_experiment([str(made.path / sweeping.BASE)])  # whether its code is trusted
    else:
        grid, single = sweeping.grid_of([one for one in given if "=" in one])
        experiment = read_experiment([*(one for one in given if "=" not in one), *single])
        place = out or RunFolder.next_free(Path("runs"), f"{experiment.name}-sweep")
        made = sweeping.begin(experiment, grid, place)
    cells = made.cells
    with Terminal(silent=as_json) as terminal:
        terminal.console.print(f"[bold]{len(cells)} runs[/bold] into {made.path}, {min(workers, len(cells))} at once")
        count = 0

        def ended(cell: sweeping.Cell, found: comparing.Summary) -> None:
            nonlocal count
            count += 1
            took = "" if found.seconds is None else f"  {found.seconds:.1f} s"
            terminal.notice(f"{count}/{len(cells)}  {cell.label}: {found.outcome}{took}")

        try:
            done = sweeping.run(made, workers, ended)
        except KeyboardInterrupt:
            raise TrainingError(
                f"stopped after {count} of {len(cells)} runs; go on with: edgekit sweep {made.path}"
            ) from None
        rows = sweeping.by_setting(done)
        whole = [found for _, found in done if found.settings]
        if len(whole) > 1:
            compared = comparing.compare([Path(found.path) for found in whole])
            comparing.write_page(
                made.path / "sweep.html", f"Sweep {made.path.name}", compared, [vars(row) for row in rows]
            )
        failed = [(cell, found) for cell, found in done if found.score is None]
        if as_json:
            terminal.result(
                {
                    "folder": str(made.path),
                    "settings": [vars(row) for row in rows],
                    "runs": [{"settings": dict(cell.settings), **found.facts()} for cell, found in done],
                }
            )
        else:
            _show(terminal, rows)
            if len(whole) > 1:
                terminal.notice(str(made.path / "sweep.html"))
        if failed:
            raise TrainingError(
                f"{len(failed)} of {len(done)} runs failed, first {failed[0][0].label}: {_why(*failed[0])}"
            )


def _why(cell: Any, found: Any) -> str:
    return f"{found.problem or found.state}; its output is in {cell.folder}.log"


def _show(terminal: Any, rows: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, header_style="bold", pad_edge=True)
    for key in rows[0].settings:
        made.add_column(Text(key))
    for name in ("mean", "deviation", "runs", "failed"):
        made.add_column(name, justify="right")
    for row in rows:
        figures = ["-" if one is None else f"{one:.4f}" for one in (row.mean, row.deviation)]
        made.add_row(*(Text(value) for value in row.settings.values()), *figures, str(len(row.scores)), str(row.failed))
    terminal.console.print(made)
