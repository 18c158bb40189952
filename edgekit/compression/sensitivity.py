"""Which layer minds most: each is pruned alone, the others stay."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edgekit.compression.sparse import largest, weights_of


@torch.no_grad()
def sensitivity(
    model: nn.Module, share: float, whole: bool, keep: Sequence[str], score: Callable[[nn.Module], float]
) -> dict[str, float]:
    """Return a network's score when a share of one layer's weights is gone, by layer (Li et al. 2017, section 3.2).

    Args:
        model: a network without sparse layers; it ends as it was.
        share: of the layer's weights, or channels.
        whole: whether channels go (those of smallest l1 norm, as there), or single weights of smallest magnitude.
        keep: layers that are not looked at.
        score: how good the network is.
    """
    found = {}
    for name, weight in weights_of(model, keep).items():
        before = weight.clone()
        weight.mul_(_channels(weight, share) if whole else largest({name: weight}, share, "layer")[name])
        found[name] = score(model)
        weight.copy_(before)
    return found


def _channels(weight: Tensor, share: float) -> Tensor:
    sizes = weight.abs().flatten(1).sum(1)
    kept = largest({"": sizes}, min(share, 1 - 1 / len(sizes)), "layer")[""]
    return kept.reshape(-1, *[1] * (weight.dim() - 1))
