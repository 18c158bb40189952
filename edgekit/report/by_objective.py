"""Pictures of what a network gets right and wrong, by what its labels are; all of test examples."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.data import FederatedDataset
from edgekit.objectives.figures import confusion as confusion_of
from edgekit.report.drawing import FAINT, FIRST, INK, SECOND, as_svg, new_figure, titled

if TYPE_CHECKING:
    from edgekit.arrays import Array

MOST_CLASSES = 30
"""Of which a confusion matrix can be read."""
MOST_POINTS = 2000


def drawn(dataset: FederatedDataset, scores: "Array", result: dict[str, Any]) -> dict[str, Any]:
    """Return pictures as SVG, and what is to be said below them.

    Args:
        dataset: whose test examples were scored.
        scores: of the trained network for them, (examples, outputs).
        result: what result.json will hold.
    """
    objective, test, names = dataset.objective, dataset.test, dataset.classes
    if len(scores) != len(test):
        return {"pictures": [], "caption": ""}
    if objective.labels == "class":
        labels = test.y if test.y.ndim == 1 else test.y.argmax(1)
        return _classes(labels, scores.argmax(1), names)
    if objective.labels == "flags":
        curves = {name: (scores[:, i], test.y[:, i] > 0.5) for i, name in enumerate(names)}
        return {"pictures": [roc(curves)], "caption": "Each label's scores against whether it is there."}
    if objective.labels == "values":
        return _values(test.y, scores, names)
    errors = ((scores - test.x).reshape(len(scores), -1) ** 2).mean(1)
    strange = test.y != objective.chosen.arguments["place"]
    caption = "Errors of what the network gives back: of normal examples small, of others larger."
    if "decision" in result:
        found = result["decision"]
        caption += (
            f" Beyond the threshold of {found['threshold']:.4g} lie {100 * found['found']:.0f} % of what is not "
            f"normal, and {100 * found['false_alarms']:.0f} % of what is."
        )
    shown = [histograms(errors, strange, result.get("decision", {}).get("threshold")), roc({"": (errors, strange)})]
    return {"pictures": shown, "caption": caption}


def _classes(labels: NDArray[np.int64], answers: NDArray[np.int64], names: list[str]) -> dict[str, Any]:
    many = len(names)
    if many > MOST_CLASSES:
        return {"pictures": [], "caption": ""}
    counts = confusion_of(labels, answers, many)
    there = counts.sum(1)
    error = 1 - np.diag(counts) / np.maximum(there, 1)
    off = counts * (1 - np.eye(many, dtype=np.int64))
    caption = "Rows are what examples are, columns what the network says."
    if off.max():
        a, b = np.unravel_index(off.argmax(), off.shape)
        caption += f" Most often {names[a]} is taken for {names[b]}: {off[a, b]} of {there[a]}."
    return {"pictures": [confusion(counts, names), error_by_class(error, names)], "caption": caption}


def _values(y: "Array", scores: "Array", names: list[str]) -> dict[str, Any]:
    kept = np.random.default_rng(0).permutation(len(y))[:MOST_POINTS]
    shown = [against(y[kept, i], scores[kept, i], name) for i, name in enumerate(names[:2])]
    shown.append(residuals((scores - y)[:, 0], names[0]))
    more = f" Shown are the first two of {len(names)} numbers." if len(names) > 2 else ""
    return {"pictures": shown, "caption": f"Each point is a test example; on the line the answer is right.{more}"}


def confusion(counts: NDArray[np.int64], names: list[str]) -> str:
    """Draw how often a class (row) is taken for another (column)."""
    many = len(names)
    figure, axis = new_figure(5.0, 4.2)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axis.grid(visible=False)
    for row in range(many):
        for column in range(many):
            share = float(shares[row, column])
            colour = FIRST if row == column else SECOND
            axis.add_patch(_square(column, row, colour, share))
            if counts[row, column] and many <= 12:
                said = axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=INK, fontsize=8)
                said.set_in_layout(False)  # it lies within its square
    axis.set_xlim(-0.5, many - 0.5)
    axis.set_ylim(many - 0.5, -0.5)
    axis.set_xticks(range(many), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axis.set_yticks(range(many), names)
    titled(axis, "Answers by class")
    return as_svg(figure, "Confusion matrix")


def _square(x: float, y: float, colour: str, share: float) -> Any:
    from matplotlib.patches import Rectangle

    # Faint ones must still be seen.
    alpha = 0.0 if share == 0 else 0.12 + 0.6 * share
    return Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=colour, alpha=alpha, edgecolor=FAINT, linewidth=0.3)


def error_by_class(error: NDArray[np.float64], names: list[str]) -> str:
    """Draw which share of each class is missed."""
    figure, axis = new_figure(5.0, 4.2)
    places = np.arange(len(names))
    axis.barh(places, 100 * error, color=SECOND, height=0.7)
    axis.set_yticks(places, names)
    axis.invert_yaxis()
    axis.set_xlim(0, max(1.0, 110 * float(error.max())))
    axis.set_xlabel("% missed")
    titled(axis, "Missed by class")
    return as_svg(figure, "Error by class")


def roc(curves: dict[str, tuple["Array", "Array"]]) -> str:
    """Draw the share that is found against false alarms, for each threshold."""
    figure, axis = new_figure(5.0, 4.2)
    for name, (scores, positive) in list(curves.items())[:8]:
        order = np.argsort(-scores, kind="stable")
        hits, misses = np.cumsum(positive[order]), np.cumsum(~positive[order])
        if not hits[-1] or not misses[-1]:
            continue
        line = axis.plot([0, *misses / misses[-1]], [0, *hits / hits[-1]], lw=1.8, label=name or None)
        if len(curves) == 1:
            line[0].set_color(FIRST)
    axis.plot([0, 1], [0, 1], color=FAINT, lw=1)
    if 1 < len(curves) <= 8:
        axis.legend(frameon=False, loc="lower right")
    axis.set_xlabel("false alarms")
    axis.set_ylabel("found")
    titled(axis, "ROC")
    return as_svg(figure, "ROC curve")


def histograms(errors: "Array", strange: "Array", threshold: float | None) -> str:
    """Draw the errors of normal and of other examples over each other."""
    figure, axis = new_figure(5.0, 4.2)
    bins = np.linspace(0, float(np.quantile(errors, 0.99)) or 1.0, 40).tolist()
    axis.hist(errors[~strange], bins, density=True, color=FIRST, alpha=0.6, label="normal")
    axis.hist(errors[strange], bins, density=True, color=SECOND, alpha=0.6, label="not normal")
    if threshold is not None:
        axis.axvline(threshold, color=INK, lw=1, ls=(0, (2, 3)), label="threshold")
    axis.legend(frameon=False)
    axis.set_yticks([])
    axis.set_xlabel("mean squared error")
    titled(axis, "Errors")
    return as_svg(figure, "Errors of normal and other examples")


def against(y: "Array", scores: "Array", name: str) -> str:
    """Draw what the network says against what is right."""
    figure, axis = new_figure(5.0, 4.2)
    ends = [float(y.min()), float(y.max())]
    axis.plot(ends, ends, color=INK, lw=1, ls=(0, (2, 3)))
    axis.plot(y, scores, ls="", marker="o", ms=2.5, color=FIRST, alpha=0.5)
    axis.set_xlabel("right")
    axis.set_ylabel("network")
    titled(axis, name.capitalize())
    return as_svg(figure, f"{name.capitalize()} against what the network says")


def residuals(away: "Array", name: str) -> str:
    """Draw how far answers are off."""
    figure, axis = new_figure(5.0, 4.2)
    axis.hist(away, 40, color=FIRST)
    axis.axvline(0, color=INK, lw=1, ls=(0, (2, 3)))
    axis.set_xlabel("network minus right")
    axis.set_ylabel("examples")
    titled(axis, f"Residuals of {name}")
    return as_svg(figure, f"Residuals of {name}")
