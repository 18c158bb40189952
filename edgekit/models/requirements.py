"""What an experiment asks of a network, checked before training starts."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from edgekit.errors import ModelError


def batch_norms(model: nn.Module) -> list[str]:
    """Return the names of the layers whose statistics mix the examples of a batch."""
    return [
        name or type(layer).__name__
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and not isinstance(layer, _InstanceNorm)
    ]


def check_private(model: nn.Module) -> None:
    """See that each example's gradient depends on that example alone, as clipping needs.

    Raises:
        ModelError: a layer mixes the examples of a batch, or keeps something of them; the layer is named.
    """
    if names := batch_norms(model):
        kind = type(model.get_submodule(names[0]) if names[0] in dict(model.named_modules()) else model).__name__
        raise ModelError(
            f"layer {names[0]!r} ({kind}) mixes the examples of a batch, so no example can be protected alone: "
            "use GroupNorm, weight standardisation or no norm, or privacy.unit = 'none'"
        )
    for name, layer in model.named_modules():
        for buffer, _ in layer.named_buffers(recurse=False):
            raise ModelError(
                f"layer {name or type(layer).__name__!r} ({type(layer).__name__}) keeps {buffer!r} from the data it "
                "sees, which no noise covers: use a layer without buffers, or privacy.unit = 'none'"
            )
