"""The report's pictures, as SVG text that takes its colours from the page, so that they suit light and dark."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.report.drawing import FAINT, FIRST, INK, SECOND, THIRD, as_svg, empty, figures, new_figure, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def by_round(rounds: Sequence[dict[str, Any]], measure: str) -> str:
    """Draw the objective's measure by round, from the lines of metrics.jsonl."""
    figure, axis = new_figure(5.0, 2.9)
    values = {line["round"]: {**line["metrics"], "accuracy": line["accuracy"]}.get(measure) for line in rounds}
    measured = {number: value for number, value in values.items() if value is not None}
    axis.plot(list(measured), list(measured.values()), color=FIRST, lw=2)
    titled(axis, f"Test {measure} of the global model")
    axis.set_ylim(max(-1.0, min([0.0, *measured.values()])), 1.02)
    axis.set_xlabel("round")
    return as_svg(figure, f"{measure.capitalize()} by round")


def curves(runs: Mapping[str, Sequence[tuple[int, float]]], measure: str) -> str:
    """Draw the measure by round of up to nine runs over each other, each named."""
    from matplotlib.ticker import MaxNLocator

    figure, axis = new_figure(9.0, 3.6)
    styles = [(colour, line) for line in ("-", (0, (5, 2)), (0, (1, 1.5))) for colour in (FIRST, SECOND, THIRD)]
    for (name, points), (colour, line) in zip(runs.items(), styles, strict=False):
        axis.plot(*zip(*points, strict=True), color=colour, ls=line, lw=1.8, label=name)
    axis.set_xlabel("round")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), labelcolor=INK)
    titled(axis, f"Test {measure} of the global model")
    return as_svg(figure, f"{measure.capitalize()} by round of each run")


def epsilon(rounds: Sequence[dict[str, Any]], target: float) -> str:
    """Draw the epsilon spent by round, from the lines of metrics.jsonl, below the planned one."""
    figure, axis = new_figure(5.0, 2.9)
    axis.plot([line["round"] for line in rounds], [line["epsilon"] for line in rounds], color=SECOND, lw=2)
    axis.axhline(target, color=INK, lw=1, ls=(0, (2, 3)))
    axis.annotate(f"target {target:g}", (0, target), xytext=(4, -4), textcoords="offset points", va="top")
    axis.set_ylim(0, target * 1.1)
    axis.set_xlabel("round")
    titled(axis, "Epsilon spent")
    return as_svg(figure, "Epsilon by round")


def by_client(scores: Sequence[float], measure: str) -> str:
    """Draw the model's measure on what each client holds back, worst first; the worst tenth stands out."""
    figure = empty(9.0, 2.9)
    axis, beside = figure.subplots(1, 2, sharey=True, width_ratios=(14, 1))
    held = np.maximum(np.sort(np.asarray(scores)), -1.0)
    worst = max(1, len(held) // 10)
    colours = [SECOND if place < worst else FIRST for place in range(len(held))]
    axis.bar(np.arange(len(held)), held, 0.85 if len(held) <= 150 else 1.0, color=colours, linewidth=0)
    axis.axhline(held.mean(), color=INK, lw=1, ls=(0, (2, 3)))
    label = f"mean {held.mean():.3f}, worst tenth {held[:worst].mean():.3f}"
    axis.annotate(label, (-0.4, 1.15), va="top")  # above the bars, which end at 1
    axis.set_xlim(-0.6, len(held) - 0.4)
    axis.set_ylim(min(0.0, held[0]), 1.18)
    axis.set_xticks([])
    axis.set_xlabel(f"{len(held)} clients, worst first")
    lines = {part: {"color": INK, "linewidth": 1} for part in ("boxprops", "medianprops", "whiskerprops", "capprops")}
    beside.boxplot(held, widths=0.6, flierprops={"marker": ".", "markeredgecolor": SECOND}, **lines)
    beside.set_xticks([])
    beside.set_xlabel("box plot", fontsize=8)
    for each in (axis, beside):
        each.patch.set_alpha(0)
        each.tick_params(length=0)
    titled(axis, f"{measure.capitalize()} on each client's own data, held back")
    return as_svg(figure, f"{measure.capitalize()} on what each client holds back")


def clients(histogram: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Draw each client's size and mix of labels: one column a client, stacked by class, largest first.

    Args:
        histogram: examples of each class, (clients, classes).
        classes: class names.
    """
    import matplotlib

    order = np.argsort(-histogram.sum(1), kind="stable")
    held = histogram[order]
    figure, axis = new_figure(9.0, 3.1)
    colours = matplotlib.colormaps["viridis"](np.linspace(0.05, 0.95, len(classes)))
    bottom = np.zeros(len(held))
    width = 0.85 if len(held) <= 150 else 1.0
    for number, name in enumerate(classes):
        axis.bar(np.arange(len(held)), held[:, number], width, bottom, color=colours[number], label=name, linewidth=0)
        bottom += held[:, number]
    axis.set_xlim(-0.6, len(held) - 0.4)
    axis.set_xticks([])
    axis.set_xlabel(f"{len(held)} clients, largest first")
    titled(axis, "Examples of each class, by client")
    if len(classes) <= 20:
        axis.legend(
            ncols=len(classes) if len(classes) <= 12 else 10,
            frameon=False,
            fontsize=8,
            handlelength=0.8,
            handletextpad=0.4,
            columnspacing=1.0,
            loc="upper right",
        )
    return as_svg(figure, "Each client's number of examples, by class")


def steps(by_steps: dict[str, dict[str, float]], chosen: int, reference: float) -> str:
    """Draw accuracy against time steps, beside that of the network it came from, and the energy below."""
    figure, (axis, below) = figures(4.4, 3.6, 2, (3, 1))
    counts = [int(key) for key in by_steps]
    for kind, colour, name in (("float", FIRST, "float"), ("loihi", SECOND, "Loihi integers")):
        axis.plot(counts, [by_steps[str(n)][kind] for n in counts], color=colour, lw=2, marker="o", ms=4, label=name)
    axis.axhline(reference, color=INK, lw=1, ls=(0, (2, 3)), label="network before conversion")
    energies = [1e6 * by_steps[str(n)]["energy_joules_estimate"] for n in counts]
    below.plot(counts, energies, color=THIRD, lw=2, marker="o", ms=4)
    below.set_ylim(0, 1.15 * max([*energies, 1e-9]))
    below.set_ylabel("µJ, estimated", fontsize=8)
    for each in (axis, below):
        each.axvline(chosen, color=FAINT, lw=1)
        each.set_xscale("log", base=2)
        each.set_xticks(counts, [str(n) for n in counts])
        each.minorticks_off()
    lowest = min(min(values["float"], values["loihi"]) for values in by_steps.values())
    axis.set_ylim(max(0.0, min(lowest, reference) - 0.05), 1.005)
    below.set_xlabel("time steps")
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    titled(axis, "Accuracy and energy by time steps")
    return as_svg(figure, "Accuracy and energy of the spiking network by time steps")


def early(decision: dict[str, Any], whole: int, accuracy: float) -> str:
    """Draw accuracy against the mean steps of inferences that stop when the readout is sure."""
    return _stopping(decision, "steps", whole, accuracy, (f"all {whole} steps", "margin", "time steps"))


def exits(facts: dict[str, Any]) -> str:
    """Draw accuracy against the mean multiply-adds of inferences that take the first answer that is sure."""
    words = ("all stages", "threshold", "thousand multiply-adds")
    curve = [{**point, "thousands": point["mean_macs"] / 1000} for point in facts["curve"]]
    chosen = {**facts, "curve": curve, "thousands": facts["mean_macs"] / 1000}
    return _stopping(chosen, "thousands", facts["macs"][-1] / 1000, facts["accuracy_by_exit"][-1], words)


def _stopping(chosen: dict[str, Any], cost: str, whole: float, accuracy: float, words: tuple[str, str, str]) -> str:
    figure, axis = new_figure(4.4, 3.0)
    points = chosen["curve"]
    axis.plot([p[cost] for p in points], [p["accuracy"] for p in points], color=FIRST, lw=2, marker="o", ms=3)
    axis.plot([whole], [accuracy], color=INK, marker="o", ms=6, ls="", label=words[0])
    axis.plot([chosen[cost]], [chosen["accuracy"]], color=SECOND, marker="o", ms=8, ls="", label=f"chosen {words[1]}")
    axis.set_xlabel(f"mean {words[2]} until the decision")
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    titled(axis, "Accuracy when stopping early")
    return as_svg(figure, "Accuracy against steps of early decisions")


def rates(by_layer: Sequence[dict[str, Any]]) -> str:
    """Draw how often the neurons of each layer fire."""
    figure, axis = new_figure(4.4, 3.0)
    places = range(len(by_layer))
    axis.barh(places, [100 * layer["rate"] for layer in by_layer], color=FIRST, height=0.6, linewidth=0)
    names = [f"layer {i + 1}\n{layer['layer']}"[:28] for i, layer in enumerate(by_layer)]
    axis.set_yticks(places, names, fontsize=7)
    for place, layer in zip(places, by_layer, strict=True):
        silent = f", {100 * layer['silent']:.0f} % never" if layer["silent"] else ""
        axis.annotate(
            f"{100 * layer['rate']:.1f} %{silent}",
            (100 * layer["rate"], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axis.set_xlim(0, 1.6 * max([100 * layer["rate"] for layer in by_layer] + [1.0]))
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set_xlabel("spikes a neuron and step, %")
    titled(axis, "How often neurons fire")
    return as_svg(figure, "Firing rate of each layer")


def membranes(voltages: Sequence[NDArray[np.float64]], names: Sequence[str]) -> str:
    """Draw the voltages of a few neurons of each layer, (steps, neurons) each, in units of the threshold."""
    figure, axes = figures(4.4, max(3.0, 0.85 * len(voltages)), len(voltages))
    for number, (axis, traces) in enumerate(zip(axes, voltages, strict=True)):
        axis.axhline(1.0, color=INK, lw=0.8, ls=(0, (2, 3)))
        for neuron, colour in zip(range(traces.shape[1]), (FIRST, SECOND, THIRD), strict=False):
            axis.plot(range(1, len(traces) + 1), traces[:, neuron], color=colour, lw=1.4)
        axis.set_ylabel(f"layer {number + 1}", fontsize=7)
        axis.tick_params(labelsize=7, labelbottom=number == len(voltages) - 1)
    axes[-1].set_xlabel("time step")
    titled(axes[0], "Voltages of a few neurons, in thresholds")
    return as_svg(figure, "Membrane voltages of a few neurons of each layer: " + ", ".join(names))


def raster(spikes: Sequence[NDArray[np.bool_]], names: Sequence[str]) -> str:
    """Draw one example's spikes: a dot a spike, a band a layer, (steps, neurons) each."""
    figure, axis = new_figure(4.4, 3.0)
    start = 0
    ticks, labels = [], []
    for number, layer in enumerate(spikes):
        when, who = np.nonzero(layer)
        colour = (FIRST, SECOND, THIRD)[number % 3]
        axis.scatter(when + 1, start + who, s=1.2, color=colour, linewidths=0, rasterized=False)
        ticks.append(start + layer.shape[1] / 2)
        labels.append(f"layer {number + 1}\n{layer.shape[1]:,} neurons\n{len(when):,} spikes")
        start += layer.shape[1]
        if number < len(spikes) - 1:
            axis.axhline(start, color=FAINT, lw=1)
    axis.set_yticks(ticks, labels, fontsize=7)
    axis.grid(False)
    axis.set_ylim(start, 0)
    axis.set_xlabel("time step")
    axis.set_xlim(0.5, len(spikes[0]) + 0.5)
    titled(axis, "Every spike of this one example")
    return as_svg(figure, "Spike raster of one test example")


def voltages(values: NDArray[np.int32], classes: Sequence[str], answer: str) -> str:
    """Draw the readout's voltages of one example by time step: the highest is the answer."""
    figure, axis = new_figure(4.4, 3.0)
    for number, name in enumerate(classes):
        mine = name == answer
        axis.plot(
            range(1, len(values) + 1),
            values[:, number] / 64,
            color=SECOND if mine else FAINT,
            lw=2.4 if mine else 1.2,
            zorder=3 if mine else 2,
        )
    axis.annotate(
        answer,
        (len(values), values[-1, list(classes).index(answer)] / 64),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        weight="bold",
    )
    axis.set_xlabel("time step")
    titled(axis, "Voltage of each class")
    return as_svg(figure, "Readout voltages of one example")


def image(example: NDArray[np.float32]) -> str:
    """Draw one example: an image as pixels, other features as bars."""
    figure, axis = new_figure(2.2, 2.2)
    _put_example(axis, example)
    return as_svg(figure, "The example, as the network sees it")


def grid_of_images(examples: Sequence[NDArray[np.float32]], titles: Sequence[str], description: str) -> str:
    """Draw some examples beside each other, each with a title, four in a row at most."""
    wide = min(4, len(examples))
    high = -(-len(examples) // wide)
    figure = empty(5.0, 5.0 / max(wide, 2) * high + 0.2)
    axes = figure.subplots(high, max(wide, 2), squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, example, title in zip(axes, examples, titles, strict=False):
        _put_example(axis, example)
        axis.set_title(title if len(title) < 26 else f"{title[:24]}…", fontsize=8, color=INK)
    return as_svg(figure, description)


def _put_example(axis: "Axes", example: NDArray[np.float32]) -> None:
    axis.axis("off")
    if example.ndim == 4:  # a sequence of frames: where it grew brighter, minus where it grew darker
        summed = example.sum(0)
        example = (summed[1] - summed[0])[None] if len(summed) == 2 else summed[:1]
    if example.ndim == 2:  # a series: time to the right
        example = example.T[None]
    if example.ndim == 3:
        pixels = example.transpose(1, 2, 0) if example.shape[0] == 3 else example[0]
        low, high = float(pixels.min()), float(pixels.max())
        axis.imshow((pixels - low) / max(high - low, 1e-9), cmap="gray_r", interpolation="nearest")
    else:
        axis.bar(range(example.size), example.ravel(), color=FIRST)


def rebuilt(rows: Mapping[str, NDArray[np.float32]]) -> str:
    """Draw what an attack rebuilt of some images, below the originals.

    Args:
        rows: a row of images by its name, (images, channels, height, width); the first are the originals, and all are
            drawn on their scale.
    """
    originals = next(iter(rows.values()))
    low, high = float(originals.min()), float(originals.max())
    width = 0.62 * len(originals) + 1.6
    figure, axes = figures(width, 0.72 * len(rows), len(rows))
    for axis, (name, images) in zip(axes, rows.items(), strict=True):
        shown = np.clip((images - low) / max(high - low, 1e-9), 0.0, 1.0)
        gap = np.zeros((*shown.shape[:3], max(1, shown.shape[3] // 8)), shown.dtype)
        strip = np.concatenate([part for image in zip(shown, gap, strict=True) for part in image], 2)
        axis.imshow(strip.transpose(1, 2, 0) if len(strip) == 3 else strip[0], cmap="gray_r", vmin=0, vmax=1,
                    interpolation="nearest")  # fmt: skip
        axis.set_yticks([shown.shape[2] / 2 - 0.5], [name])
        axis.set_xticks([])
        axis.grid(visible=False)
        axis.spines[["left", "bottom"]].set_visible(False)
    return as_svg(figure, "Examples, and what the split server rebuilds of them")
