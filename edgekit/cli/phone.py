"""`edgekit phone`: phones take part, by a page in their browser."""

from pathlib import Path
from typing import Annotated

import typer


def phone(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL#CODE]", envvar="EDGEKIT_JOIN", help="As edgekit serve shows it; not needed once joined."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1 is for this machine alone.")] = "0.0.0.0",
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 8444,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Name or address under which phones reach this machine.")
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="Certificate (PEM) that phones trust; by default one of our own.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="No TLS; on loopback only.")] = False,
    code_minutes: Annotated[float, typer.Option(help="How long a phone's code holds.", min=0.1, max=1440)] = 10.0,
    folder: Annotated[Path | None, typer.Option(help="Where this gateway is kept.")] = None,
    parent: Annotated[int | None, typer.Option(help="End with this process.", hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print links as JSON lines and nothing else.")] = False,
) -> None:
    """Let phones take part in a federation: scan, read what will be learnt, train in the page, leave.

    This gateway joins a coordinator by a join code, once; `edgekit serve --phones` does it all by itself. Each phone
    becomes a node of its own. It shows a code for one phone at a time, and a new one when that is used.

    Browsers warn of a certificate that is ours. For a federation with other people's phones give one that they trust
    (--certificate and --key), for the name under which they reach this machine.

    Examples:

        edgekit phone 'https://192.168.1.10:8443#K7QM-2XR9-…'

        edgekit phone --certificate phones.pem --key phones.key --name phones.example.org
    """
    import importlib.util
    import logging

    from edgekit import logs
    from edgekit.errors import JoinError, MissingExtraError, UsageError

    for package in ("flwr", "starlette", "uvicorn", "websockets", "segno", "ai_edge_litert"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package.replace("_", "-"), "phone")

    from edgekit.clients.node.folder import NodeFolder
    from edgekit.enrolment import parse_url
    from edgekit.environments import data_home
    from edgekit.listening import Listening, check_port

    place = folder or data_home() / "phones"
    if (certificate is None) != (key is None):
        raise UsageError("--certificate and --key belong together")
    for file in (certificate, key):
        if file is not None and not file.is_file():
            raise UsageError(f"{file} does not exist")
    listening = Listening.on(host, port, name or [], insecure)
    code = parse_url(url)[1] if url is not None else None
    if code is None and not NodeFolder(place / "node").joined:
        whole = "the address that edgekit serve shows" if url is None else "the whole address with its code"
        raise UsageError(f"give {whole}: edgekit phone 'https://HOST:PORT#CODE'")

    from edgekit.cli.terminal import Terminal
    from edgekit.cli.watching import show_phone_link
    from edgekit.clients.phone import membership
    from edgekit.clients.phone.serving import serve
    from edgekit.runfolder import locked
    from edgekit.server.deployment.authority import Authority

    logs.begin(others=logging.WARNING)
    taken = JoinError(f"another gateway uses {place}: stop it first, or give another --folder")
    with locked(place, taken):
        check_port(host, port, "gateway")
        label = f"gateway {listening.reached_as[0]}".replace(":", ".")[:64]
        if url is not None:
            membership.join(place, url, label)
        files, renew = None, lambda: None
        if certificate is not None and key is not None:
            files = (certificate, key)
        elif not insecure:
            authority = Authority(place / "keys")

            def renew() -> None:
                authority.renew(list(listening.reached_as))

            renew()
            files = authority.server_files
        terminal = Terminal(silent=as_json)

        def show(link: str) -> None:
            if parent is None:  # edgekit serve shows it, and keeps our output in a log, which is no place for codes
                show_phone_link(terminal.console, link, code_minutes, as_json)

        serve(
            place,
            label,
            listening,
            files,
            60 * code_minutes,
            show,
            renew=renew,
            public=certificate is not None and not parent,  # edgekit serve gives its own
            parent=parent,
        )
