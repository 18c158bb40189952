"""The spiking stage: convert, tune if it helps, round to Loihi's integers, run them, and count what they cost."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit.data import FederatedDataset
from edgekit.data.federated import Floats
from edgekit.experiment import Experiment
from edgekit.neuromorphic import SpikingNetwork, convert, emulator, loihi, network, quantise
from edgekit.neuromorphic.energy import cost, macs
from edgekit.neuromorphic.exchange import write_nir
from edgekit.neuromorphic.tune import tune
from edgekit.randomness import generator
from edgekit.report import SpikingSample
from edgekit.runfolder import RunFolder

WORTH_TUNING = 0.01
"""Accuracy on the calibration examples that spikes must lose before tuning is tried."""
MOST_EXAMPLES = 1000
"""Test examples that are run through the emulator: a point of accuracy is then 10 of them, and seconds are enough."""
CURVE = (1, 2, 4, 8, 16, 32)
"""Time steps at which accuracy is measured for the report."""


@dataclass(frozen=True)
class SpikingResult:
    """What the stage found.

    Attributes:
        facts: for result.json.
        notices: for people.
        sample: one test example that the network got right, for the report.
    """

    facts: dict[str, Any]
    notices: list[str]
    sample: SpikingSample


def make_spiking(
    model: nn.Module, dataset: FederatedDataset, experiment: Experiment, folder: RunFolder
) -> SpikingResult:
    """Make the spiking form of a trained network; write `spiking/network.nir` and `spiking/loihi.npz`.

    Raises:
        ConversionError: the network has no spiking form.
    """
    settings = experiment.spiking
    order = generator(experiment.seed, "spiking test").permutation(len(dataset.test))
    chosen = np.sort(order[:MOST_EXAMPLES])
    test, labels = dataset.test.x[chosen], dataset.test.y[chosen]
    converted = convert(model, dataset.calibration, dataset.classes, settings)
    spiking = converted.network
    notices = []
    tuned = "not needed"
    if settings.tune:
        lost = converted.accuracy_folded - _accuracy_float(
            spiking, dataset.calibration.x, dataset.calibration.y, settings.steps
        )
        if lost > WORTH_TUNING:
            with torch.no_grad():
                scores = model.eval()(torch.from_numpy(dataset.calibration.x))
            spiking, tuned = tune(spiking, dataset.calibration, scores, settings.steps, experiment.seed)
            notices.append(tuned)
    else:
        tuned = "off"

    curve = {}
    for steps in sorted({*CURVE, settings.steps}):
        made = quantise(spiking, steps, dataset.calibration.x, weight_bits=settings.weight_bits)
        ran = emulator.run(made, made.encode(test))
        curve[steps] = {
            "float": round(_accuracy_float(spiking, test, labels, steps), 6),
            "loihi": round(float((ran.scores.argmax(1) == labels).mean()), 6),
        }
        if steps == settings.steps:
            integers, activity = made, ran
    codes = integers.encode(test)
    spent = cost(integers, codes, activity)
    right = int(np.flatnonzero(activity.scores.argmax(1) == labels)[:1].sum())
    sample = emulator.run(integers, codes[right : right + 1], record=True)

    loihi.save(integers, folder.spiking / "loihi.npz")
    write_nir(spiking, folder.spiking / "network.nir")
    facts = {
        "steps": settings.steps,
        "accuracy_float": curve[settings.steps]["float"],
        "accuracy_loihi": curve[settings.steps]["loihi"],
        "spikes_per_inference": round(spent.spikes, 1),
        "synops": round(spent.synops, 1),
        "macs": macs(model, dataset.shape),
        "energy_joules_estimate": float(f"{spent.energy_joules:.4g}"),
        "cores": spent.cores,
        "examples": len(test),
        "neurons": spent.neurons,
        "synapses": spent.synapses,
        "backend": "emulator (Loihi fixed point)",
        "by_steps": {str(steps): accuracies for steps, accuracies in curve.items()},
        "frozen_norms": list(converted.frozen),
        "tuning": tuned,
    }
    notices.append(
        f"spiking, {settings.steps} steps: accuracy {facts['accuracy_loihi']:.4f} in Loihi integers; "
        f"{spent.synops:,.0f} synaptic operations beside {facts['macs']:,} multiply-adds"
    )
    shown = SpikingSample(
        test[right],
        dataset.classes[labels[right]],
        [layer.name for layer in integers.layers[:-1]],
        [spikes[0].reshape(settings.steps, -1) for spikes, _, _ in sample.records[:-1]],
        sample.records[-1][2][0],
    )
    return SpikingResult(facts, notices, shown)


def _accuracy_float(
    spiking: SpikingNetwork, x: Floats, labels: np.ndarray[Any, np.dtype[np.int64]], steps: int
) -> float:
    scores = [network.run(spiking, part, steps) for part in np.array_split(x, max(1, len(x) // 500))]
    return float((np.concatenate(scores).argmax(1) == labels).mean())
