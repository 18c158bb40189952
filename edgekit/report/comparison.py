"""Runs beside each other as one page: a table, curves over each other, and what differs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.report import pictures
from edgekit.report.page import as_shown, template
from edgekit.runfolder import write_whole

DRAWN = 9
"""Curves that are told apart."""


def write_comparison(
    path: Path,
    title: str,
    runs: Sequence[Mapping[str, Any]],
    curves: Sequence[Sequence[tuple[int, float]]],
    differences: Mapping[str, Sequence[Any]],
    notes: Sequence[str],
    settings: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a page.

    Args:
        path: of the file.
        title: its heading.
        runs: facts of each: see `edgekit.pipeline.comparing.Summary`.
        curves: of each, its measure by round.
        differences: by key, each run's value.
        notes: lines that a reader must know.
        settings: of a sweep, each one's `settings`, `mean`, `deviation`, `scores` and `failed`, the best first.
    """
    ranked = sorted(range(len(runs)), key=lambda place: -(runs[place]["score"] or float("-inf")))
    measures = {run["measure"] for run in runs if run["score"] is not None}
    measure = measures.pop() if len(measures) == 1 else ""
    shown = [place for place in ranked[:DRAWN] if curves[place]]
    drawn = ""
    if measure and shown:
        names = short([str(runs[place]["path"]) for place in shown])
        drawn = pictures.curves({name: curves[place] for name, place in zip(names, shown, strict=True)}, measure)
    page = template("comparison.html").render(
        title=title,
        runs=[runs[place] for place in ranked],
        names=short([str(runs[place]["path"]) for place in ranked]),
        measure=measure,
        shown=as_shown,
        drawn=drawn,
        left=len(runs) - len(shown),
        differences={key: [values[place] for place in ranked] for key, values in differences.items()},
        notes=notes,
        settings=settings,
    )
    write_whole(path, page)


def short(paths: Sequence[str]) -> list[str]:
    """Return paths without the folders that all of them share."""
    parts = [Path(path).parts for path in paths]
    shared = 0
    while len(parts) > 1 and all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return ["/".join(one[shared:]) for one in parts] if len(parts) > 1 else [Path(path).name for path in paths]
