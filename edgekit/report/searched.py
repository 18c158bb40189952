"""A search as one page: what candidates cost and give, and the best of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.report.drawing import FIRST, SECOND, as_svg, new_figure, titled
from edgekit.report.page import template
from edgekit.runfolder import write_whole


def front(trials: Sequence[Mapping[str, Any]], best: Sequence[int], bound: float) -> str:
    """Draw score against latency, as SVG; "" where nothing was trained to the end.

    Args:
        trials: with `number`, `score`, `latency_us`, `state`.
        best: numbers of those that no other beats in both.
        bound: of the latency; 0 is none.
    """
    whole = [one for one in trials if one["state"] == "complete" and one["latency_us"]]
    if not whole:
        return ""
    figure, axis = new_figure(7.0, 3.6)
    axis.scatter([one["latency_us"] for one in whole], [one["score"] for one in whole], color=SECOND, s=22)
    edge = sorted((one["latency_us"], one["score"]) for one in whole if one["number"] in best)
    axis.step([latency for latency, _ in edge], [score for _, score in edge], where="post", color=FIRST, lw=1.5)
    axis.scatter([latency for latency, _ in edge], [score for _, score in edge], color=FIRST, s=30)
    for one in whole:
        if one["number"] == 0:
            axis.annotate("as it is", (one["latency_us"], one["score"]), xytext=(5, -12), textcoords="offset points")
    if bound:
        axis.axvline(bound, color=FIRST, lw=1, ls=(0, (2, 3)))
    axis.set_xlim(0, None)
    axis.set_xlabel("µs an inference of the exported file")
    titled(axis, "Candidates that were trained to the end; the line is what no other beats")
    return as_svg(figure, "Score by latency")


def write_search(
    path: Path, title: str, notes: Sequence[str], trials: Sequence[Mapping[str, Any]], drawn: str, winner: int | None
) -> None:
    """Write a page.

    Args:
        path: of the file.
        title: its heading.
        notes: lines that a reader must know.
        trials: rows, the best first.
        drawn: the picture.
        winner: number of the best within the budget.
    """
    page = template("search.html").render(
        title=title,
        notes=notes,
        trials=trials,
        drawn=drawn,
        winner=winner,
    )
    write_whole(path, page)
