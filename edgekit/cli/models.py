"""`edgekit models`: the zoo."""

from typing import Annotated, Any

import typer


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List the networks of the zoo, with their size on 28 x 28 grey images of 10 classes.

    Example:

        edgekit models
    """
    import json

    from rich.console import Console
    from rich.table import Table

    from edgekit.registry import MODELS

    rows: list[dict[str, Any]] = []
    for name, entry in MODELS.items():
        model = MODELS.load(name)((1, 28, 28), 10)
        parameters = sum(p.numel() for p in model.parameters())
        rows.append({"name": name, "parameters": parameters, "summary": entry.summary, "source": entry.source})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "parameters", "what it is", "source"):
        table.add_column(heading, justify="right" if heading == "parameters" else "left")
    for row in rows:
        table.add_row(row["name"], f"{row['parameters']:,}", row["summary"], row["source"])
    Console(highlight=False).print(table)
    print('\nYour own: model.name = "package.module:Class" in the experiment.')
