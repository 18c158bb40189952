"""Figures in the page's style, as SVG text that takes its colours from the page."""

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for the page's own; `_svg` puts the variables in their place.
INK, FAINT, FIRST, SECOND, THIRD = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", FAINT: "--line", FIRST: "--first", SECOND: "--second", THIRD: "--third"}


def standalone(svg: str, style: str) -> str:
    """Return a picture of the report as a file of its own, with the page's colours for light and dark.

    Args:
        svg: of this module.
        style: the page's style sheet.
    """
    colours = "".join(
        re.findall(r"(?::root\s*\{[^}]*\}|@media[^{]*prefers-color-scheme[^{]*\{\s*:root\s*\{[^}]*\}\s*\})", style)
    )
    background = "svg { background: var(--paper); }"
    head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    return re.sub(r"<svg ([^>]*)>", rf"{head}\1><style>{colours}{background}</style>", svg, count=1)


def new_figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    """Return a figure in the page's style with one pair of axes; sizes in inches."""
    figure, axes = figures(width, height, 1)
    return figure, axes[0]


def figures(width: float, height: float, rows: int, ratios: Sequence[float] | None = None) -> tuple["Figure", Any]:
    """Return a figure of axes above each other."""
    figure = empty(width, height)
    axes = figure.subplots(rows, 1, squeeze=False, sharex=rows > 1, height_ratios=ratios)[:, 0]
    for axis in axes:
        axis.patch.set_alpha(0)
        axis.tick_params(length=0)
    return figure, axes


def empty(width: float, height: float) -> "Figure":
    """Return a figure in the page's style without axes."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "edgekit",
            "font.family": "sans-serif",
            "font.size": 9,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": FAINT,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": FAINT,
            "grid.linewidth": 0.6,
            "axes.axisbelow": True,
        }
    )
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def titled(axis: "Axes", text: str) -> None:
    """Give axes their title."""
    axis.set_title(text, loc="left", fontsize=10, color=INK)


def as_svg(figure: "Figure", description: str) -> str:
    """Return the figure as an inline SVG element with the page's colours and a name for screen readers."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    # `savefig` draws twice, the first time for a size that nobody asks for here.
    canvas: Any = FigureCanvasSVG(figure)
    canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # All pictures are in one document, where an id must be used once.
    prefix = re.sub(r"[^a-z]+", "-", description.lower())
    text = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{prefix}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"font: ([^;\"]*?)'[^;\"]*", r"font: \1system-ui, sans-serif", text)
    return re.sub(
        r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg role="img" aria-label="{description}" viewBox="\1">', text
    )
