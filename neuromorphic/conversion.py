"""From a trained network to a spiking one: threshold balancing (Diehl et al. 2015; Rueckauer et al. 2017)."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from edgekit.data import Examples
from edgekit.errors import ConversionError
from edgekit.models.norm import fold_weight_standardisation
from edgekit.models.spiking import SpikingNet
from edgekit.neuromorphic.coding import Coding, Floats
from edgekit.neuromorphic.expression import Expression, Term
from edgekit.neuromorphic.network import INPUT, SpikingLayer, SpikingNetwork, Synapse
from edgekit.neuromorphic.settings import Spiking
from edgekit.neuromorphic.trace import Neurons, Traced, trace

LARGEST_FREEZING_LOSS = 0.1
"""Accuracy on the calibration examples that freezing norms may cost; beyond it the spiking form is refused."""
SMALLEST_THRESHOLD = 0.1
"""Of a channel, as a share of its layer's largest."""
STANDING_DECAY = 1 / 4096
"""The smallest decay of a current on Loihi: over a few steps it stays."""


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
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ConversionError(f"{name!r} holds values that are not finite: use a smaller learning rate")
    if isinstance(model, SpikingNet):
        return _of_spiking(model, calibration, classes, settings)
    x = torch.from_numpy(calibration.x)
    traced = trace(model, tuple(x.shape[1:]), x)
    activations, scores = _activations(traced, x.reshape(len(x), *traced.input_shape))
    labels = torch.from_numpy(calibration.y)
    before = float((model.eval()(x).argmax(1) == labels).float().mean())
    folded = float((scores.argmax(1) == labels).float().mean())
    if before - folded > LARGEST_FREEZING_LOSS and not traced.frozen:
        raise ConversionError(
            f"read as neurons, the network's accuracy falls from {before:.3f} to {folded:.3f}: "
            "an activation or argument of it was not understood"
        )
    if before - folded > LARGEST_FREEZING_LOSS:
        raise ConversionError(
            f"freezing the norms ({traced.frozen[0]!r} …) takes the accuracy from {before:.3f} to {folded:.3f}: train "
            "with model.norm = 'weight-standardised' or 'none', which fold exactly"
        )
    thresholds = [
        _thresholds(values, layer, settings) for values, layer in zip(activations, traced.layers, strict=True)
    ]
    low, step = _input_range(calibration, settings.input_bits)
    drives = [(layer.name, layer.drive) for layer in traced.layers] + [("readout", traced.readout)]
    layers = [
        _layer(name, drive, threshold, thresholds, settings)
        for (name, drive), threshold in zip(drives, [*thresholds, None], strict=True)
    ]
    if settings.coding == "latency":
        layers = [_standing(layer, low, traced.input_shape) for layer in layers]
    network = SpikingNetwork(
        tuple(layers), traced.input_shape, low, step, settings.input_bits, tuple(classes), settings.coding
    )
    return Converted(network, traced.frozen, before, folded)


def _of_spiking(model: SpikingNet, calibration: Examples, classes: list[str], settings: Spiking) -> Converted:
    """Read a network that was trained as a spiking one: there is nothing to convert."""
    given = {name: getattr(settings, name) for name in ("reset", "voltage_decay", "current_decay")}
    if changed := [name for name, value in given.items() if value != Spiking.model_fields[name].default]:
        raise ConversionError(f"spiking.{changed[0]} cannot change a network that was trained as a spiking one")
    if model.sequence and settings.coding != "current":
        raise ConversionError(f"spiking.coding = {settings.coding!r} cannot code examples that are frames already")
    folded = fold_weight_standardisation(model).eval()
    assert isinstance(folded, SpikingNet)
    shape = model.frame_shape
    layers = []
    for number, layer in enumerate(folded.layers):
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        weight = _numpy(layer.weight)
        if isinstance(layer, nn.Conv2d):
            padding = _pair(layer.padding)
            synapse = Synapse(number - 1, "conv", weight, _pair(layer.stride), padding, layer.groups)
            shape = tuple(synapse.apply(torch.zeros(1, *shape)).shape[1:])
        else:
            synapse = Synapse(number - 1, "dense", weight)
            shape = (len(weight),)
        bias = np.zeros(len(weight), np.float32) if layer.bias is None else _numpy(layer.bias)
        biases = np.broadcast_to(bias.reshape(-1, *[1] * (len(shape) - 1)), shape).copy()
        if number == len(folded.layers) - 1:
            layers.append(SpikingLayer("readout", (synapse,), biases, float("inf"), shape))
        else:
            decays = (model.current_decay, model.voltage_decay)
            layers.append(SpikingLayer(f"layers.{number}", (synapse,), biases, 1.0, shape, *decays, start=0.0))
    low, step = _input_range(calibration, settings.input_bits)
    coding: Coding = "frames" if model.sequence else settings.coding
    if coding == "latency":
        layers = [_standing(layer, low, model.frame_shape) for layer in layers]
    network = SpikingNetwork(tuple(layers), model.frame_shape, low, step, settings.input_bits, tuple(classes), coding)
    scores = model.eval()(torch.from_numpy(calibration.x))
    accuracy = float((scores.argmax(1) == torch.from_numpy(calibration.y)).float().mean())
    return Converted(network, (), accuracy, accuracy)


def _layer(
    name: str, drive: Expression, threshold: Tensor | None, thresholds: list[Tensor], settings: Spiking
) -> SpikingLayer:
    """Make a layer in units of its thresholds: a spike carries its channel's threshold, which goes into the weights
    it acts through, and each neuron's drive is divided by its own, so that every threshold is 1."""
    columns = torch.ones(()) if threshold is None else threshold.view(-1, *[1] * (len(drive.shape) - 1))
    synapses = []
    # A current that lasts brings each spike's charge in parts, which add up to the whole.
    part = 1.0 if threshold is None else settings.current_decay
    for term in drive.terms:
        assert term.weight is not None
        weight = term.weight * part
        if term.source != INPUT:
            weight = weight * _carried(term, thresholds[term.source])
        if threshold is not None:
            weight = weight / threshold.view(-1, *[1] * (weight.dim() - 1))
        synapses.append(_synapse(term, weight))
    bias = (drive.bias / columns).contiguous().numpy().astype(np.float32)
    if bias.ndim == 3 and np.allclose(bias, bias[:, :1, :1], rtol=1e-5, atol=1e-7):
        bias = np.broadcast_to(bias[:, :1, :1], bias.shape).copy()  # rounding aside, it is shared
    if threshold is None:
        return SpikingLayer(name, tuple(synapses), bias, float("inf"), drive.shape)
    decays = (settings.current_decay, settings.voltage_decay)
    start = 0.0 if settings.voltage_decay else 0.5  # what leaks away cannot round a count
    return SpikingLayer(name, tuple(synapses), bias, 1.0, drive.shape, *decays, settings.reset, start)


def _standing(layer: SpikingLayer, low: float, input_shape: tuple[int, ...]) -> SpikingLayer:
    """Let the currents that a latency code starts stay; what an input of the lowest value drives becomes a bias.

    Raises:
        ConversionError: other sources drive the layer too, and their currents must not stay.
    """
    sources = {synapse.source for synapse in layer.synapses}
    if INPUT not in sources:
        return layer
    if sources != {INPUT} or layer.readout:
        raise ConversionError(
            f"layer {layer.name!r} mixes the input with other sources, so a latency code cannot reach it: "
            'use spiking.coding = "current" or "rate"'
        )
    # Weights that were scaled for a current that decays would bring a part of the charge again and again.
    whole = tuple(replace(synapse, weight=synapse.weight / layer.current_decay) for synapse in layer.synapses)
    layer = replace(layer, synapses=whole)
    lowest = torch.full((1, *input_shape), low)
    bias = layer.bias + sum(synapse.apply(lowest)[0].view(layer.shape).numpy() for synapse in layer.synapses)
    return replace(layer, bias=bias.astype(np.float32), current_decay=STANDING_DECAY)


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
    return Synapse(term.source, kind, _numpy(weight), term.stride, term.padding, term.groups)


def _numpy(tensor: Tensor) -> Floats:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32)


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
        value = evaluate(layer.drive).clamp(0, layer.ceiling)
        if layer.levels:
            share = torch.floor(value / layer.ceiling * layer.levels + 0.5) / layer.levels
            value = share.clamp(max=1.0) * layer.ceiling
        values.append(value)
    return values, evaluate(traced.readout)


def _thresholds(values: Tensor, layer: Neurons, settings: Spiking) -> Tensor:
    """Return a threshold a channel, (channels,): the trained one, or the percentile of its positive activations."""
    if layer.levels:
        return torch.full((values.shape[1],), layer.ceiling)
    by_channel = values.transpose(0, 1).flatten(1)
    if settings.scaling == "layer":
        found = torch.full((len(by_channel),), _percentile(values[values > 0], settings.percentile))
    else:
        found = torch.tensor([_percentile(channel[channel > 0], settings.percentile) for channel in by_channel])
    # A channel that hardly answers keeps a threshold worth its weights' 8 bits; a silent layer one its biases fit.
    largest = float(found.max()) * SMALLEST_THRESHOLD or float(layer.drive.bias.abs().max())
    return found.clamp(min=max(largest, 1e-6), max=layer.ceiling)


def _percentile(positive: Tensor, percentile: float) -> float:
    return float(np.percentile(positive.numpy(), percentile)) if len(positive) else 0.0


def _input_range(calibration: Examples, bits: int) -> tuple[float, float]:
    """Return (low, step) so that the codes span the examples' range."""
    low, high = float(calibration.x.min()), float(calibration.x.max())
    if low == high:
        raise ConversionError("all calibration examples hold one value: there is nothing to code")
    return low, (high - low) / (2**bits - 1)
