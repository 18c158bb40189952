"""`edgekit devices`: what devices there are, what this one can do, and how a fleet is doing."""

import json
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import ExperimentArguments, Trust

app = typer.Typer(help="Devices: profiles, this one's health, and the nodes of a run.", no_args_is_help=True)

Folder = Annotated[Path | None, typer.Option(help="Where this device's node is kept.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


@app.command("list")
def list_() -> None:
    """List the device profiles that come with edgekit.

    Example: `edgekit devices list`
    """
    from rich.console import Console
    from rich.table import Table

    from edgekit.devices import profile as profiles

    table = Table(box=None, header_style="bold")
    for column in ("profile", "device", "architecture", "Python", "figures are"):
        table.add_column(column)
    for name in profiles.names():
        found = profiles.load(name)
        table.add_row(name, found.description, found.cpu.architecture, found.python, found.evidence)
    Console(highlight=False).print(table)


@app.command()
def show(name: Annotated[str, typer.Argument(help="A profile's name, or a file NAME.toml.")]) -> None:
    """Show a device profile.

    Example: `edgekit devices show raspberry-pi-4`
    """
    import tomli_w

    from edgekit.devices import profile as profiles

    print(tomli_w.dumps(profiles.load(name).model_dump()), end="")


@app.command()
def doctor(
    folder: Folder = None, out: Annotated[Path | None, typer.Option(help="Where the profile goes.")] = None
) -> None:
    """See whether this device is fit to be a node, and write its profile: run it on the board.

    Looks at the clock, Python, runtimes, speed, memory, space, temperature and battery. Exit status 1 if something
    keeps the device from taking part.

    Example: `edgekit devices doctor --out my-board.toml`
    """
    from rich.console import Console

    from edgekit.clients.node import enrol
    from edgekit.clients.node.folder import NodeFolder, default_folder
    from edgekit.devices import doctor as doctors
    from edgekit.devices import profile as profiles
    from edgekit.enrolment import parse_url
    from edgekit.errors import JoinError

    node = NodeFolder(folder or default_folder())
    ahead, unreachable = None, None
    if node.joined:
        try:
            ahead = enrol.clock_ahead(parse_url(node.node_settings().url)[0], node.authority())
        except JoinError as error:
            unreachable = str(error)
    findings, profile = doctors.examine(node.path, ahead)
    console = Console(highlight=False)
    marks = {"ok": "[green]ok     [/green]", "warning": "[yellow]warning[/yellow]", "problem": "[red]problem[/red]"}
    for finding in findings:
        console.print(f"{marks[finding.verdict]} [bold]{finding.subject}[/bold]: {finding.text}", soft_wrap=True)
    if unreachable:
        console.print(f"{marks['warning']} [bold]coordinator[/bold]: {unreachable}", soft_wrap=True)
    path = out or node.path / "device.toml"
    profiles.save(profile, path)
    console.print(f"profile written to {path}", soft_wrap=True)
    if any(finding.verdict == "problem" for finding in findings):
        raise typer.Exit(1)


@app.command()
def profile(
    arguments: ExperimentArguments = None,
    out: Annotated[Path, typer.Option(help="Where the profile goes.")] = Path("this-device.toml"),
    threads: Annotated[int, typer.Option(min=0, max=1024, help="Of torch; 0 as many as it takes.")] = 0,
    trust: Trust = False,
) -> None:
    """Measure how fast this machine trains an experiment's network, and write its profile.

    Simulated devices can be of that kind then: devices.population={"this-device.toml"=10}

    Examples:

        edgekit devices profile

        edgekit devices profile mine.toml model.name=dscnn --out board.toml
    """
    from edgekit.cli.options import read_experiment
    from edgekit.errors import UsageError

    if out.suffix != ".toml":
        raise UsageError(f"--out {out}: a profile is a file NAME.toml")
    experiment = read_experiment(arguments)

    from edgekit.devices import profile as profiles
    from edgekit.pipeline.profiling import measured
    from edgekit.pipeline.subjects import build_network, load_dataset

    dataset = load_dataset(experiment)
    model = build_network(experiment, dataset)
    found = measured(model, dataset.calibration, experiment.training, threads, print)
    profiles.save(found.model_copy(update={"name": out.stem}), out)
    cpu = found.cpu
    print(f"{cpu.training_gflops:.3g} GFLOP/s in training and {cpu.step_ms:.3g} ms a step: written to {out}")


@app.command()
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of edgekit serve.")], as_json: AsJson = False
) -> None:
    """Show the nodes of a run: when they were last heard of, what they did, which model they use.

    Example: `edgekit devices status runs/digits-served`
    """
    from edgekit.runfolder import RunFolder

    folder = RunFolder.open(run)

    from rich.console import Console

    from edgekit.cli.watching import table
    from edgekit.server.deployment.coordinating import rows_of
    from edgekit.server.engines.fleet.nodes import read_nodes

    if as_json:
        print(json.dumps(read_nodes(folder), indent=2))
        return
    rows = rows_of(folder)
    console = Console(highlight=False)
    if not rows:
        console.print(f"no node has taken part in {run} yet: join some with edgekit join")
        return
    console.print(table(rows))


@app.command()
def remove(
    node: Annotated[str, typer.Argument(help="The node's name or number.")],
    state: Annotated[Path | None, typer.Option(help="Folder of the coordinator's keys and members.")] = None,
) -> None:
    """Remove a node from this machine's coordinator, while it runs: its requests are refused from then on.

    Example: `edgekit devices remove kitchen-pi`
    """
    from edgekit.environments import data_home
    from edgekit.server.deployment.asking import remove_node

    print(remove_node(state or data_home() / "coordinator", node))


@app.command()
def leave(folder: Folder = None) -> None:
    """Leave the federation this device joined: the coordinator forgets its key. Its ledger and models stay here.

    Example: `edgekit devices leave`
    """
    from edgekit.clients.node.folder import NodeFolder, default_folder
    from edgekit.enrolment import parse_url

    node = NodeFolder(folder or default_folder())
    with node.only_one():
        address, _ = parse_url(node.node_settings().url)

        from edgekit.clients.node import enrol

        enrol.leave(node, address)
    print(f"left {address}; the ledger and the models stay in {node.path}")
