"""What a search found: the best within the budget, what no other beats, the page."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from edgekit import experiment as experiments
from edgekit.pipeline.search.asking import notes
from edgekit.pipeline.search.folder import BASE, COMPLETE, FAILED, OVER, PRUNED, Search, Trial
from edgekit.pipeline.sweeping import experiments_text
from edgekit.runfolder import write_whole

WINNER, PAGE = "winner.toml", "search.html"


def _fitting(search: Search, trials: Sequence[Trial]) -> list[Trial]:
    """Return those that were trained to the end within the budget."""
    return [one for one in trials if one.state == COMPLETE and one.cost and search.budget.excess(one.cost) <= 0]


def best(search: Search, trials: Sequence[Trial]) -> Trial | None:
    """Return the best that was trained to the end within the budget."""
    fitting = _fitting(search, trials)
    return max(fitting, key=lambda one: (one.score or 0.0, -one.number), default=None)


def nearest_miss(search: Search, trials: Sequence[Trial]) -> str:
    """Return which candidate is nearest to a budget that none meets, and what to relax."""
    measured = [one for one in trials if one.cost is not None and one.state != FAILED]
    if not measured:
        return "no candidate could be measured"
    fitting = sum(search.budget.excess(each.cost) <= 0 for each in measured if each.cost is not None)
    if fitting:
        return f"{fitting} were within it and ended early: give more --trials"
    one = min(measured, key=lambda each: search.budget.excess(each.cost))  # type: ignore[arg-type]
    assert one.cost is not None
    over = [
        f"{option} {math.ceil(own * 100 / scale) / 100:g}"
        for option, own, most, scale in (
            _latency_option(search, one.cost.latency_us),
            ("--flash-kb", one.cost.flash, search.budget.flash, 1024),
            ("--ram-kb", one.cost.ram, search.budget.ram, 1024),
        )
        if most and own > most
    ]
    return f"nearest is {one.label}: begin another search with {' and '.join(over)}"


def _latency_option(search: Search, own: float) -> tuple[str, float, float, float]:
    bound = search.budget.latency_us
    return ("--latency-share", own, bound, bound / search.share) if search.share else ("--latency-ms", own, bound, 1000)


def pareto(search: Search, trials: Sequence[Trial]) -> list[Trial]:
    """Return those within the budget that no other beats in both score and latency, the fastest first."""
    whole = _fitting(search, trials)
    front: list[Trial] = []
    for one in sorted(whole, key=lambda each: (each.cost.latency_us, -(each.score or 0))):  # type: ignore[union-attr]
        if not front or (one.score or 0) > (front[-1].score or 0):
            front.append(one)
    return front


def write_page(search: Search, trials: Sequence[Trial]) -> Path:
    """Write the search's page; return the file."""
    from edgekit.report import searched

    winner = best(search, trials)
    none = dict.fromkeys(("latency_us", "flash", "ram", "parameters", "macs"), 0)
    rows = [
        {**none, **({} if one.cost is None else asdict(one.cost)), "number": one.number, "state": one.state,
         "score": one.score, "judged": one.judged, "label": one.label, "reason": one.reason}
        for one in trials
    ]  # fmt: skip
    order = (COMPLETE, PRUNED, OVER, FAILED)
    rows.sort(key=lambda row: (order.index(str(row["state"])), -float(row["score"] or 0), int(row["number"] or 0)))
    drawn = searched.front(rows, [one.number for one in pareto(search, trials)], search.budget.latency_us)
    place = search.path / PAGE
    number = None if winner is None else winner.number
    searched.write_search(place, f"Search {search.path.name}", notes(search), rows, drawn, number)
    return place


def write_winner(search: Search, winner: Trial) -> Path:
    """Write the winner's experiment; return the file."""
    experiment = experiments.load(search.path / BASE, [])
    changed = experiments.changed(experiment, [f"{key}={value}" for key, value in winner.settings.items()])
    write_whole(search.path / WINNER, experiments_text(changed))
    return search.path / WINNER
