"""`edgekit serve`: the coordinator of real devices."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import ExperimentArguments, Trust, open_run, read_experiment


def serve(
    arguments: ExperimentArguments = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; one that was begun goes on. By default runs/NAME-served.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1 is for this machine alone.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(help="Port of everything devices need.", min=1, max=65535)] = 8443,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Name or address under which devices reach this machine.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="No TLS; on loopback only.")] = False,
    code_minutes: Annotated[float, typer.Option(help="How long a join code holds.", min=0.1, max=1440)] = 10.0,
    codes: Annotated[int, typer.Option(help="Join codes to have open at a time.", min=0, max=100)] = 1,
    bundle: Annotated[
        Path | None, typer.Option(help="A bundle for boards (edgekit bundle), to install from here.")
    ] = None,
    phones: Annotated[
        bool, typer.Option("--phones", help="Let phones take part too, by a page in their browser.")
    ] = False,
    phones_port: Annotated[int, typer.Option(help="Port of that page.", min=1, max=65535)] = 8444,
    split_port: Annotated[
        int, typer.Option(help="Port of the split server, for an experiment with [split].", min=1, max=65535)
    ] = 8445,
    allow_gateways: Annotated[
        bool, typer.Option("--allow-gateways", help="Let join codes admit gateways (edgekit phone) as well as devices.")
    ] = False,
    watch: Annotated[
        int | None,
        typer.Option(help="Port of a page on this machine that shows the run, and has /metrics for Prometheus.", min=0),
    ] = None,
    state: Annotated[Path | None, typer.Option(help="Folder of the coordinator's keys and members.")] = None,
    once: Annotated[bool, typer.Option("--once", help="End when the run is done and its model delivered.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print events as JSON lines and nothing else.")] = False,
    trust: Trust = False,
) -> None:
    """Coordinate a federation of real devices: encrypted, authenticated, and going on after every interruption.

    It prints a join address with a one-time code; devices join by it with `edgekit join`. Stopped and started again,
    it goes on at the last round; with --out alone by the experiment that lies there.

    Examples:

        edgekit serve

        edgekit serve mine.toml --port 8443 serve.nodes=3 privacy.noise=client

        edgekit serve mine.toml --bundle edgekit-raspberry-pi-4.tar

        edgekit serve --phones

        edgekit serve mine.toml --watch 9100

        edgekit serve --out runs/digits-served

        edgekit serve mine.toml privacy.unit=none split.cut=auto
    """
    import importlib.util

    from edgekit.errors import MissingExtraError

    needed = [(package, "serve") for package in ("flwr", "torch", "segno")]
    needed += [(package, "phone") for package in ("websockets", "ai_edge_litert")] if phones else []
    for package, extra in needed:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package.replace("_", "-"), extra)

    from edgekit.environments import data_home
    from edgekit.errors import UsageError
    from edgekit.experiment import begun, load
    from edgekit.listening import Listening

    if bundle is not None and not bundle.is_file():
        raise UsageError(f"--bundle {bundle} does not exist: make it with edgekit bundle")
    if out is not None and not arguments and (out / "experiment.toml").is_file():
        experiment = load(open_run(out).experiment)
    else:
        experiment = read_experiment(arguments)
    if experiment.data.source.startswith("parties:"):
        raise UsageError(
            "data.source parties:FOLDER has everybody's tables, for edgekit run; with real parties give labels:FOLDER"
        )
    if experiment.split.on and (phones or allow_gateways):
        raise UsageError("phones take no part in split learning yet: leave --phones and --allow-gateways out")
    listening = Listening.on(host, port, name or [], insecure)

    from edgekit.cli.watching import Watcher
    from edgekit.server.deployment.asking import install_line
    from edgekit.server.deployment.coordinating import coordinate

    folder = begun(experiment, out or Path("runs") / f"{experiment.name}-served")
    place = state or data_home() / "coordinator"
    page = None
    if watch is not None:
        from edgekit.report.live import LivePage, kept_token

        page = LivePage(experiment.name, folder.path, watch, kept_token(folder.path / "watch-token"))
    with Watcher(listening.url, as_json, install_line(place, listening) if bundle else "", page) as watcher:
        coordinate(
            folder,
            place,
            listening,
            watcher,
            bundle=bundle.resolve() if bundle else None,
            phones=phones_port if phones else None,
            split=split_port if experiment.split.on else None,
            gateways=allow_gateways,
            code_seconds=60 * code_minutes,
            codes=codes,
            once=once,
        )
