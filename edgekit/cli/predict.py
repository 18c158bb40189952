"""`edgekit predict`: a trained network's answers for new examples."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli.options import Trust, from_elsewhere

SHOWN = 20
"""Rows that are printed, where nothing is said of a file."""


def predict(
    trained: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="A run folder, a .tflite or a loihi.npz.")],
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="A picture, .wav, table or .npz of x, or a folder of pictures or wavs."),
    ],
    out: Annotated[Path | None, typer.Option(help="Write all answers here: .csv, .json or .jsonl.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to name, the likeliest first.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON and nothing else.")] = False,
    trust: Trust = False,
) -> None:
    """Use a trained network on new examples, which are brought into the form that it learnt from.

    Examples:

        edgekit predict runs/machines-001 new.csv --out answers.csv

        edgekit predict runs/signs-001/export/int8.tflite photos/ --top 3
    """
    from edgekit.cli.terminal import Terminal
    from edgekit.errors import DataError

    from_elsewhere()
    with Terminal(silent=as_json) as terminal:
        from edgekit.pipeline import predicting

        if out is not None:
            predicting.check_out(out)
        found = predicting.predict(trained, data, top)
        if not found.rows:
            raise DataError(f"{data} has no examples")
        if out is not None:
            predicting.write(found, out)
        if as_json:
            facts = {"how": found.how, "seconds": round(found.seconds, 3), "latency_us": found.latency_us}
            terminal.result({"rows": found.rows, "notes": list(found.notes), **facts})
            return
        for note in found.notes:
            terminal.notice(note)
        if out is None:
            terminal.console.print(_table(found.rows[:SHOWN]))
            if len(found.rows) > SHOWN:
                terminal.notice(f"… and {len(found.rows) - SHOWN} more: --out answers.csv writes all")
        alone = "" if found.latency_us is None else f"; {found.latency_us:,.0f} us for one by itself"
        terminal.notice(f"{len(found.rows):,} examples in {found.seconds:.2f} s with {found.how}{alone}")
        if out is not None:
            terminal.notice(f"Wrote {out}")


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, header_style="bold", pad_edge=True)
    for name in rows[0]:
        made.add_column(Text(name), justify="right" if isinstance(rows[0][name], float | int) else "left")
    for row in rows:
        made.add_row(*(Text(f"{one:.4g}" if isinstance(one, float) else str(one)) for one in row.values()))
    return made
