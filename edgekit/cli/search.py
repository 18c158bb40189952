"""`edgekit search`: the best network within a device's budget."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli.options import AsJson, ExperimentArguments, Trust, check_named, from_elsewhere, read_experiment


def search(
    arguments: ExperimentArguments = None,
    device: Annotated[str, typer.Option(help="A profile (edgekit devices list), whose flash and memory bound.")] = "",
    latency_ms: Annotated[float, typer.Option(min=0, help="Of an inference of the exported file; 0 is no bound.")] = 0,
    latency_share: Annotated[float, typer.Option(min=0, help="The same, as a share of the experiment's own.")] = 0,
    flash_kb: Annotated[float, typer.Option(min=0, help="Of the file; 0 is the profile's.")] = 0,
    ram_kb: Annotated[float, typer.Option(min=0, help="Of memory while it runs; 0 is the profile's.")] = 0,
    preset: Annotated[str, typer.Option(help="The file that is measured; int8-full on a microcontroller.")] = "",
    trials: Annotated[int, typer.Option(min=1, max=100_000, help="Candidates, the experiment itself included.")] = 40,
    minutes: Annotated[float, typer.Option(min=0, help="After these no more are begun; 0 is no bound.")] = 0,
    rounds: Annotated[int, typer.Option(min=0, help="Of a candidate's whole training; 0 is 18.")] = 0,
    measure: Annotated[
        str,
        typer.Option(metavar="COMMAND", help="Runs {file} on the device, and prints microseconds or inspect's JSON."),
    ] = "",
    supernet: Annotated[
        int,
        typer.Option(min=0, help="Rounds in which all candidates train together first, sharing weights; 0 is none."),
    ] = 0,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Candidates at once, each in a process.")] = 1,
    out: Annotated[Path | None, typer.Option(help="The search's folder; by default runs/NAME-search-001 …")] = None,
    as_json: AsJson = False,
    trust: Trust = False,
) -> None:
    """Search for the network that is best within a budget; latency is measured by running exported files.

    What varies are keys with several values, or what the network's family names. Candidates over the budget are not
    trained; of the others the worse end early. A search that was stopped goes on by `edgekit search FOLDER`.

    Examples:

        edgekit search mine.toml --latency-ms 0.05 --flash-kb 100 --minutes 30 --workers 2

        edgekit search mine.toml --latency-share 0.5

        edgekit search mine.toml --latency-share 0.5 --supernet 60 --rounds 6

        edgekit search mine.toml --latency-ms 5 --device raspberry-pi-4 --measure
            "scp -q {file} pi: && ssh pi edgekit inspect candidate.tflite --check --json"

        edgekit search mine.toml model.width=0.25,0.5,1 model.norm=group,none --device cortex-m4-256

        edgekit search runs/mine-search-001 --trials 80
    """
    from edgekit.cli.terminal import Terminal
    from edgekit.errors import TrainingError, UsageError
    from edgekit.pipeline import sweeping
    from edgekit.pipeline.search import asking, folder, results, running
    from edgekit.runfolder import RunFolder

    given = arguments or []
    if measure and "{file}" not in measure:
        raise UsageError(f"--measure {measure!r} lacks {{file}}, where the candidate's path goes")
    if not 0 <= minutes < float("inf"):
        raise UsageError(f"--minutes {minutes:g}: give a number of 0 or more")
    if any(Path(one).is_dir() for one in given):
        if (
            len(given) > 1
            or rounds
            or out
            or device
            or latency_ms
            or latency_share
            or flash_kb
            or ram_kb
            or preset
            or supernet
        ):
            raise UsageError(
                f"{given[0]} has its settings already: give its folder, --trials, --minutes and --workers alone"
            )
        from_elsewhere()
        made = folder.open_search(Path(given[0]))
        if made.remote != bool(measure):
            what = "by --measure: give the command again" if made.remote else "on this machine: leave --measure out"
            raise UsageError(f"{given[0]} measures latency {what}")
        experiment = read_experiment([str(made.path / folder.BASE)])  # whether its code is trusted
    else:
        grid, single = sweeping.grid_of([one for one in given if "=" in one])
        experiment = read_experiment([*(one for one in given if "=" not in one), *single])
        budget, preset = asking.budget_of(
            device, latency_ms, flash_kb, ram_kb, preset, latency_share, remote=bool(measure)
        )
        place = out or RunFolder.next_free(Path("runs"), f"{experiment.name}-search")
        space = asking.space_of(experiment, grid)
        if supernet:
            asking.check_supernet(experiment, space)
        asked = folder.Search(
            place,
            space,
            budget,
            device,
            preset,
            rounds or 18,
            experiment.seed,
            share=latency_share,
            memory=asking.memory_of(device),
            supernet=supernet,
            remote=bool(measure),
        )
        made = folder.begin(experiment, asked)
    for one in asking.each_changed(experiment, made.space):  # whether their code is trusted
        check_named(one)
    with Terminal(silent=as_json) as terminal:
        terminal.console.print(f"[bold]{trials} candidates[/bold] into {made.path}")
        for note in asking.notes(made):
            terminal.notice(note)

        def ended(one: Any) -> None:
            terminal.notice(f"{one.number + 1}/{trials}  {_line(one)}")

        try:
            if made.supernet:
                from edgekit.pipeline.search.supernet import train

                terminal.stage("supernet")
                train(made, lambda metrics: terminal.round(metrics, made.supernet), terminal.notice)
            done = running.run(made, trials, minutes, workers, ended, measure)
        except KeyboardInterrupt:
            raise TrainingError(f"stopped; go on with: edgekit search {made.path} --trials {trials}") from None
        made = made.beside(done)
        winner = results.best(made, done)
        page = results.write_page(made, done)
        if winner is None:
            raise TrainingError(
                f"no candidate of {len(done)} was trained within the budget; {results.nearest_miss(made, done)}"
            )
        file = results.write_winner(made, winner)
        if as_json:
            terminal.result(
                {"folder": str(made.path), "winner": winner.line(), "experiment": str(file),
                 "front": [one.number for one in results.pareto(made, done)], "trials": [one.line() for one in done]}
            )  # fmt: skip
            return
        base = min(done, key=lambda one: one.number)
        terminal.notice(f"as it is: {_figures(base)}")
        terminal.notice(f"winner:   {_figures(winner)}  {winner.label}")
        terminal.notice(f"train it with: edgekit run {file}")
        terminal.notice(str(page))


def _figures(one: Any) -> str:
    cost = one.cost
    latency = f"{cost.latency_us:.1f} us, " if cost.latency_us else ""
    judged = "" if one.judged is None else f"{one.judged:.4f} on the other half, "
    score = "-" if one.score is None else f"{one.score:.4f}"
    return f"{score}, {judged}{latency}{cost.flash:,} and {cost.ram:,} bytes of file and memory"


def _line(one: Any) -> str:
    if one.state == "failed":
        return f"failed: {one.reason}  {one.label}"
    return f"{one.state}: {_figures(one)}  {one.label}"
