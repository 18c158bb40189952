"""`edgekit evaluate`: how good a trained network is on labelled examples."""

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli.options import Trust, from_elsewhere

MOST_CLASSES = 20
"""Of which the confusion is printed."""


def evaluate(
    trained: Annotated[Path, typer.Argument(metavar="RUN|FILE", help="A run folder, a .tflite or a loihi.npz.")],
    data: Annotated[
        str, typer.Argument(metavar="[DATA]", help="Labelled examples; a run's own test set where nothing is given.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON and nothing else.")] = False,
    trust: Trust = False,
) -> None:
    """Measure a trained network: by class, by owner, and how far its chances can be believed.

    DATA is a table with the label's column, an .npz with x and y, a folder with one subfolder a class, or a source as
    in an experiment.

    Examples:

        edgekit evaluate runs/machines-001 march.csv

        edgekit evaluate runs/digits-001/export/int8.tflite digits
    """
    from edgekit.cli.terminal import Terminal

    from_elsewhere()
    with Terminal(silent=as_json) as terminal:
        from edgekit.pipeline import predicting

        found = dict(predicting.evaluate(trained, data))
        if as_json:
            terminal.result(found)
            return
        for line in _lines(found):
            terminal.console.print(line, markup=False, soft_wrap=True)


def _lines(found: dict[str, Any]) -> list[str]:
    plain = {name: one for name, one in found.items() if isinstance(one, float) and name != "seconds"}
    lines = [f"{found['examples']:,} examples, {found['how']}, {found['seconds']:.2f} s"]
    lines += [f"  {name:<20} {value:.4f}" for name, value in plain.items()]
    if "calibration" in found:
        lines.append(f"  {'calibration error':<20} {found['calibration']['ece']:.4f}")
    if "by_class" in found:
        wide = max(len("class"), *map(len, found["by_class"]))
        lines += ["", f"  {'class':<{wide}}  examples  recall  precision"]
        for name, one in found["by_class"].items():
            shares = (f"{'-' if one[key] is None else format(one[key], '.4f'):>{size}}" for key, size in _SHARES)
            lines.append(f"  {name:<{wide}}  {one['examples']:>8}  {'  '.join(shares)}")
        if len(found["by_class"]) <= MOST_CLASSES:
            lines += ["", "  confusion: rows are labels, columns answers"]
            size = max(len(str(one)) for row in found["confusion"] for one in row)
            for name, row in zip(found["by_class"], found["confusion"], strict=True):
                lines.append(f"  {name:<{wide}}  {' '.join(f'{one:>{size}}' for one in row)}")
    if "by_group" in found:
        lines += ["", f"  {'owner':<20} examples  {found['measure']}"]
        lines += [
            f"  {name:<20} {one['examples']:>8}  {one[found['measure']]:.4f}" for name, one in found["by_group"].items()
        ]
    return lines


_SHARES = (("recall", 6), ("precision", 9))
