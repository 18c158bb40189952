"""`edgekit doctor`: what is installed, what is missing, and the command that installs it."""

from typing import Annotated

import typer


def doctor(
    install: Annotated[
        str, typer.Option(metavar="NAME", help="Install what needs an environment of its own: tflite-runtime.")
    ] = "",
    clear_cache: Annotated[
        bool, typer.Option("--clear-cache", help="Remove the .tflite conversions that are kept to be used again.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show this machine, and which extras are installed; for each missing one, the command that installs it.

    Example:

        edgekit doctor

        edgekit doctor --install tflite-runtime

        edgekit doctor --clear-cache
    """
    import json
    import sys

    from rich.console import Console

    from edgekit.devices.host import describe, extras
    from edgekit.environments import conversions
    from edgekit.errors import UsageError
    from edgekit.export import cache
    from edgekit.export.runtimes import TFLITE_RUNTIME

    environments = {"tflite-runtime": TFLITE_RUNTIME}
    if install:
        if install not in environments:
            raise UsageError(f"--install {install}: there is {', '.join(environments)}")
        print(f"Installing {environments[install].name} …", file=sys.stderr)
        environments[install].install()
    if clear_cache:
        cache.clear()
    kept, size = cache.size()
    machine, found = describe(), extras()
    if as_json:
        own = {name: environment.installed for name, environment in environments.items()}
        extras_found = [extra.__dict__ for extra in found]
        kept_facts = {"folder": str(conversions()), "files": kept, "bytes": size}
        facts = {"machine": machine, "extras": extras_found, "environments": own, "conversions": kept_facts}
        print(json.dumps(facts, indent=2))
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
    for name, environment in environments.items():
        mark = "[green]ok     [/green]" if environment.installed else "[yellow]missing[/yellow]"
        console.print(f"{mark} [bold]{name}[/bold], in an environment of its own: the runtime that older boards have")
        if not environment.installed:
            console.print(f"                 install with: edgekit doctor --install {name}", markup=False)
    console.print(f"\n{kept} conversions to .tflite kept in {conversions()}, {size / 1e6:,.1f} MB", soft_wrap=True)
    if kept:
        console.print("                 remove with: edgekit doctor --clear-cache", markup=False)
    console.print(f"\n[bold]Next[/bold] {_next({extra.name for extra in found if extra.missing})}", soft_wrap=True)


def _next(missing: set[str]) -> str:
    """Return what somebody with this machine does best now."""
    if "train" in missing:
        if "node" in missing:
            return "pip install 'edgekit\\[train]' to train here, or 'edgekit\\[node]' to take part as a device"
        return "edgekit join URL, with the address and code that a coordinator shows"
    if "tflite" in missing:
        return "edgekit run export.presets=\\[]: files for phones need pip install 'edgekit\\[tflite]'"
    if "tables" in missing:
        return "edgekit run does the built-in example; tables need pip install 'edgekit\\[tables]'"
    return "edgekit run does the built-in example; edgekit new --data FILE mine.toml writes one for your data"
