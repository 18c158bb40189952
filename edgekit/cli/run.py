"""`edgekit run`: the main job."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekit.cli.live import Port, Watch, watched
from edgekit.cli.options import ExperimentArguments, Trust, read_experiment

if TYPE_CHECKING:
    from edgekit.cli.terminal import Terminal


def run(
    arguments: ExperimentArguments = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; by default runs/NAME-001, -002 …")] = None,
    watch: Watch = False,
    port: Port = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json and nothing else.")] = False,
    trust: Trust = False,
) -> None:
    """Train, export, convert, report: the whole main job, into one run folder.

    Without a file it does the built-in example on real handwritten digits.

    Examples:

        edgekit run

        edgekit run mine.toml --out runs/first federation.rounds=20 privacy.epsilon=4

        edgekit run mine.toml --watch
    """
    from edgekit.cli.terminal import Terminal
    from edgekit.runfolder import RunFolder

    experiment = read_experiment(arguments)
    folder = out or RunFolder.next_free(Path("runs"), experiment.name)
    RunFolder.check_free(folder)
    with Terminal(silent=as_json) as terminal:
        with watched(terminal, watch, port, experiment.name, folder) as listener:
            from edgekit.pipeline import job

            result = job.run(experiment, folder, listener)
        finish(terminal, result, folder, as_json)


def finish(terminal: "Terminal", result: dict[str, Any], folder: Path, as_json: bool) -> None:
    """Print where the results are; a run that was stopped early counts as failed."""
    from edgekit.errors import TrainingError
    from edgekit.runfolder import measure_of

    if as_json:
        terminal.result(result)
    if result["interrupted"]:
        raise TrainingError(f"stopped after round {result['rounds']}; go on with: edgekit resume {folder}")
    measure, score = measure_of(result)
    terminal.console.print(f"[bold]Done[/bold] in {terminal.seconds:.1f} s: {measure} {score:.4f}")
    terminal.notice(str(folder / "report.html"))
