"""Surrogate-gradient tuning of a converted network with snnTorch (Neftci et al. 2019): at few time steps."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.data import Examples
from edgekit.errors import MissingExtraError
from edgekit.neuromorphic.network import INPUT, SpikingNetwork, Synapse, run

EPOCHS = 30
BATCH = 32
LEARNING_RATE = 2e-3


class SnnTorchNetwork(nn.Module):
    """A spiking network as an snnTorch module: the same neurons, with surrogate gradients.

    Args:
        network: the network; its weights and biases become parameters.
    """

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__()
        try:
            import snntorch
        except ImportError:
            raise MissingExtraError("snntorch", "spiking") from None
        self.network = network
        self.weights = nn.ParameterList(
            nn.Parameter(torch.from_numpy(synapse.weight.copy()))
            for layer in network.layers
            for synapse in layer.synapses
        )
        self.biases = nn.ParameterList(nn.Parameter(_per_channel(layer.bias)) for layer in network.layers)
        # beta = 1 does not leak. snnTorch fires above the threshold, not at it: with real numbers that is the same.
        self.neurons: list[Any] = [
            snntorch.Leaky(beta=1.0, threshold=layer.threshold, reset_mechanism="subtract")
            for layer in network.layers[:-1]
        ]

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Map inputs (batch, ...) to the mean readout over the steps, (batch, classes)."""
        layers = self.network.layers
        weights = iter(self.weights)
        held = [[(synapse, next(weights)) for synapse in layer.synapses] for layer in layers]
        constant = []
        for layer, bias, synapses in zip(layers, self.biases, held, strict=True):
            from_input = [
                _apply(s, weight, x).view(len(x), *layer.shape) for s, weight in synapses if s.source == INPUT
            ]
            constant.append(bias + sum(from_input, torch.zeros(len(x), *layer.shape)))
        voltages = [torch.full((len(x), *layer.shape), layer.threshold / 2) for layer in layers[:-1]]
        readout = torch.zeros(len(x), *layers[-1].shape)
        for _ in range(steps):
            spikes: list[Tensor] = []
            for number, layer in enumerate(layers):
                drive = constant[number]
                for synapse, weight in held[number]:
                    if synapse.source != INPUT:
                        drive = drive + _apply(synapse, weight, spikes[synapse.source]).view(len(x), *layer.shape)
                if number == len(layers) - 1:
                    readout = readout + drive
                else:
                    fired, voltages[number] = self.neurons[number](drive, voltages[number])
                    spikes.append(fired)
        return readout / steps

    def to_network(self) -> SpikingNetwork:
        """Return the network with the parameters as they are now."""
        weights = iter(self.weights)
        layers = []
        for layer, bias in zip(self.network.layers, self.biases, strict=True):
            synapses = tuple(replace(synapse, weight=_numpy(next(weights))) for synapse in layer.synapses)
            layers.append(replace(layer, synapses=synapses, bias=_numpy(bias.expand(layer.shape))))
        return replace(self.network, layers=tuple(layers))


def tune(
    network: SpikingNetwork, calibration: Examples, scores: Tensor, steps: int, seed: int
) -> tuple[SpikingNetwork, str]:
    """Tune a converted network to give, in few steps, the scores of the network it came from (Hinton et al. 2015).

    Half of the examples first show whether tuning helps on the other half; only then are all used.

    Args:
        network: a converted network.
        calibration: examples whose use spends no client's privacy.
        scores: what the network before conversion gives for them, (examples, classes).
        steps: time steps to tune for.
        seed: of the order of the examples.

    Returns:
        The network to use, and a line that says what came of it.
    """
    half = np.arange(len(calibration)) % 2 == 0
    judge = Examples(calibration.x[~half], calibration.y[~half])
    trial = _fit(network, calibration.x[half], scores[torch.from_numpy(half)], steps, seed)
    before, after = (_accuracy(candidate, judge, steps) for candidate in (network, trial))
    if after <= before:
        return (
            network,
            f"tuning with snnTorch did not help ({before:.3f} to {after:.3f} on held-back examples): left out",
        )
    tuned = _fit(network, calibration.x, scores, steps, seed)
    return tuned, f"tuned with snnTorch: {before:.3f} to {after:.3f} on held-back calibration examples"


def _fit(
    network: SpikingNetwork, x: np.ndarray[Any, np.dtype[np.float32]], scores: Tensor, steps: int, seed: int
) -> SpikingNetwork:
    module = SnnTorchNetwork(network)
    optimiser = torch.optim.Adam(module.parameters(), LEARNING_RATE)
    rng = torch.Generator().manual_seed(seed)
    inputs, wanted = torch.from_numpy(network.decode(network.encode(x))), scores.softmax(1)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(wanted), generator=rng).split(BATCH):
            optimiser.zero_grad()
            F.cross_entropy(module(inputs[batch], steps), wanted[batch]).backward()
            optimiser.step()
    return module.to_network()


def _per_channel(bias: np.ndarray[Any, np.dtype[np.float32]]) -> Tensor:
    """Return one bias a channel, (channels, 1, 1), if the neurons of each share theirs, so that they go on sharing."""
    first = bias[:, :1, :1] if bias.ndim == 3 else bias
    return torch.from_numpy((first if np.array_equal(np.broadcast_to(first, bias.shape), bias) else bias).copy())


def _accuracy(network: SpikingNetwork, examples: Examples, steps: int) -> float:
    return float((run(network, examples.x, steps).argmax(1) == examples.y).mean())


def _apply(synapse: Synapse, weight: Tensor, x: Tensor) -> Tensor:
    if synapse.kind == "dense":
        return F.linear(x.flatten(1), weight)
    return F.conv2d(x, weight, None, synapse.stride, synapse.padding, 1, synapse.groups)


def _numpy(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return tensor.detach().numpy().copy()
