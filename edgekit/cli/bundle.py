"""`edgekit bundle`: everything a board without a network needs."""

from pathlib import Path
from typing import Annotated

import typer


def bundle(
    device: Annotated[str, typer.Option(help="A device profile: see edgekit devices list.")] = "raspberry-pi-4",
    python: Annotated[str | None, typer.Option(help="The board's Python, if not the profile's.")] = None,
    out: Annotated[Path | None, typer.Option(help="The tar file; by default edgekit-DEVICE.tar.")] = None,
) -> None:
    """Pack what a board without a network needs to become a node: wheels, a service, an installation script.

    Copy the tar file to the board, unpack it, and run `sudo ./edgekit-bundle/install.sh 'URL#CODE' --data …`; or let
    boards fetch it from the coordinator: `edgekit serve --bundle FILE` shows the line.

    Examples:

        edgekit bundle --device raspberry-pi-4

        edgekit bundle --device raspberry-pi-5 --python 3.13 --out pi5.tar
    """
    import re

    from edgekit.cli.terminal import Terminal
    from edgekit.devices import bundle as bundles
    from edgekit.devices import profile as profiles
    from edgekit.errors import UsageError

    profile = profiles.load(device)
    if not (python or profile.python):
        instead = (
            "edgekit export RUN --app FOLDER --preset int8-full" if profile.micro else "phones join by edgekit phone"
        )
        raise UsageError(f"{profile.name} has no Python: {instead}")
    if python is not None:
        if not re.fullmatch(r"3\.\d+", python):
            raise UsageError(f"--python is a version such as 3.11, not {python!r}")
        profile = profile.model_copy(update={"python": python})
    with Terminal() as terminal:
        bundles.build(profile, out or Path(f"edgekit-{profile.name}.tar"), terminal.notice)
