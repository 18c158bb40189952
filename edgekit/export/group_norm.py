"""Group normalisation in the form that LiteRT runs fastest (measurements in docs/decisions/0006)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelsLastGroupNorm(nn.Module):
    """A trained GroupNorm as moments of each channel, two small products over the groups, and one scale and shift.

        y = x * k + o,  k = weight / sqrt(E[x^2] - E[x]^2 + eps),  o = bias - E[x] * k

    litert-torch's own form takes 18 operators, this one 11, of which three touch the whole map. The variance as a
    difference loses digits where a group's mean is far larger than its deviation; the export's check would see that.

    Args:
        norm: the layer; maps of (batch, channels, height, width) only, others go to the layer itself.
    """

    down: Tensor
    up: Tensor
    bias: Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        channels, groups = norm.num_channels, norm.num_groups
        weight = norm.weight.detach() if norm.affine else torch.ones(channels)
        member = torch.eye(groups).repeat_interleave(channels // groups, 0)
        self.register_buffer("down", (member.T * groups / channels).contiguous())
        self.register_buffer("up", member * weight[:, None])
        self.register_buffer("bias", norm.bias.detach().clone() if norm.affine else torch.zeros(channels))
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) to the same shape."""
        if x.dim() != 4:
            return self.norm(x)  # type: ignore[no-any-return]
        x = x.permute(0, 2, 3, 1)
        mean = F.linear(x.mean((1, 2)), self.down)
        variance = F.linear((x * x).mean((1, 2)), self.down) - mean * mean
        scale = torch.rsqrt(F.relu(variance) + self.eps)  # rounding may take it below zero on a constant map
        factor, offset = F.linear(scale, self.up), self.bias - F.linear(mean * scale, self.up)
        return (x * factor[:, None, None] + offset[:, None, None]).permute(0, 3, 1, 2)


def with_fast_group_norms(model: nn.Module) -> nn.Module:
    """Replace the group norms within a module, and return it."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm) and not isinstance(parent, ChannelsLastGroupNorm):
                setattr(parent, name, ChannelsLastGroupNorm(child))
    return ChannelsLastGroupNorm(model) if isinstance(model, nn.GroupNorm) else model
