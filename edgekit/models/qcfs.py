"""An activation that is trained as the spikes that will stand for it (Bu et al. 2022, "Optimal ANN-SNN conversion")."""

import torch
from torch import Tensor, nn

PERCENTILE = 0.999
"""Of the activations on the server's own examples: the first threshold, so that no outlier stretches the levels."""


class QCFS(nn.Module):
    """Quantised, clipped, floored and shifted ReLU (Bu et al. 2022, equation 13), with a threshold that is learnt.

        y = threshold * clip(floor(x L / threshold + 1/2) / L, 0, 1)

    A neuron with this threshold, started half way up, fires exactly L y / threshold times in L steps of a constant
    current x. Gradients go straight through the floor.

    Args:
        levels: L, the levels above zero.
        threshold: first value.
    """

    def __init__(self, levels: int, threshold: float = 1.0) -> None:
        super().__init__()
        self.levels = levels
        self.threshold = nn.Parameter(torch.tensor(threshold))

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to itself."""
        share = (x / self.threshold).clamp(0, 1)
        stepped = torch.floor(share * self.levels + 0.5) / self.levels
        return (share + (stepped - share).detach()) * self.threshold

    def extra_repr(self) -> str:
        """Say the number of levels."""
        return f"levels={self.levels}"


def use_qcfs(model: nn.Module, levels: int) -> None:
    """Put QCFS in the place of every ReLU and ReLU6 of a module."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU | nn.ReLU6):
                setattr(parent, name, QCFS(levels, 6.0 if isinstance(child, nn.ReLU6) else 1.0))


@torch.no_grad()
def fit_thresholds(model: nn.Module, x: Tensor) -> None:
    """Set each threshold, in the order of the layers, to about the largest activation on these examples.

    Args:
        model: a network with QCFS activations; changed.
        x: examples that cost no privacy, (batch, ...).
    """
    for layer in model.modules():
        if not isinstance(layer, QCFS):
            continue
        seen: list[Tensor] = []
        handle = layer.register_forward_hook(lambda _, inputs, __, seen=seen: seen.append(inputs[0]))
        model(x)
        handle.remove()
        positive = seen[0][seen[0] > 0]
        if len(positive):
            rank = max(1, round(PERCENTILE * len(positive)))
            layer.threshold.fill_(float(positive.kthvalue(rank).values))
