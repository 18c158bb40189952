"""Graph networks over padded graphs: convolutions (Kipf & Welling 2017) and attention (Velickovic et al. 2018)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.attention import widened
from edgekit.models.norm import Norm

HEADS = 4


class Convolution(nn.Module):
    """D^-1/2 (A + I) D^-1/2 H W (equation 2 of Kipf and Welling), behind what joins the neighbours.

    Args:
        inputs: numbers of a node.
        outputs: numbers that it gives a node.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, h: Tensor, joined: Tensor) -> Tensor:
        """Map nodes (batch, nodes, inputs) and their matrix (batch, nodes, nodes) to (batch, nodes, outputs)."""
        y: Tensor = self.layer(joined @ h)
        return y

    @staticmethod
    def matrix(adjacency: Tensor) -> Tensor:
        """Return what joins neighbours, of an adjacency with the nodes themselves."""
        scale = torch.rsqrt(adjacency.sum(-1).clamp(min=1.0))
        return scale[..., None] * adjacency * scale[..., None, :]


class AttentionLayer(nn.Module):
    """softmax over the neighbours of LeakyReLU(a [W h_i, W h_j]), by heads (equations 3 and 4 of Velickovic et al.).

    Args:
        inputs: numbers of a node.
        outputs: numbers that it gives a node.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.into = nn.Linear(inputs, outputs)
        self.source, self.target = nn.Linear(outputs, HEADS, bias=False), nn.Linear(outputs, HEADS)

    def forward(self, h: Tensor, joined: Tensor) -> Tensor:
        """Map nodes (batch, nodes, inputs) and their mask (batch, nodes, nodes) to (batch, nodes, outputs)."""
        h = self.into(h)
        scores = self.target(h).transpose(1, 2)[..., None] + self.source(h).transpose(1, 2)[:, :, None]
        weights = (F.leaky_relu(scores, 0.2) + joined[:, None]).softmax(-1)
        values = h.reshape(h.shape[0], h.shape[1], HEADS, -1).transpose(1, 2)
        return (weights @ values).transpose(1, 2).reshape(h.shape)

    @staticmethod
    def matrix(adjacency: Tensor) -> Tensor:
        """Return a mask: 0 for neighbours, whatever their weight, much less elsewhere."""
        return ((adjacency > 0).to(adjacency.dtype) - 1) * 1e4


LAYERS: dict[str, type[Convolution | AttentionLayer]] = {"gcn": Convolution, "gat": AttentionLayer}


class Graph(nn.Module):
    """Layers over neighbours, then the mean and the maximum over all nodes, read out by two layers.

    An example is (nodes, features + nodes), or (1, nodes, features + nodes) as files give it: each node's features, the
    first of which is 1 (0 marks a row of padding), then its row of the adjacency matrix: 0 is no edge, larger its
    weight, which `gcn` reckons with and `gat` does not. Each node is its own neighbour, too.

    Args:
        shape: (nodes, features + nodes).
        classes: scores to give.
        norm: `group` puts a layer norm behind each layer.
        width: multiplies `hidden`.
        kind: `gcn` or `gat`.
        hidden: numbers of a node.
        depth: layers.

    Raises:
        ModelError: the examples are no graphs.
    """

    inputs = ("graph",)
    own_scale = True
    itself: Tensor

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        norm: Norm = "none",
        width: float = 1.0,
        kind: str = "gat",
        hidden: int = 64,
        depth: int = 4,
    ) -> None:
        super().__init__()
        if len(shape) == 3 and shape[0] == 1:
            shape = shape[1:]
        if len(shape) != 2 or shape[1] <= shape[0]:
            raise ModelError(
                f"graph needs examples of (nodes, features + nodes), features and adjacency beside each other, not "
                f"{tuple(shape)}"
            )
        if kind not in LAYERS:
            raise ModelError(f"graph.kind {kind!r} is none of {', '.join(LAYERS)}")
        self.nodes, self.features = shape[0], shape[1] - shape[0]
        hidden, kept = widened(hidden, width, HEADS), LAYERS[kind]
        sizes = [self.features, *[hidden] * depth]
        self.layers = nn.ModuleList(kept(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) if norm == "group" else nn.Identity() for _ in range(depth))
        self.matrix = kept.matrix
        self.readout = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes))
        self.register_buffer("itself", torch.eye(self.nodes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, nodes, features + nodes), or with a channel before the nodes, to scores (batch, classes)."""
        x = x.reshape(-1, self.nodes, self.features + self.nodes)
        h, adjacency = x[..., : self.features], x[..., self.features :]
        real = h[..., :1].clamp(0.0, 1.0)
        joined = self.matrix(adjacency + self.itself)
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            made = F.elu(norm(layer(h, joined))) * real
            h = made if number == 0 else h + made
        mean = h.sum(1) / real.sum(1).clamp(min=1.0)
        least = -(-h).amax(1, keepdim=True).detach()  # for padding, which must not be the largest
        scores: Tensor = self.readout(torch.cat([mean, (h * real + least * (1 - real)).amax(1)], -1))
        return scores
