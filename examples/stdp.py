"""Unsupervised learning by spike timing: neurons that compete for handwritten digits come to stand for them.

    python examples/stdp.py

APPROXIMATE: an example of learning as Loihi's cores can do it, not a model of them (see edgekit/neuromorphic/stdp.py).
After Diehl & Cook 2015: rate-coded pixels, excitatory synapses that learn by STDP, one winner a step, thresholds that
rise with each spike. Labels are used once, at the end, to name the neurons.
"""

import numpy as np

from edgekit.data import load
from edgekit.data.settings import Data
from edgekit.neuromorphic.stdp import Stdp, rounded, weight_changes

NEURONS = 120
STEPS = 25
EPOCHS = 3
RULE = Stdp(rate=0.06, plus=1.0, minus=-0.1, tau_plus=3.0, tau_minus=3.0)
WEIGHT_SUM = 2200.0
FATIGUE = 60.0


def shown(image, weights, tired, rng):
    """Show an image; return the pixels' and the neurons' spikes, (steps, pixels) and (steps, neurons)."""
    pixels = rng.random((STEPS, image.size)) < 0.5 * image.ravel()
    voltage = np.zeros(len(weights))
    fired = np.zeros((STEPS, len(weights)), bool)
    for step in range(STEPS):
        voltage = 0.9 * voltage + weights @ pixels[step]
        winner = int(np.argmax(voltage - tired))
        if voltage[winner] > 1500 + tired[winner]:
            fired[step, winner] = True
            voltage[:] = 0  # the winner resets itself, and inhibits all others
    return pixels, fired


def main():
    """Learn, name the neurons, and count."""
    rng = np.random.default_rng(0)
    dataset = load(Data(), 0)
    blocks = [dataset.client(index) for index in range(dataset.clients)]
    x, y = np.concatenate([block.x for block in blocks]), np.concatenate([block.y for block in blocks])
    weights, tired = rng.uniform(0, 60, (NEURONS, 64)), np.zeros(NEURONS)
    for _ in range(EPOCHS):
        for index in rng.permutation(len(x)):
            pixels, fired = shown(x[index], weights, tired, rng)
            weights = weights + weight_changes(RULE, pixels, fired)
            weights *= WEIGHT_SUM / np.maximum(weights.sum(1, keepdims=True), 1)  # synapses of a neuron compete
            weights = rounded(weights, rng)
            tired = 0.9995 * tired + FATIGUE * fired.sum(0) / STEPS
    answers = np.stack([shown(image, weights, tired, rng)[1].sum(0) for image in x])
    names = np.array([[answers[y == digit, neuron].mean() for digit in range(10)] for neuron in range(NEURONS)]).argmax(
        1
    )
    right = 0
    for image, label in zip(dataset.test.x, dataset.test.y, strict=True):
        spikes = shown(image, weights, tired, rng)[1].sum(0)
        votes = [spikes[names == digit].mean() if (names == digit).any() else 0.0 for digit in range(10)]
        right += int(np.argmax(votes) == label)
    print(f"{NEURONS} neurons, {EPOCHS} times through {len(x)} digits, no label while learning")
    print(f"test accuracy {right / len(dataset.test):.3f} (chance 0.1); approximate learning, 8-bit weights")


if __name__ == "__main__":
    main()
