"""When a network changes: a run's rounds in phases, in each of which one network trains."""

from dataclasses import dataclass, replace
from typing import Literal

from edgekit.compression.settings import Compression
from edgekit.compression.sparse import cubic
from edgekit.errors import ExperimentError

Change = Literal["", "weights", "channels", "ticket", "quantise"]


@dataclass(frozen=True)
class Phase:
    """Rounds in which one network trains.

    Attributes:
        number: from 0.
        until: its last round; one that ends where it begins changes the network and trains nothing.
        change: what happens to the network before it.
        amount: of weights the sparsity, of channels the share of the first network's multiply-adds that stays.
        since: the round after which the schedule of the step size begins.
        span: its rounds.
        last: whether it is the last.
    """

    number: int = 0
    until: int = 0
    change: Change = ""
    amount: float = 0.0
    since: int = 0
    span: int = 0
    last: bool = True


def phases(settings: Compression, rounds: int) -> list[Phase]:
    """Return a run's phases, in order.

    Args:
        settings: the experiment's.
        rounds: of the whole run.

    Raises:
        ExperimentError: there are too few rounds for what is asked.
    """
    plan = [Phase(until=rounds, span=rounds)]
    if "prune" in settings.stages:
        plan = _pruned(settings, rounds)
    if "ticket" in settings.stages:
        plan = _ticket(settings.ticket.rewind, settings.ticket.sparsity, rounds)
    asked = settings.quantise
    times = 1 if asked.ranges == "learnt" else asked.times
    return _rounding(plan, asked.begin, times, rounds) if "quantise" in settings.stages else plan


def _rounding(plan: list[Phase], begin: float, times: int, rounds: int) -> list[Phase]:
    """Return the phases, the last of which ends where the network begins to round; ranges are taken anew after it."""
    *before, last = plan
    at, start = round(begin * rounds), before[-1].until if before else 0
    if before and at < start:
        raise ExperimentError(
            f"compression.quantise.begin is {begin:g}, round {at}, and the network changes until round {start}: begin "
            f"it at {start / rounds:.2g} or later"
        )
    starts = sorted({at + round((rounds - at) * place / times) for place in range(times)})
    first = [replace(last, until=at, last=False)] if before or at or last.change else []
    found = [*before, *first]
    for number, (place, until) in enumerate(zip(starts, [*starts[1:], rounds], strict=True), len(found)):
        found.append(replace(last, number=number, until=until, change="quantise", amount=0.0, last=place == starts[-1]))
    return found


def _pruned(settings: Compression, rounds: int) -> list[Phase]:
    prune = settings.prune
    begin, end = round(prune.begin * rounds), round(prune.end * rounds)
    cuts: dict[int, float] = {}
    for step in range(1, prune.steps + 1):
        place = begin + round((end - begin) * step / prune.steps)
        done = cubic(step, prune.steps, 1.0)
        cuts[place] = done * prune.sparsity if prune.kind == "weights" else 1 - done * (1 - prune.macs)
    starts = [0, *cuts] if 0 not in cuts else [*cuts]
    ends = [*starts[1:], rounds]
    return [
        Phase(
            number,
            until,
            prune.kind if start in cuts else "",
            cuts.get(start, 0.0),
            span=rounds,
            last=number == len(starts) - 1,
        )
        for number, (start, until) in enumerate(zip(starts, ends, strict=True))
    ]


def _ticket(rewind: int, sparsity: float, rounds: int) -> list[Phase]:
    # Both trainings go through the whole schedule, the second from the round that it goes back to.
    first = (rounds + rewind + 1) // 2
    if not rewind < first < rounds:
        raise ExperimentError(
            f"{rounds} rounds are too few for a ticket that goes back to round {rewind}: federation.rounds is for both "
            "trainings"
        )
    starts = [Phase(0, rewind, span=first, last=False)] if rewind else []
    trained = Phase(len(starts), first, span=first, last=False)
    since = first - rewind
    return [*starts, trained, Phase(len(starts) + 1, rounds, "ticket", sparsity, since, rounds - since)]
