"""From a trained network to a spiking one: threshold balancing (Diehl et al. 2015; Rueckauer et al. 2017)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.data import Examples
from edgekit.errors import ConversionError
from edgekit.experiment import Spiking
from edgekit.neuromorphic.expression import Expression, Term
from edgekit.neuromorphic.network import INPUT, SpikingLayer, SpikingNetwork, Synapse
from edgekit.neuromorphic.trace import Traced, trace

LARGEST_FREEZING_LOSS = 0.1
"""Accuracy on the calibration examples that freezing norms may cost; beyond it the spiking form is refused."""
SMALLEST_THRESHOLD = 0.1
"""Of a channel, as a share of its layer's largest."""


@dataclass(frozen=True)
class Converted:
    """A spiking network and what its conversion cost.

    Attributes:
        network: the spiking network.
        frozen: names of norms whose statistics were frozen.
        accuracy_before: of the network on the calibration examples.
        accuracy_folded: the same with norms frozen and folded, before any spike.
    """

    network: SpikingNetwork
    frozen: tuple[str, ...]
    accuracy_before: float
    accuracy_folded: float


@torch.no_grad()
def convert(model: nn.Module, calibration: Examples, classes: list[str], settings: Spiking) -> Converted:
    """Convert a network; weights, pooling and norms are folded into synapses, ReLUs become neurons.

    A channel's threshold is the percentile of its positive activations on the calibration examples: a neuron that fires
    at every step then stands for about the largest activation, and rare outliers do not slow all others down.

    Args:
        model: the trained network.
        calibration: examples whose use spends no client's privacy.
        classes: names of the scores.
        settings: the [spiking] section.

    Raises:
        ConversionError: a layer has no spiking form, or freezing its norm costs too much.
    """
    x = torch.from_numpy(calibration.x)
    traced = trace(model, tuple(x.shape[1:]), x)
    activations, scores = _activations(traced, x)
    labels = torch.from_numpy(calibration.y)
    before = float((model.eval()(x).argmax(1) == labels).float().mean())
    folded = float((scores.argmax(1) == labels).float().mean())
    if before - folded > LARGEST_FREEZING_LOSS:
        raise ConversionError(
            f"freezing the norms ({traced.frozen[0]!r} …) takes the accuracy from {before:.3f} to {folded:.3f}: train "
            "with model.norm = 'weight-standardised' or 'none', which fold exactly"
        )
    thresholds = [
        _thresholds(values, layer.ceiling, settings.percentile)
        for values, layer in zip(activations, traced.layers, strict=True)
    ]
    low, step = _input_range(calibration, settings.input_bits)
    drives = [(layer.name, layer.drive) for layer in traced.layers] + [("readout", traced.readout)]
    layers = tuple(
        _layer(name, drive, threshold, thresholds)
        for (name, drive), threshold in zip(drives, [*thresholds, None], strict=True)
    )
    network = SpikingNetwork(layers, tuple(x.shape[1:]), low, step, settings.input_bits, tuple(classes))
    return Converted(network, traced.frozen, before, folded)


def _layer(name: str, drive: Expression, threshold: Tensor | None, thresholds: list[Tensor]) -> SpikingLayer:
    """Make a layer in units of its thresholds: a spike carries its channel's threshold, which goes into the weights
    it acts through, and each neuron's drive is divided by its own, so that every threshold is 1."""
    columns = torch.ones(()) if threshold is None else threshold.view(-1, *[1] * (len(drive.shape) - 1))
    synapses = []
    for term in drive.terms:
        assert term.weight is not None
        weight = term.weight
        if term.source != INPUT:
            weight = weight * _carried(term, thresholds[term.source])
        if threshold is not None:
            weight = weight / threshold.view(-1, *[1] * (weight.dim() - 1))
        synapses.append(_synapse(term, weight))
    bias = (drive.bias / columns).contiguous().numpy().astype(np.float32)
    if bias.ndim == 3 and np.allclose(bias, bias[:, :1, :1], rtol=1e-5, atol=1e-7):
        bias = np.ascontiguousarray(np.broadcast_to(bias[:, :1, :1], bias.shape))  # rounding aside, it is shared
    return SpikingLayer(name, tuple(synapses), bias, 1.0 if threshold is not None else float("inf"), drive.shape)


def _carried(term: Term, threshold: Tensor) -> Tensor:
    """Return, shaped to multiply the term's weight, the threshold of the channel that each weight reads from."""
    assert term.weight is not None
    if term.kind == "dense":
        return threshold.repeat_interleave(term.weight.shape[1] // len(threshold))[None]
    groups = threshold.view(term.groups, 1, -1).expand(-1, len(term.weight) // term.groups, -1)
    return groups.flatten(0, 1)[:, :, None, None]


def _synapse(term: Term, weight: Tensor) -> Synapse:
    assert term.kind in ("conv", "dense")
    kind: Literal["conv", "dense"] = "conv" if term.kind == "conv" else "dense"
    values = weight.contiguous().numpy().astype(np.float32)
    return Synapse(term.source, kind, values, term.stride, term.padding, term.groups)


def _activations(traced: Traced, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Run the folded network with its activations still analogue."""
    values: list[Tensor] = []

    def evaluate(drive: Expression) -> Tensor:
        total = drive.bias.expand(len(x), *drive.shape)
        for term in drive.terms:
            source = x if term.source == INPUT else values[term.source]
            assert term.weight is not None
            total = total + _synapse(term, term.weight).apply(source).view_as(total)
        return total

    for layer in traced.layers:
        values.append(evaluate(layer.drive).clamp(0, layer.ceiling))
    return values, evaluate(traced.readout)


def _thresholds(values: Tensor, ceiling: float, percentile: float) -> Tensor:
    """Return a threshold a channel: the percentile of its positive activations, (channels,)."""
    by_channel = values.transpose(0, 1).flatten(1)
    found = torch.tensor([_percentile(channel[channel > 0], percentile) for channel in by_channel])
    # A channel that hardly answers keeps a threshold worth its weights' 8 bits; a silent layer keeps any.
    return found.clamp(min=max(float(found.max()) * SMALLEST_THRESHOLD, 1e-6), max=ceiling)


def _percentile(positive: Tensor, percentile: float) -> float:
    return float(np.percentile(positive.numpy(), percentile)) if len(positive) else 0.0


def _input_range(calibration: Examples, bits: int) -> tuple[float, float]:
    """Return (low, step) so that the codes span the examples' range."""
    low, high = float(calibration.x.min()), float(calibration.x.max())
    if low == high:
        raise ConversionError("all calibration examples hold one value: there is nothing to code")
    return low, (high - low) / (2**bits - 1)
