"""The forms that a network is delivered in."""

import torch
from torch import nn

from edgekit.errors import ConversionError
from edgekit.export.exits import has_exits
from edgekit.models.sequence import SequenceNetwork
from edgekit.models.spiking import SpikingNet
from edgekit.neuromorphic.trace import trace

FILES = ("float32", "int8", "training")
"""Of every network but spiking ones: .tflite files, and the graph that devices train with."""


def forms_of(model: nn.Module, shape: tuple[int, ...]) -> list[str]:
    """Return names of forms: files, `stream` (a frame at a time), `exits` (stage by stage) and `spikes`.

    Args:
        model: the network.
        shape: of one example.
    """
    if isinstance(model, SpikingNet):
        return ["spikes"]
    found = list(FILES)
    if isinstance(model, SequenceNetwork):
        found.append("stream")
    if has_exits(model):
        found.append("exits")
    if _spikes(model, shape):
        found.append("spikes")
    return found


def _spikes(model: nn.Module, shape: tuple[int, ...]) -> bool:
    try:
        trace(model.eval(), shape, torch.rand(2, *shape))
    except ConversionError:
        return False
    return True
