"""A run's network as one that rounds while it trains, as its integer file will."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from edgekit.compression.settings import Quantise
from edgekit.compression.sparse import dense
from edgekit.data import Examples, FederatedDataset
from edgekit.errors import ExportError
from edgekit.export import places
from edgekit.export.quantise import integer_file
from edgekit.export.tflite import Subject, as_device
from edgekit.export.verify import run_examples
from edgekit.models.fake_quantisation import plan_of, quantised
from edgekit.server.loop.evaluation import outputs_of

ROUNDING = 1e-3
"""Of floats, in quanta."""


def rounding(
    model: nn.Module, dataset: FederatedDataset, asked: Quantise, percentile: float, say: Callable[[str], None]
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a network that rounds, and the step of its record.

    The integer file of the network as it is tells where, and ranges: those of the server's own examples.

    Args:
        model: the network; its layers may be sparse.
        dataset: its data.
        asked: the experiment's.
        percentile: share of an activation's values, in percent, that ranges hold.
        say: told what only the file rounds.

    Raises:
        ExportError: it has no integer file.
    """
    if not len(dataset.calibration):
        raise ExportError("compression.quantise needs examples that no client owns, for ranges: data.calibration is 0")
    subject = Subject.of(dense(model), dataset)
    integers = integer_file(subject.float32, asked.format, subject.inputs, percentile)
    found = places.find(copy.deepcopy(model), dataset.calibration.x, subject.inputs, subject.float32, integers)
    used = {found.plan.given, *(place for call in found.plan.calls for place in (call.reads, call.writes))}
    inner = [name for name, (place, _) in found.grids.items() if place not in used]
    if inner:
        say(
            f"{len(inner)} of the {len(found.grids)} tensors that are integers in the {asked.format} file lie inside "
            "one of the network's functions, as in a group norm: these round in the file alone"
        )
    learnt = asked.ranges == "learnt"
    step: dict[str, Any] = {"step": "quantise", "format": asked.format, "learnt": learnt, "plan": found.plan.told()}
    step["grids"] = {name: list(one) for name, one in found.grids.items()}
    return quantised(model, found.plan, learnt), step


def agreement(model: nn.Module, test: Examples, content: bytes) -> dict[str, float]:
    """Return how near an integer file's scores are to those of the network that was trained to round, in quanta.

    Args:
        model: the network, which rounds.
        test: examples to compare on.
        content: its file.
    """
    plan = plan_of(model)
    assert plan is not None
    quantum = next(plan.grids[call.writes][0] for call in reversed(plan.calls) if call.writes >= 0)
    apart = np.abs(run_examples(content, as_device(test.x)).scores - outputs_of(model, test)) / quantum
    within = float((apart <= 1 + ROUNDING).mean())
    return {"within_one_quantum": round(within, 6), "largest_quanta": round(float(apart.max()), 2)}
