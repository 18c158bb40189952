"""Surrogate-gradient tuning of a converted network with snnTorch (Neftci et al. 2019): at few time steps."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.data import Examples
from edgekit.errors import MissingExtraError
from edgekit.neuromorphic.coding import Floats
from edgekit.neuromorphic.network import INPUT, SpikingLayer, SpikingNetwork, Synapse, run

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
        self.network = network
        self.weights = nn.ParameterList(
            nn.Parameter(torch.from_numpy(synapse.weight.copy()))
            for layer in network.layers
            for synapse in layer.synapses
        )
        self.biases = nn.ParameterList(nn.Parameter(_per_channel(layer.bias)) for layer in network.layers)
        self.neurons: list[Any] = [_neurons(layer) for layer in network.layers[:-1]]

    def forward(self, inputs: Tensor, steps: int) -> Tensor:
        """Map decoded inputs, (batch, ...) or (batch, steps, ...), to the mean readout over the steps."""
        layers = self.network.layers
        weights = iter(self.weights)
        held = [[(synapse, next(weights)) for synapse in layer.synapses] for layer in layers]
        constant = inputs.dim() == 1 + len(self.network.input_shape)
        batch = len(inputs)
        currents = [torch.zeros(batch, *layer.shape) for layer in layers]
        voltages = [torch.full((batch, *layer.shape), layer.threshold * layer.start) for layer in layers[:-1]]
        readout = torch.zeros(batch, *layers[-1].shape)
        from_input: list[Any] = []
        for t in range(steps):
            if t == 0 or not constant:
                now = inputs if constant else inputs[:, t]
                from_input = [_sum(held[i], layer, {INPUT: now}) for i, layer in enumerate(layers)]
            spikes: dict[int, Tensor] = {}
            for number, (layer, bias) in enumerate(zip(layers, self.biases, strict=True)):
                drive = from_input[number] + _sum(held[number], layer, spikes)
                if layer.readout:
                    readout = readout + drive + bias
                elif layer.current_decay == 1:
                    spikes[number], voltages[number] = self.neurons[number](drive + bias, voltages[number])
                else:
                    # snnTorch has no bias of the voltage; given before the leak, it arrives as one after it.
                    before = voltages[number] + bias / (1 - layer.voltage_decay)
                    spikes[number], currents[number], voltages[number] = self.neurons[number](
                        drive, currents[number], before
                    )
        return readout / steps

    def to_network(self) -> SpikingNetwork:
        """Return the network with the parameters as they are now."""
        weights = iter(self.weights)
        layers = []
        for layer, bias in zip(self.network.layers, self.biases, strict=True):
            synapses = tuple(replace(synapse, weight=_numpy(next(weights))) for synapse in layer.synapses)
            layers.append(replace(layer, synapses=synapses, bias=_numpy(bias.expand(layer.shape))))
        return replace(self.network, layers=tuple(layers))


def _neurons(layer: SpikingLayer) -> Any:
    """Return snnTorch's neurons with our rule: they reset in the step in which they fire, once."""
    try:
        import snntorch
    except ImportError:
        raise MissingExtraError("snntorch", "spiking") from None
    shared = {
        "beta": 1.0 - layer.voltage_decay,
        "threshold": layer.threshold,
        "reset_mechanism": "subtract" if layer.reset == "soft" else "zero",
        "reset_delay": False,
    }
    if layer.current_decay == 1:
        made = snntorch.Leaky(**shared)
    else:
        made = snntorch.Synaptic(alpha=1.0 - layer.current_decay, **shared)
    # By itself it would reset again, a step later, what is still above the threshold.
    made.mem_reset = torch.zeros_like
    return made


def _sum(held: list[tuple[Synapse, Tensor]], layer: SpikingLayer, sources: dict[int, Tensor]) -> Any:
    """Add up the drives of those sources that are there."""
    return sum(
        synapse.apply(sources[synapse.source], weight).view(-1, *layer.shape)
        for synapse, weight in held
        if synapse.source in sources
    )


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
    trial = fit(network, calibration.x[half], scores[torch.from_numpy(half)], steps, seed)
    before, after = (_accuracy(candidate, judge, steps) for candidate in (network, trial))
    if after <= before:
        return (
            network,
            f"tuning with snnTorch did not help ({before:.3f} to {after:.3f} on held-back examples): left out",
        )
    tuned = fit(network, calibration.x, scores, steps, seed)
    return tuned, f"tuned with snnTorch: {before:.3f} to {after:.3f} on held-back calibration examples"


def fit(
    network: SpikingNetwork,
    x: Floats,
    scores: Tensor,
    steps: int,
    seed: int,
    *,
    epochs: int = EPOCHS,
    batch_size: int = BATCH,
    learning_rate: float = LEARNING_RATE,
) -> SpikingNetwork:
    """Train a spiking network, by surrogate gradients, to give in few steps the scores of another network.

    Args:
        network: where to start.
        x: examples, (examples, ...).
        scores: what it shall give for them, (examples, classes).
        steps: time steps.
        seed: of the order of the examples.
        epochs, batch_size, learning_rate: of Adam.
    """
    module = SnnTorchNetwork(network)
    optimiser = torch.optim.Adam(module.parameters(), learning_rate)
    rng = torch.Generator().manual_seed(seed)
    inputs, wanted = torch.from_numpy(network.decode(network.encode(x, steps, seed))), scores.softmax(1)
    for _ in range(epochs):
        for batch in torch.randperm(len(wanted), generator=rng).split(batch_size):
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


def _numpy(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return tensor.detach().numpy().copy()
