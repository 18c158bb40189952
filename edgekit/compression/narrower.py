"""Fewer channels for networks in which torch-pruning cannot cut them: the same network built narrower.

Each array keeps its leading corner, in the order of its channels and not by their importance, and what is lost is
learnt again: after fine-tuning the rule by which channels go matters little beside how many are left (Liu et al. 2019,
"Rethinking the value of network pruning", section 4). A network that was trained with `fjord` has them in order.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from edgekit.arrays import corner, fits_in
from edgekit.errors import ModelError
from edgekit.models.cost import macs
from edgekit.models.norm import fold_weight_standardisation
from edgekit.models.registry import narrower

STEP = "narrower"
LEAST, FINENESS = 0.02, 50
"""The narrowest that is tried, and how many widths."""


def cut(
    model: nn.Module, shape: tuple[int, ...], share: float, record: Sequence[dict[str, Any]]
) -> tuple[nn.Module, float]:
    """Return a narrower copy with its part of the weights, and its width as a share of the network's own.

    Args:
        model: the network, without weight standardisation.
        shape: of one example.
        share: of the multiply-adds, how many may stay.
        record: what was done to it before.

    Raises:
        ModelError: it cannot be built narrower, or not by so much.
    """
    others = {step["step"] for step in record} - {"fold", STEP}
    if others:
        raise ModelError(f"a network to which {min(others)!r} was done cannot be built narrower")
    before, least = macs(model, shape), 1.0
    for place in range(FINENESS - 1, 0, -1):
        width = round(LEAST + (1 - LEAST) * place / FINENESS, 4)
        try:
            found = _built(model, width)
        except ModelError:
            if least == 1.0:
                raise
            break
        own = dict(model.named_parameters())
        if any(
            not fits_in(p.shape, own[name].shape) for name, p in found.named_parameters()
        ):  # wider than a cut before
            continue
        least = min(least, macs(found, shape) / before)
        if least <= share:
            with torch.no_grad():
                for name, parameter in found.named_parameters():
                    parameter.copy_(own[name][corner(parameter.shape)])
                    parameter.requires_grad_(own[name].requires_grad)
            return found.train(model.training), width
    raise ModelError(
        f"{type(model).__name__}: no more than {100 * (1 - least):.0f} % of its multiply-adds go by a smaller width"
    )


def rebuilt(model: nn.Module, width: object) -> nn.Module:
    """Return a network of the same form as narrow as it was cut before.

    Raises:
        ModelError: it cannot be built so narrow.
    """
    if not isinstance(width, float) or not 0 < width < 1:
        raise ModelError(f"a network cannot be {width!r} as wide as it was")
    return _built(model, width)


def _built(model: nn.Module, width: float) -> nn.Module:
    made = narrower(model, width)
    folded = fold_weight_standardisation(made)
    names = set(dict(model.named_parameters()))
    for one in (made, folded):
        if set(dict(one.named_parameters())) == names:
            return one
    raise ModelError(f"{type(model).__name__} has other layers when it is narrower")
