"""`edgekit resume`: go on after a crash or Ctrl-C."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.live import Port, Watch, watched
from edgekit.cli.options import Trust, open_run


def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")],
    watch: Watch = False,
    port: Port = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json and nothing else.")] = False,
    trust: Trust = False,
) -> None:
    """Go on with a run that was stopped, from its last finished round.

    It ends with the same bits as a run that was never stopped.

    Example:

        edgekit resume runs/digits-001
    """
    from edgekit.cli.run import finish
    from edgekit.cli.terminal import Terminal

    open_run(folder)
    with Terminal(silent=as_json) as terminal:
        with watched(terminal, watch, port, folder.name, folder) as listener:
            from edgekit.pipeline import job

            result = job.resume(folder, listener)
        finish(terminal, result, folder, as_json)
