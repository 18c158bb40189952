"""What was done to a network, as plain data: with it, its experiment's network becomes the one that a run keeps."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.compression import channels, narrower
from edgekit.compression.sparse import Sparse, dense, put
from edgekit.errors import ModelError
from edgekit.models.fake_quantisation import HIGH, LOW, Integers, Plan, on_grid, plan_of, quantised
from edgekit.models.norm import fold_weight_standardisation
from edgekit.models.slices import ORDERED, SCALE, ordered, scaled

Record = list[dict[str, Any]]
"""Steps, in order: `{"step": "fold"}`, `{"step": "channels", "history": [...]}`, or `sparse` with `kept` by layer.

Of one that rounds while it trains `quantise` with its plan; of one that was trained so `integers` with grids. Of slices
of other networks `narrower` with their width, or (`edgekit.models.slices`) `scale` with factors by layer, or `ordered`
with outputs by layer."""


MOST_STEPS = 300
"""Of a record that is read: each takes a copy of the network."""


def rebuilt(model: nn.Module, shape: tuple[int, ...], record: Sequence[Any]) -> nn.Module:
    """Return an experiment's network in the form that a record tells, for weights that are then loaded.

    Args:
        model: as the experiment says.
        shape: of one example.
        record: what was done to it; of somebody else's file it may hold anything.

    Raises:
        ModelError: the record is none of this network.
        MissingExtraError: torch-pruning is needed, and not installed.
    """
    if len(record) > MOST_STEPS:
        raise ModelError(f"a record of compression has {len(record)} steps; {MOST_STEPS} are the most")
    try:
        for step in record:
            if step["step"] == "fold":
                model = fold_weight_standardisation(model)
            elif step["step"] == "channels":
                model = channels.rebuilt(model, shape, step["history"])
            elif step["step"] == "sparse":
                for name, kept in step["kept"].items():
                    layer: Any = model.get_submodule(name)
                    mask = torch.arange(layer.weight.numel()) < kept
                    put(model, name, Sparse(layer, mask.reshape(layer.weight.shape)))
            elif step["step"] == "quantise":
                plan, grids = Plan.of(step["plan"]), step["grids"]
                if not all(
                    type(n) is int and 0 <= n < len(plan.grids) and 0 < by < math.inf for n, by in grids.values()
                ):
                    raise ModelError("a record of compression names a grid that is not there")
                str(step["format"])
                model = quantised(model, plan, bool(step["learnt"]))
            elif step["step"] == narrower.STEP:
                model = narrower.rebuilt(model, step["width"])
            elif step["step"] == SCALE:
                model = scaled(model, dict(step["by"]))
            elif step["step"] == ORDERED:
                model = ordered(model, dict(step["outputs"]))
            elif step["step"] == "integers":
                model.integers = Integers(str(step["format"]), _grids(step["grids"]))  # type: ignore[assignment]
            else:
                raise ModelError(f"a record of compression names {step['step']!r}, which this edgekit does not know")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, IndexError) as error:
        told = " ".join(str(error).split())[:200]
        raise ModelError(f"what was cut is not told as this network needs it: {told}") from None
    model.compression = [*done_to(model), *record]  # type: ignore[assignment]
    return model


def done_to(model: nn.Module) -> Record:
    """Return what was done to a network before it came here."""
    return list(getattr(model, "compression", []))


def without_sparse(model: nn.Module, record: Record) -> tuple[nn.Module, Record]:
    """Return a network with zeros in the place of what sparse layers leave out, and its record."""
    return dense(model), [step for step in record if step["step"] != "sparse"]


def for_training(record: Record) -> Record:
    """Return the record of a network whose weights shall be trained further: integers are of those it had.

    Raises:
        ModelError: it is of a network that rounds, which no finished run keeps.
    """
    names = [step.get("step") if isinstance(step, dict) else None for step in record]
    if "quantise" in names:
        raise ModelError("its network still rounds: it is of a run that has not finished, go on with edgekit resume")
    return [step for step, name in zip(record, names, strict=True) if name != "integers"]


def finished(model: nn.Module, record: Record, x: Tensor) -> tuple[nn.Module, Record]:
    """Return a network as an ordinary one, and its record.

    Args:
        model: in the form in which it was trained.
        record: what was done to it.
        x: an example, (1, ...).
    """
    plan, told = plan_of(model), next((step for step in record if step["step"] == "quantise"), None)
    made, record = without_sparse(on_grid(model, x), record)
    if plan is None or told is None:
        return made, record
    grids = {
        name: [plan.grids[number][0] * factor, plan.grids[number][1]]
        for name, (number, factor) in told["grids"].items()
    }
    step = {"step": "integers", "format": told["format"], "grids": grids}
    made.integers = Integers(told["format"], _grids(grids))  # type: ignore[assignment]
    return made, [*(one for one in record if one["step"] != "quantise"), step]


def _grids(told: Any) -> dict[str, tuple[float, int]]:
    """Return scales and zero points by name.

    Raises:
        ValueError: they are none.
    """
    found = {str(name): (float(scale), int(zero)) for name, (scale, zero) in told.items()}
    if not all(0 < scale < math.inf and LOW <= zero <= HIGH for scale, zero in found.values()):
        raise ValueError("an integer's scale or zero point cannot be")
    return found
