"""What a run released, as a tree of events like dp-accounting's `DpEvent`: anybody can compute epsilon from it.

Each node has the name of dp-accounting's class and its arguments, as JSON.
"""

from collections.abc import Mapping
from typing import Any

from edgekit.privacy.accounting import History


def tree(history: History) -> dict[str, Any]:
    """Return a history of Poisson-subsampled Gaussian mechanisms as events.

    Args:
        history: (noise multiplier, sample rate, steps) of each kind.
    """
    events = []
    for noise_multiplier, sample_rate, steps in history:
        event: dict[str, Any] = {"event": "GaussianDpEvent", "noise_multiplier": noise_multiplier}
        if sample_rate < 1:
            event = {"event": "PoissonSampledDpEvent", "sampling_probability": sample_rate, "child": event}
        events.append({"event": "SelfComposedDpEvent", "count": steps, "child": event})
    return {"event": "ComposedDpEvent", "events": events}


def dp_event(found: Mapping[str, Any]) -> Any:
    """Return a tree as dp-accounting's own events.

    Raises:
        KeyError: it is no such tree.
    """
    import dp_accounting

    kind = found["event"]
    if kind == "ComposedDpEvent":
        return dp_accounting.ComposedDpEvent([dp_event(one) for one in found["events"]])
    if kind == "SelfComposedDpEvent":
        return dp_accounting.SelfComposedDpEvent(dp_event(found["child"]), int(found["count"]))
    if kind == "PoissonSampledDpEvent":
        return dp_accounting.PoissonSampledDpEvent(found["sampling_probability"], dp_event(found["child"]))
    return {"GaussianDpEvent": dp_accounting.GaussianDpEvent}[kind](found["noise_multiplier"])
