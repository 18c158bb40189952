"""The spiking stage: convert, tune if it helps, round to Loihi's integers, run them, and count what they cost.

In a run it follows training; `spiking_again.py` does it later, or for modules and .nir files without a run.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit.data import Examples, FederatedDataset
from edgekit.errors import ConversionError
from edgekit.experiment import Experiment
from edgekit.models.adapters import merged
from edgekit.models.cost import macs
from edgekit.neuromorphic import LoihiNetwork, SpikingNetwork, convert, loihi, network, quantise
from edgekit.neuromorphic.decision import affordable, curve, decide
from edgekit.neuromorphic.emulator import Activity, Emulator
from edgekit.neuromorphic.energy import cost
from edgekit.neuromorphic.nir_writing import write_nir
from edgekit.neuromorphic.resources import CHIPS, Resources, require_fit, resources
from edgekit.neuromorphic.settings import Spiking
from edgekit.neuromorphic.tune import tune
from edgekit.randomness import generator
from edgekit.report import SpikingSample
from edgekit.runfolder import RunFolder

WORTH_TUNING = 0.01
"""Accuracy on the calibration examples that spikes must lose before tuning is tried."""
MOST_EXAMPLES = 1000
"""Test examples that are run: a point of accuracy is then 10 of them, and seconds are enough."""
CURVE = (1, 2, 4, 8, 16, 32)
"""Time steps at which accuracy is measured for the report."""
SHOWN_NEURONS = 3
"""Neurons a layer whose voltages are drawn."""

Notice = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """A spiking network in floats, and all that measuring it needs.

    Attributes:
        network: the network.
        classes: names.
        calibration: examples that it may be fitted to.
        test: examples that it is measured on.
        macs: multiply-adds of the network it came from; None if there was none.
        frozen: names of norms that were frozen.
        tuned: what came of tuning.
        notices: for people.
    """

    network: SpikingNetwork
    classes: list[str]
    calibration: Examples
    test: Examples
    macs: int | None = None
    frozen: tuple[str, ...] = ()
    tuned: str = "none: read from a file"
    notices: list[str] = field(default_factory=list)


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
        ConversionError: the network has no spiking form, or does not fit the chip.
    """
    subject = of_model(
        model,
        dataset.calibration,
        drawn(dataset.test, experiment.seed),
        dataset.classes,
        experiment.spiking,
        experiment.seed,
    )
    return measure(subject, experiment.spiking, experiment.seed, folder.spiking)


def of_model(
    model: nn.Module, calibration: Examples, test: Examples, classes: list[str], settings: Spiking, seed: int
) -> Subject:
    """Convert a network, and tune what it loses."""
    converted = convert(merged(model), calibration, classes, settings)
    spiking, notices, tuned = converted.network, [], "not needed"
    steps = _steps(spiking, calibration, settings)
    if not settings.tune:
        tuned = "off"
    else:
        lost = converted.accuracy_folded - _accuracy_float(spiking, calibration, steps, seed)
        if lost > WORTH_TUNING:
            with torch.no_grad():
                scores = model.eval()(torch.from_numpy(calibration.x))
            spiking, tuned = tune(spiking, calibration, scores, steps, seed)
            notices.append(tuned)
    shape = tuple(calibration.x.shape[1:])
    return Subject(spiking, classes, calibration, test, macs(model, shape), converted.frozen, tuned, notices)


def measure(subject: Subject, settings: Spiking, seed: int, folder: Path) -> SpikingResult:
    """Round a network to integers, write its files, run it, and count.

    Args:
        subject: the network and its examples.
        settings: the [spiking] section.
        seed: of random codes.
        folder: for `network.nir` and `loihi.npz`.

    Raises:
        ConversionError: it cannot be rounded, or does not fit the chip.
    """
    test, labels = subject.test.x, subject.test.y
    steps = _steps(subject.network, subject.calibration, settings)
    by_steps: dict[str, Any] = {}
    ready = activity = codes = None
    for count in [steps] if subject.network.coding == "frames" else sorted({*CURVE, steps}):
        made = quantise(subject.network, count, subject.calibration.x, weight_bits=settings.weight_bits)
        sent = made.encode(test, seed)
        emulator = Emulator(made)
        ran = emulator.run(sent, record="readout")
        spent = cost(made, sent, ran)
        by_steps[str(count)] = {
            "float": round(_accuracy_float(subject.network, subject.test, count, seed), 6),
            "loihi": round(float((ran.scores.argmax(1) == labels).mean()), 6),
            "energy_joules_estimate": float(f"{spent.energy_joules:.4g}"),
        }
        if count == steps:
            ready, activity, codes, at_steps = emulator, ran, sent, spent
    assert ready is not None
    assert activity is not None
    assert codes is not None
    integers = ready.network
    notices = list(subject.notices)
    taken: dict[str, Resources] = {settings.chip: resources(integers, settings.chip)}
    require_fit(taken[settings.chip])
    for other in CHIPS.keys() - taken.keys():
        try:
            taken[other] = resources(integers, other)
        except ConversionError as error:
            notices.append(f"does not fit {CHIPS[other].name}: {error}")
    loihi.save(integers, folder / "loihi.npz")
    exchange = folder / "network.nir"
    try:
        write_nir(subject.network, exchange)
    except ConversionError as error:  # NIR cannot say everything that the chip can
        exchange.unlink(missing_ok=True)
        notices.append(f"no .nir file: {error}")
    here = by_steps[str(steps)]
    facts = {
        "steps": steps,
        "accuracy_float": here["float"],
        "accuracy_loihi": here["loihi"],
        "spikes_per_inference": round(at_steps.spikes, 1),
        "synops": round(at_steps.synops, 1),
        "macs": subject.macs,
        "energy_joules_estimate": here["energy_joules_estimate"],
        "cores": taken[settings.chip].cores,
        "chip": CHIPS[settings.chip].name,
        "examples": len(test),
        "neurons": taken[settings.chip].neurons,
        "synapses": taken[settings.chip].synapses,
        "backend": "emulator (Loihi fixed point)",
        "coding": subject.network.coding,
        "settings": settings.model_dump(),
        "by_steps": by_steps,
        "rates": _rates(integers, activity),
        "nir": exchange.exists(),
        "early_decision": _early(subject, ready, activity, seed),
        "resources": {name: found.facts() for name, found in taken.items()},
        "frozen_norms": list(subject.frozen),
        "tuning": subject.tuned,
    }
    compared = "" if subject.macs is None else f" beside {subject.macs:,} multiply-adds"
    notices.append(
        f"spiking, {steps} steps: accuracy {here['loihi']:.4f} in Loihi integers, {here['float']:.4f} in floats; "
        f"{at_steps.synops:,.0f} synaptic operations{compared}; {facts['cores']} cores of {facts['chip']}"
    )
    right = int(np.flatnonzero(activity.scores.argmax(1) == labels)[:1].sum())
    return SpikingResult(facts, notices, sample(ready, codes[right], test[right], subject.classes[labels[right]]))


def sample(ready: Emulator, code: Any, example: Any, label: str) -> SpikingSample:
    """Follow one example through the network.

    Args:
        ready: the network, ready to run.
        code: the example's code.
        example: as data.
        label: name of its class.
    """
    integers = ready.network
    records = ready.run(code[None], record=True).records
    spikes = [record.spikes[0].reshape(integers.steps, -1) for record in records[:-1]]
    membranes = []
    for layer, fired, record in zip(integers.layers[:-1], spikes, records[:-1], strict=True):
        # Neurons that fire in about half of the steps show most: others are silent or always fire.
        shown = np.argsort(np.abs(fired.sum(0) - integers.steps / 2), kind="stable")[:SHOWN_NEURONS]
        assert isinstance(layer.neurons, loihi.Lif)
        voltages = record.voltages[0].reshape(integers.steps, -1)[:, shown]
        membranes.append(voltages / max(1, layer.neurons.threshold << 6))
    names = [layer.name for layer in integers.layers[:-1]]
    return SpikingSample(example, label, names, spikes, membranes, records[-1].voltages[0])


def _steps(spiking: SpikingNetwork, examples: Examples, settings: Spiking) -> int:
    """Return the time steps of an inference: sequences bring their own number."""
    return examples.x.shape[1] if spiking.coding == "frames" else settings.steps


def drawn(test: Examples, seed: int) -> Examples:
    """Return so many test examples, drawn at random, as are run."""
    order = generator(seed, "spiking test").permutation(len(test))
    chosen = np.sort(order[:MOST_EXAMPLES])
    return Examples(test.x[chosen], test.y[chosen])


def _accuracy_float(spiking: SpikingNetwork, examples: Examples, steps: int, seed: int) -> float:
    scores = [network.run(spiking, part, steps, seed) for part in np.array_split(examples.x, -(-len(examples) // 500))]
    return float((np.concatenate(scores).argmax(1) == examples.y).mean())


def _rates(integers: LoihiNetwork, activity: Activity) -> list[dict[str, Any]]:
    """Return how often the neurons of each layer fire, as a share of the steps, and how many never do."""
    found = []
    for layer, spikes in zip(integers.layers[:-1], activity.spikes[:-1], strict=True):
        silent = float((spikes.reshape(len(spikes), -1).sum(0) == 0).mean())
        rate = float(spikes.mean()) / integers.steps
        found.append({"layer": layer.name, "rate": round(rate, 5), "silent": round(silent, 4)})
    return found


def _early(subject: Subject, ready: Emulator, activity: Activity, seed: int) -> dict[str, Any]:
    """Return what stopping early would do: the margin is chosen on the calibration examples, measured on the others."""
    readout = activity.records[-1].voltages
    calibration = ready.run(ready.network.encode(subject.calibration.x, seed), record="readout")
    known = calibration.records[-1].voltages
    chosen = decide(readout, subject.test.y, affordable(known, subject.calibration.y))
    points = curve(known, readout, subject.test.y)
    return {
        "steps": round(chosen.steps, 3),
        "accuracy": round(chosen.accuracy, 6),
        "margin": chosen.margin if np.isfinite(chosen.margin) else None,
        "curve": [{"steps": round(p.steps, 3), "accuracy": round(p.accuracy, 6)} for p in points],
    }
