"""What the tests share: small real data, quick experiments, a listener that keeps what it hears."""

import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgekit import experiment as experiments
from edgekit.clients import LocalSettings
from edgekit.data import Examples, FederatedDataset
from edgekit.data import load as load_data
from edgekit.experiment import Experiment
from edgekit.export.runtimes import TFLITE_RUNTIME

torch.set_num_threads(1)


@dataclass
class Heard:
    """A listener that keeps what it hears."""

    stages: list[str] = field(default_factory=list)
    rounds: list[Any] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def stage(self, name: str) -> None:
        self.stages.append(name)

    def round(self, metrics: Any, rounds: int) -> None:
        self.rounds.append(metrics)

    def notice(self, line: str) -> None:
        self.notices.append(line)


@pytest.fixture(scope="session")
def new_listener() -> type[Heard]:
    return Heard


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="session")
def digits() -> FederatedDataset:
    return load_data(Experiment().data, seed=0)


@pytest.fixture
def make_experiment():
    """A small, quick experiment; each override is key=value."""

    def make(*overrides: str) -> Experiment:
        quick = ["data.clients=6", "federation.rounds=2", "training.epochs=1", "training.batch_size=32"]
        return experiments.load(None, [*quick, *overrides])

    return make


@pytest.fixture
def blocks():
    """Random clients of unequal sizes, with the shape and the number of classes of digits."""

    def make(*sizes: int, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> list[Examples]:
        rng = np.random.default_rng(seed)
        return [
            Examples(rng.random((size, *shape), np.float32), rng.integers(0, 10, size).astype(np.int64))
            for size in sizes
        ]

    return make


WORK: dict[str, LocalSettings] = {
    "sgd": LocalSettings(batch_size=8, epochs=2),
    "momentum and FedProx": LocalSettings(batch_size=5, momentum=0.9, proximal_mu=0.1),
    "dp-sgd": LocalSettings(
        "dp-sgd", steps=4, sample_rate=0.7, clip=0.5, noise_multiplier=0.8, momentum=0.5, proximal_mu=0.1
    ),
    "clipped-sum": LocalSettings("clipped-sum", sample_rate=0.7, clip=0.5),
    "bounded": LocalSettings(batch_size=8, update_clip=0.1, update_noise=0.01),
}


@pytest.fixture(params=WORK)
def settings(request: pytest.FixtureRequest) -> LocalSettings:
    """Every kind of work that clients can be given."""
    return WORK[request.param]


@pytest.fixture(scope="session")
def large_data() -> Path:
    """The folder with MNIST and spoken digits, for slow tests."""
    place = os.environ.get("EDGEKIT_DATA")
    if not place:
        pytest.skip("EDGEKIT_DATA is not set: it names the folder of the larger data")
    return Path(place)


@pytest.fixture(scope="session")
def fleet():
    """benchmarks/fleet.py: federations of real processes."""
    return _of_the_benchmarks("fleet")


@pytest.fixture(scope="session")
def scripted_phone():
    """benchmarks/scripted_phone.py: phones without a browser."""
    return _of_the_benchmarks("scripted_phone")


def _of_the_benchmarks(name):
    path = Path(__file__).parent.parent / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def federation(fleet, tmp_path):
    made = []

    def make(*overrides, base=None):
        made.append(fleet.Federation(tmp_path / f"federation-{len(made)}", (*(base or fleet.QUICK), *overrides)))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture(scope="session")
def old_runtime():
    """tflite-runtime 2.14, which needs an environment of its own: made once, kept in edgekit's cache."""
    TFLITE_RUNTIME.install()
    return "tflite-runtime"
