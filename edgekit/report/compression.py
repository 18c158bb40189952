"""Pictures of a network that got smaller: what it gained by what it kept."""

from typing import Any

from edgekit.report.drawing import FIRST, SECOND, as_svg, new_figure, titled

SHOWN_LAYERS = 20
"""Of those that mind most."""


def drawn(result: dict[str, Any]) -> list[str]:
    """Return pictures as SVG: the measure against the work that stays, and against the files' bytes; [] without files.

    Args:
        result: what result.json holds.
    """
    rows = result.get("compression", [])
    files = [(row["stage"], preset, file) for row in rows for preset, file in row.get("files", {}).items()]
    if not files:
        return []
    measure = rows[0]["measure"]
    figure, axis = new_figure(5.0, 3.2)
    work = "macs" if rows[-1]["macs"] < rows[0]["macs"] else "nonzero"
    share = [row[work] / rows[0][work] for row in rows]
    axis.plot(share, [row["score"] for row in rows], color=FIRST, lw=1.5, marker="o", ms=4)
    axis.annotate("at the end", (share[-1], rows[-1]["score"]), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axis.set_xlabel("share of the multiply-adds" if work == "macs" else "share of the weights that are not zero")
    axis.set_xlim(0, 1.05)
    titled(axis, f"Test {measure} on the way")
    first = as_svg(figure, f"{measure.capitalize()} by what stays")
    figure, axis = new_figure(5.0, 3.2)
    for preset, colour in (("float32", FIRST), ("int8", SECOND)):
        points = [(file["latency_us"], file[measure], file["gzip"]) for _, name, file in files if name == preset]
        if points:
            latency, score, size = zip(*points, strict=True)
            axis.plot(latency, score, color=colour, lw=1, ls=(0, (2, 3)))
            largest = max(file["gzip"] for _, _, file in files)
            axis.scatter(latency, score, s=[30 + 200 * one / largest for one in size], color=colour, label=preset)
    axis.set_xlim(0, None)
    axis.set_xlabel("µs an inference; the larger the dot, the more bytes by gzip")
    axis.legend(frameon=False, fontsize=8)
    titled(axis, f"{measure.capitalize()} of the files, before and after")
    return [first, as_svg(figure, "Files before and after"), *_sensitive(rows[0])]


def _sensitive(row: dict[str, Any]) -> list[str]:
    """Draw which layers mind most to be pruned alone."""
    found = sorted(row.get("sensitivity", {}).items(), key=lambda one: one[1])[:SHOWN_LAYERS]
    if not found:
        return []
    figure, axis = new_figure(5.0, max(2.2, 0.22 * len(found) + 1.0))
    axis.barh(range(len(found)), [score for _, score in found], color=SECOND, height=0.7)
    axis.set_yticks(range(len(found)), [name if len(name) < 25 else f"…{name[-23:]}" for name, _ in found])
    axis.invert_yaxis()
    axis.set_xlabel(f"{row['measure']} on the server's own examples")
    titled(axis, "If one layer alone is pruned so far")
    return [as_svg(figure, "Sensitivity by layer")]


def zeros_alone(result: dict[str, Any]) -> bool:
    """Whether weights became zeros and nothing else shrank."""
    rows = result.get("compression", [])
    return bool(rows) and rows[-1]["macs"] == rows[0]["macs"] and rows[-1]["nonzero"] < rows[-1]["parameters"]
