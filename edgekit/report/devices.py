"""The devices of a simulated fleet, as pictures: their day, and when the model was how good."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.report.drawing import FIRST, INK, SECOND, THIRD, as_svg, figures, new_figure, titled

HOUR = 3600.0
SHOWN = 80
"""Devices in the picture."""
LEAST_WIDTH = 0.0015
"""Share of the picture's width that a round's bar has at least: seconds of a day could not be seen."""
COLOURS = {"done": FIRST, "surplus": THIRD, "late": SECOND, "left": SECOND, "empty": SECOND}


def day(lines: Sequence[Mapping[str, Any]], rounds: Sequence[Mapping[str, Any]]) -> str:
    """Draw who trained when: a row a device, a bar a round; below it how many devices were there.

    Args:
        lines: of devices.jsonl.
        rounds: of metrics.jsonl.
    """
    devices = sorted({row[0] for line in lines for row in line["devices"]})
    shown = devices[:: max(1, -(-len(devices) // SHOWN))]
    places = {device: place for place, device in enumerate(shown)}
    height = min(6.0, 1.8 + 0.06 * len(shown))
    figure, (above, below) = figures(9.0, height + 1.2, 2, (height, 1.0))
    first = min((row[1] for line in lines for row in line["devices"]), default=lines[0]["clock"]) / HOUR
    last = max(line["clock"] for line in lines) / HOUR
    width = max(last - first, 1e-9)
    bars: dict[str, list[tuple[float, float, int]]] = {}
    for line in lines:
        for device, start, download, compute, upload, _, end in line["devices"]:
            if device in places:
                took = min(download + compute + upload, line["clock"] - start) / HOUR
                bar = start / HOUR, max(took, LEAST_WIDTH * width), places[device]
                bars.setdefault(COLOURS.get(end, SECOND), []).append(bar)
    for colour, found in bars.items():
        starts, widths, rows = zip(*found, strict=True)
        above.barh(rows, widths, left=starts, height=0.8, color=colour, linewidth=0)
    above.set_ylabel(f"{len(shown)} of {len(devices)} devices" if len(shown) < len(devices) else "devices")
    above.set_ylim(len(shown) - 0.5, -0.5)
    above.set_yticks([])
    above.grid(axis="y", visible=False)
    titled(above, "Who trained when")
    told = [line["devices"] for line in rounds if line.get("devices")]
    below.step([one["clock"] / HOUR for one in told], [one["online"] for one in told], color=INK, lw=1.2)
    below.set_ylim(0, None)
    below.set_ylabel("there")
    below.set_xlabel("hours of the virtual clock, from midnight")
    below.set_xlim(first - 0.01 * width, last + 0.01 * width)
    return as_svg(figure, "Which simulated device trained when, and how many were there")


def progress(rounds: Sequence[Mapping[str, Any]]) -> str:
    """Draw the accuracy by hours of the virtual clock; "" where none was measured."""
    told = [(line["devices"], line["accuracy"]) for line in rounds if line.get("devices")]
    points = [((one["clock"] - one["began"]) / HOUR, 100 * score) for one, score in told if score is not None]
    if not points:
        return ""
    figure, axis = new_figure(4.4, 3.0)
    axis.plot(*zip(*points, strict=True), color=FIRST, lw=1.6)
    axis.set_ylim(0, 100)
    axis.set_xlabel("hours of the virtual clock")
    axis.set_ylabel("accuracy, %")
    titled(axis, "Accuracy by time")
    return as_svg(figure, "Accuracy by hours of the virtual clock")


def drawn(lines: Sequence[Mapping[str, Any]], rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the pictures, and how many updates were late, taken away or not needed.

    Args:
        lines: of devices.jsonl; none where who took part is secret.
        rounds: of metrics.jsonl.
    """
    told = [line["devices"] for line in rounds if line.get("devices")]
    if not told:
        return {}
    sums = {name: sum(one[name] for one in told) for name in COLOURS} if "done" in told[0] else {}
    return {"day": day(lines, rounds) if lines else "", "progress": progress(rounds), "ends": sums}
