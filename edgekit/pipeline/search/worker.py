"""A process of a search: measures a candidate's file, then trains it round by round as long as it is told to.

Lines of JSON come in: a candidate's `settings`, or whether it `go`es on. Lines go out: its `cost`, its `score` after a
`round`, in the end what it is `judged` by; or that it `failed`.
"""

import json
import os
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgekit import experiment as experiments
from edgekit import plugins
from edgekit.compression.phases import Phase
from edgekit.data import Examples, FederatedDataset
from edgekit.data.federated import Floats
from edgekit.devices.profile import load as profile_of
from edgekit.errors import EdgekitError
from edgekit.experiment import Experiment
from edgekit.export import runtimes
from edgekit.export.memory import needs
from edgekit.export.quantise import quantise
from edgekit.export.tflite import Subject, as_device
from edgekit.export.verify import run_examples
from edgekit.models.cost import macs
from edgekit.pipeline.fitting import KERNELS
from edgekit.pipeline.search import measuring
from edgekit.pipeline.search.folder import ARENA, BASE, Cost, Search, open_search
from edgekit.pipeline.search.running import MEASURE
from edgekit.pipeline.search.supernet import taught
from edgekit.pipeline.subjects import build_network, load_dataset
from edgekit.runfolder import RunFolder
from edgekit.server.loop.evaluation import measured
from edgekit.server.loop.metrics import RoundMetrics
from edgekit.server.loop.sync import Coordinator
from edgekit.trust import Gate

TRIED = 8
"""Examples that a file is run with."""


class _EndedError(Exception):
    """The candidate was told to end."""


class Worker:
    """Measures and trains candidates.

    Args:
        search: whose.
        experiment: of which candidates differ.
    """

    def __init__(self, search: Search, experiment: Experiment) -> None:
        self._search, self._experiment = search, experiment
        self._device = profile_of(search.device) if search.device else None
        self._own: bytes | None = None
        self._held: tuple[list[Any], FederatedDataset] | None = None

    def tried(self, settings: list[str]) -> None:
        """Measure and train one candidate, telling on the way."""
        rungs = self._search.rungs
        training = [f"federation.rounds={self._search.rounds}", f"federation.evaluate_every={rungs[0]}"]
        experiment = experiments.changed(self._experiment, [*settings, *training])
        dataset = self._load(experiment)
        model = build_network(experiment, dataset, dataset.calibration.x)
        tell(cost=asdict(self._cost(model, dataset)))
        taught(self._search, model)
        if not heard()["go"]:
            return
        chooses, judges = (_half(dataset.test, place) for place in (0, 1))

        def ended(metrics: RoundMetrics) -> None:
            if metrics.round in rungs:
                score = metrics.accuracy if metrics.accuracy is not None else metrics.metrics[metrics.measure]
                tell(round=metrics.round, score=round(score, 6))
                if not heard()["go"]:
                    raise _EndedError

        with tempfile.TemporaryDirectory() as place:
            folder = RunFolder.create(Path(place) / "run")
            experiments.save(experiment, folder.experiment)
            phase = Phase(until=self._search.rounds, span=self._search.rounds)
            shown = replace(dataset, test=chooses)
            coordinator = Coordinator(experiment, shown, model, folder, ended, lambda line: None, phase=phase)
            outcome = coordinator.run()
        tell(judged=round(measured(model, outcome.weights, judges).score, 6))

    def _load(self, experiment: Experiment) -> FederatedDataset:
        """Return an experiment's data: the same as before, if nothing differs that it is made of."""
        key = [experiment.data, experiment.objective, experiment.seed, experiment.split, experiment.privacy]
        if self._held is None or self._held[0] != key:
            self._held = key, load_dataset(experiment)
        return self._held[1]

    def _cost(self, model: nn.Module, dataset: FederatedDataset) -> Cost:
        subject = Subject.of(model, dataset)
        content = quantise(subject.float32, self._search.preset, subject.inputs)
        x = as_device(dataset.test.x[:TRIED])
        micro = self._device is not None and self._device.micro
        ram, latency = needs(content)["activations"], 0.0
        if self._search.memory == ARENA:
            ram = run_examples(content, x, runtimes.MICRO).arena or ram
        if not micro or self._search.remote:
            latency = self._latency(content, x)
        flash = len(content) + (KERNELS if micro else 0)
        return Cost(latency, flash, ram, sum(p.numel() for p in model.parameters()), macs(model, dataset.shape))

    def _latency(self, content: bytes, x: Floats) -> float:
        """Return microseconds of an inference, beside the experiment's own file: a busy machine slows both alike."""
        if self._search.remote:
            return round(measuring.latency_us(os.environ.get(MEASURE, ""), content), 1)
        begun = next((one.cost for one in self._search.trials if one.number == 0), None)
        if begun is None:  # it is that file
            return float(min(run_examples(content, x).latency.min for _ in range(2)))
        if self._own is None:
            dataset = self._load(self._experiment)
            subject = Subject.of(build_network(self._experiment, dataset, dataset.calibration.x), dataset)
            self._own = quantise(subject.float32, self._search.preset, subject.inputs)
            self._own_x = as_device(dataset.test.x[:TRIED])
        pairs = [
            (run_examples(content, x).latency.min, run_examples(self._own, self._own_x).latency.min) for _ in range(2)
        ]
        own, theirs = (min(each) for each in zip(*pairs, strict=True))
        return round(float(begun.latency_us * own / theirs), 1)


def tell(**told: Any) -> None:
    """Send a line."""
    OUT.write(json.dumps(told) + "\n")
    OUT.flush()


def heard() -> dict[str, Any]:
    """Return the next line, or end: nobody is there any more."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    found: dict[str, Any] = json.loads(line)
    return found


def _half(examples: Examples, place: int) -> Examples:
    """Return every other example."""
    return Examples(examples.x[place::2], examples.y[place::2])


OUT = sys.stdout


def main(path: str) -> None:
    """Try candidates until there are no more."""
    sys.stdout = sys.stderr  # what libraries print is no line of ours
    plugins.guard(Gate((), asks=False))
    torch.set_num_threads(1)
    search = open_search(Path(path))
    worker = Worker(search, experiments.load(search.path / BASE, []))
    while True:
        asked = heard()
        try:
            worker.tried(asked["settings"])
        except _EndedError:
            pass
        except EdgekitError as error:
            tell(failed=str(error))
        except Exception as error:  # a candidate may be any network; the others go on
            tell(failed=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


if __name__ == "__main__":
    main(sys.argv[1])
