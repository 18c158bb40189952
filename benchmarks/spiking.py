"""What spikes cost in accuracy: MNIST and digits, from a trained network to Loihi's integers at few time steps.

    EDGEKIT_DATA=… python benchmarks/spiking.py [--json] [--quick]

The MNIST network is a norm-free CNN (three convolutions and a readout), trained here with plain ReLU, then a little
longer with QCFS activations (Bu et al. 2022), converted, and tuned for an epoch with surrogate gradients at four steps,
towards the scores of the network itself. Which of the converted and the tuned one is used at how many steps is decided
on 5,000 training images that were held back. Accuracies are of all 10,000 test images, in the exact emulator.
"""

import argparse
import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.data import Examples
from edgekit.data import load as load_data
from edgekit.experiment import Experiment
from edgekit.models import build
from edgekit.models.cost import macs
from edgekit.models.qcfs import fit_thresholds, use_qcfs
from edgekit.models.settings import Model
from edgekit.neuromorphic import SpikingNetwork, convert, quantise
from edgekit.neuromorphic.emulator import Emulator
from edgekit.neuromorphic.energy import cost
from edgekit.neuromorphic.settings import Spiking
from edgekit.neuromorphic.tune import fit

STEPS = (4, 8, 16)
AIMS = {4: 0.4, 8: 0.2, 16: 0.1}
LEVELS = 8
HELD_BACK = 5000
CALIBRATION = 256


def convolutional() -> nn.Module:
    """Return the MNIST network, 30k parameters."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1568, 10),
    )
    for layer in model:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return model


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float, shift: int) -> None:
    """Train with Adam, cosine learning rate and random shifts of a few pixels."""
    order = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * -(-len(y) // 128))
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(y), generator=order).split(128):
            moved = x[batch]
            if shift:
                by = torch.randint(-shift, shift + 1, (2,), generator=order).tolist()
                moved = torch.roll(moved, by, (2, 3))
            optimiser.zero_grad()
            F.cross_entropy(model(moved), y[batch]).backward()
            optimiser.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def scores_of(model: nn.Module, x: np.ndarray) -> Tensor:
    return torch.cat([model(part) for part in torch.from_numpy(x).split(500)])


def accuracy(scores: Any, labels: np.ndarray) -> float:
    return float((np.asarray(scores).argmax(1) == labels).mean())


def integers(network: SpikingNetwork, steps: int, calibration: np.ndarray, *sets: Examples) -> list[tuple[float, Any]]:
    """Return, for each set, the accuracy in Loihi's integers, and what an inference costs."""
    made = quantise(network, steps, calibration)
    ready = Emulator(made)
    found = []
    for examples in sets:
        codes = made.encode(examples.x)
        ran = ready.run(codes)
        found.append((accuracy(ran.scores, examples.y), cost(made, codes, ran)))
    return found


def mnist(quick: bool) -> dict[str, Any]:
    """Train, convert, tune, and measure on MNIST."""
    with np.load(Path(os.environ["EDGEKIT_DATA"]) / "mnist.npz") as file:
        x, y, test_x, test_y = (file[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    x, test_x = (images.astype(np.float32).reshape(-1, 1, 28, 28) / 255 for images in (x, test_x))
    y, test_y = y.astype(np.int64), test_y.astype(np.int64)
    held = Examples(x[-HELD_BACK:], y[-HELD_BACK:])
    x, y, test = x[:-HELD_BACK], y[:-HELD_BACK], Examples(test_x, test_y)
    if quick:
        x, y = x[:6000], y[:6000]
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    classes = [str(digit) for digit in range(10)]
    model = convolutional()
    started = time.perf_counter()
    train(model, inputs, labels, 1 if quick else 8, 3e-3, 2)
    relu = accuracy(scores_of(model, test.x), test.y)
    stepped = copy.deepcopy(model)
    use_qcfs(stepped, LEVELS)
    fit_thresholds(stepped, inputs[:CALIBRATION])
    train(stepped, inputs, labels, 1 if quick else 4, 1e-3, 1)
    trained_s = time.perf_counter() - started
    qcfs = accuracy(scores_of(stepped, test.x), test.y)
    calibration = Examples(x[:CALIBRATION], y[:CALIBRATION])
    started = time.perf_counter()
    candidates = {
        "threshold balancing": convert(model, calibration, classes, Spiking()).network,
        "QCFS": convert(stepped, calibration, classes, Spiking()).network,
    }
    converted_s = time.perf_counter() - started
    started = time.perf_counter()
    wanted = 2 * scores_of(stepped, x)  # sharper, so that distance to the boundary counts less than its side
    candidates["QCFS, tuned at 4 steps"] = fit(
        candidates["QCFS"], x, wanted, 4, 0, epochs=1, batch_size=128, learning_rate=5e-4
    )
    tuned_s = time.perf_counter() - started
    table: dict[str, Any] = {}
    chosen: dict[str, Any] = {}
    for steps in STEPS:
        both = {name: integers(network, steps, calibration.x, held, test) for name, network in candidates.items()}
        on_held = {name: results[0][0] for name, results in both.items()}
        found = {name: results[1] for name, results in both.items()}
        best = max(on_held, key=lambda name: on_held[name])
        table[str(steps)] = {name: round(result[0], 4) for name, result in found.items()}
        spent = found[best][1]
        chosen[str(steps)] = {
            "network": best,
            "accuracy": round(found[best][0], 4),
            "loses_points": round(100 * (max(relu, qcfs) - found[best][0]), 2),
            "aim_points": AIMS[steps],
            "synops": round(spent.synops),
            "energy_joules_estimate": float(f"{spent.energy_joules:.3g}"),
        }
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "macs": macs(model, (1, 28, 28)),
        "accuracy_relu": round(relu, 4),
        "accuracy_qcfs": round(qcfs, 4),
        "integers": table,
        "chosen": chosen,
        "seconds": {"training": round(trained_s), "converting": round(converted_s, 1), "tuning": round(tuned_s)},
    }


def digits() -> dict[str, Any]:
    """Convert a network trained on scikit-learn's digits, at four steps."""
    dataset = load_data(Experiment().data, 0)
    blocks = [dataset.client(index) for index in range(dataset.clients)]
    x, y = np.concatenate([b.x for b in blocks]), np.concatenate([b.y for b in blocks])
    shape = {
        "channels": [16, 32],
        "strides": [1, 1],
        "pool": 4,
        "depthwise_activation": False,
    }  # the built-in example's
    model = build(Model(norm="weight-standardised", arguments=shape), dataset.shape, 10, 0, x)
    train(model, torch.from_numpy(x), torch.from_numpy(y), 60, 5e-3, 0)
    own = accuracy(scores_of(model, dataset.test.x), dataset.test.y)
    started = time.perf_counter()
    network = convert(model, dataset.calibration, dataset.classes, Spiking()).network
    seconds = time.perf_counter() - started
    ((found, _),) = integers(network, 4, dataset.calibration.x, dataset.test)
    return {
        "accuracy": round(own, 4),
        "integers_4_steps": round(found, 4),
        "loses_points": round(100 * (own - found), 2),
        "aim_points": 1.0,
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a tenth of the data, one epoch: to see that it runs")
    given = parser.parse_args()
    torch.manual_seed(0)
    result: dict[str, Any] = {"digits": digits()}
    if "EDGEKIT_DATA" in os.environ:
        result["mnist"] = mnist(given.quick)
    if given.json:
        print(json.dumps(result, indent=2))
        return
    row = result["digits"]
    print(
        f"digits: {row['accuracy']:.4f}, integers at 4 steps {row['integers_4_steps']:.4f}: loses "
        f"{row['loses_points']:.2f} points (aim {row['aim_points']})"
    )
    if "mnist" not in result:
        print("MNIST was left out: set EDGEKIT_DATA to the folder that holds mnist.npz")
        return
    found = result["mnist"]
    print(
        f"MNIST: {found['parameters']:,} parameters, ReLU {found['accuracy_relu']:.4f}, "
        f"QCFS {found['accuracy_qcfs']:.4f}"
    )
    print(f"{'steps':>5} {'integers':>9} {'loses':>6} {'aim':>5} {'synops / macs':>14}  network")
    for steps, row in found["chosen"].items():
        print(
            f"{steps:>5} {row['accuracy']:9.4f} {row['loses_points']:6.2f} {row['aim_points']:5} "
            f"{row['synops'] / found['macs']:14.2f}  {row['network']}"
        )


if __name__ == "__main__":
    main()
