"""`edgekit privacy`: what was spent of data's privacy."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.options import AsJson

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")


@app.callback()
def privacy() -> None:
    """Privacy: what was spent, of what, and what is not covered. `edgekit run` trains with [privacy]."""


@app.command()
def report(
    place: Annotated[Path, typer.Argument(help="A run folder, or a node's.")],
    as_json: AsJson = False,
) -> None:
    """Read a ledger again, and say what was spent, by which count, and what that does not cover.

    Examples:

        edgekit privacy report runs/digits-001

        edgekit privacy report ~/.local/share/edgekit/node --json
    """
    import json

    from edgekit.pipeline import privacy_report

    found = privacy_report.of(place)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"{found.get('run') or found.get('node')}: protects {found['protected']}")
    if "epsilon" in found:
        limit = f" of {found['of']:g}" if found["of"] else ""
        counted = f"in {found['rounds']} rounds, counted by {found['accountant']}"
        print(f"  spent   epsilon {found['epsilon']:.4g}{limit} at delta {found['delta']:g}, {counted}")
        for charge in found["charges"]:
            print(
                f"  of it   {charge['steps']} steps, noise multiplier {charge['noise_multiplier']:.4g}, "
                f"sample rate {charge['sample_rate']:.4g}"
            )
        whole = "follows line by line" if found["whole"] else "DOES NOT REACH THE CHECKPOINT: lines were cut"
        print(f"  ledger  {whole}")
    for title, lines in (("claims", [found.get("neighbours")]), ("holds", found["holds"]), ("open", found["open"])):
        for line in filter(None, lines):
            print(f"  {title:7} {line}")
