"""`edgekit doctor`: what is installed, what is missing, and the command that installs it."""

from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show this machine, and which extras are installed; for each missing one, the command that installs it.

    Example:

        edgekit doctor
    """
    import json

    from rich.console import Console

    from edgekit.devices.host import describe, extras

    machine, found = describe(), extras()
    if as_json:
        print(json.dumps({"machine": machine, "extras": [extra.__dict__ for extra in found]}, indent=2))
        return
    console = Console(highlight=False)
    for name, value in machine.items():
        console.print(f"[bold]{name:<10}[/bold] {value}")
    console.print()
    for extra in found:
        mark = "[green]ok     [/green]" if not extra.missing else "[yellow]missing[/yellow]"
        versions = ", ".join(f"{package} {number}" for package, number in extra.installed.items())
        console.print(f"{mark} [bold]{extra.name:<8}[/bold] {extra.purpose}")
        if versions:
            console.print(f"                 {versions}")
        if extra.missing:
            console.print(
                f"                 lacks {', '.join(extra.missing)}; install with: {extra.command}", markup=False
            )
