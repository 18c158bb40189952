"""What was done to a network, as plain data: with it, its experiment's network becomes the one that a run keeps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edgekit.compression import channels
from edgekit.compression.sparse import Sparse, dense, put
from edgekit.errors import ModelError
from edgekit.models.norm import fold_weight_standardisation

Record = list[dict[str, Any]]
"""Steps, in order: `{"step": "fold"}`, `{"step": "channels", "history": [...]}`, or `sparse` with `kept`, by layer."""


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
            else:
                raise ModelError(f"a record of compression names {step['step']!r}, which this edgekit does not know")
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
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
