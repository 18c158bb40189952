"""`edgekit join`: this device takes part in a federation."""

import re
import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgekit.clients.node.folder import NodeFolder

STOP_SECONDS = 4.0
"""How long a node has to end in order; a second signal ends it at once."""


def join(
    url: Annotated[
        str | None, typer.Argument(metavar="[URL#CODE]", help="As edgekit serve shows it; not needed once joined.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="This device's examples: npz:FILE, images:FOLDER, … as data.source.")
    ] = None,
    client: Annotated[
        int | None, typer.Option(min=0, help="For trying out: take this client's share of the experiment's data.")
    ] = None,
    party: Annotated[
        str | None, typer.Option(help="With --data csv:FILE or npz:FILE of features: which party this device is.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the coordinator calls this device; by default its host name.")
    ] = None,
    trainer: Annotated[str | None, typer.Option(help="auto, torch or litert.")] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="The most to spend of the data's privacy, ever; by default what the first task takes."
        ),
    ] = None,
    share: Annotated[
        list[str] | None, typer.Option(help="Tell the coordinator: battery, load, temperature, memory, statistics.")
    ] = None,
    only_when: Annotated[list[str] | None, typer.Option(help="Train only when idle, charging, unmetered.")] = None,
    most_rounds: Annotated[
        int | None, typer.Option(min=0, help="Take part in at most so many rounds of a run; 0: in all.")
    ] = None,
    rounds_apart: Annotated[
        int | None, typer.Option(min=0, help="Take part at most each so many rounds; 0: in each.")
    ] = None,
    module: Annotated[
        list[str] | None, typer.Option(help="A module of this device that the experiment may name.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where this node is kept.")] = None,
    supernode: Annotated[
        bool, typer.Option("--supernode", help="Join, and print the command of Flower's own node instead of running.")
    ] = False,
    enrol_only: Annotated[
        bool, typer.Option("--enrol-only", help="Join, and end: a service will run the node.")
    ] = False,
) -> None:
    """Take part in a federation: join once by the code that the coordinator shows, then stay.

    The node makes a key that never leaves it, trains on its own data, keeps its own ledger of spent privacy, and goes
    on after lost links, restarts and crashes. What it tells beside its updates, and when it trains, its owner says.

    Examples:

        edgekit join 'https://192.168.1.10:8443#K7QM-2XR9-…' --data npz:mine.npz

        edgekit join --share battery --only-when charging

        edgekit join --most-rounds 10 --rounds-apart 3

        edgekit join 'https://…#…' --client 3

        edgekit join 'https://…#…' --data csv:patients.csv --party clinic
    """
    from edgekit import plugins

    plugins.guard(None)  # a node runs the modules that its owner lists, which it looks at itself
    import importlib.util
    import logging
    import os
    import signal
    import threading

    from edgekit import logs
    from edgekit.errors import MissingExtraError

    if importlib.util.find_spec("flwr") is None:
        raise MissingExtraError("flwr", "node")

    from pydantic import ValidationError

    from edgekit.clients.node.folder import NodeFolder, NodeSettings, default_folder
    from edgekit.enrolment import parse_url
    from edgekit.errors import JoinError, UsageError

    node = NodeFolder(folder or default_folder())
    address, code = parse_url(url) if url else (None, None)
    with node.only_one():
        before = node.node_settings() if node.node_settings_file.exists() else None
        if address is None and before is None:
            raise UsageError("give the address that edgekit serve shows: edgekit join 'https://HOST:PORT#CODE'")
        given = {
            "url": str(address) if address else None,
            "data": data,
            "client": client if client is not None else (-1 if data else None),
            "party": party,
            "name": name,
            "trainer": trainer,
            "epsilon": epsilon,
            "share": share or None,
            "only_when": only_when or None,
            "most_rounds": most_rounds,
            "rounds_apart": rounds_apart,
            "modules": module or None,
        }
        start = before.model_dump() if before else {"name": _host_name()}
        try:
            node_settings = NodeSettings.model_validate(
                {**start, **{key: value for key, value in given.items() if value is not None}}
            )
        except ValidationError as error:
            first = error.errors()[0]
            option = str(first["loc"][0]).replace("_", "-")
            raise UsageError(f"--{option}: {first['msg']}, got {first['input']!r}") from None
        kind_of_data, _, place = node_settings.data.partition(":")
        if data and kind_of_data in ("npz", "csv", "idx", "images", "audio", "events"):
            if not Path(place).exists():
                raise UsageError(f"--data {data}: {place} does not exist on this device")
            node_settings = node_settings.model_copy(update={"data": f"{kind_of_data}:{Path(place).resolve()}"})
        if not node_settings.data and node_settings.client < 0:
            raise UsageError(
                "say what this device's data is: --data npz:FILE (or images:, audio:, …), or --client N to try out"
            )
        if not node.joined and code is None:
            raise JoinError("this device has not joined yet: give the whole address with its code, URL#CODE")

        from edgekit.clients.node import enrol
        from edgekit.clients.node.handler import Handler
        from edgekit.clients.node.resident import Resident
        from edgekit.clients.node.task import choose_kind

        kind = "supernode" if supernode else choose_kind(node_settings.trainer)
        if code is not None and address is not None:
            if node.joined and (before is None or before.url != node_settings.url):
                raise JoinError(
                    f"{node.path} belongs to a node of {before.url if before else '?'}: give another --folder, or "
                    "leave there first, with edgekit devices leave"
                )
            enrol.join(node, address, code, node_settings.name, kind)
            print(f"joined {address} as {node_settings.name}, node {node.membership().node_id}; kept in {node.path}")
        if node_settings != before:  # else the owner's own words in the file stay
            node.keep_node_settings(node_settings)
        if supernode:
            print(_supernode_command(node, parse_url(node_settings.url)[0].netloc))
            return
        if enrol_only:
            return
        logs.begin(others=logging.WARNING)
        stop = threading.Event()
        resident = Resident(node, Handler(node, stop), stop)

        def insist() -> None:
            resident.abandon()
            os._exit(0)

        def end(*_: object) -> None:
            if stop.is_set():  # asked a second time
                insist()
            stop.set()
            late = threading.Timer(STOP_SECONDS, insist)
            late.daemon = True
            late.start()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
        resident.run()


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9_. -]", "-", socket.gethostname())[:64] or "device"


def _supernode_command(node: "NodeFolder", address: str) -> str:
    tls = ["--root-certificates", str(node.authority_file)] if node.membership().secure else ["--insecure"]
    command = ["flower-supernode", "--superlink", address, *tls]
    command += ["--auth-supernode-private-key", str(node.key_file)] if node.membership().secure else []
    command += ["--node-config", f'folder="{node.path.resolve()}"']
    return shlex.join(command)
