"""What the tests share: small real data, quick experiments, a listener that keeps what it hears."""

import importlib.util
import os
import re
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
from edgekit.models import build
from edgekit.runfolder import RunFolder
from edgekit.server.loop.sync import Coordinator

torch.set_num_threads(1)

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


SLICES = 10
"""Parts of the long suite; each day has its own."""


def pytest_addoption(parser):
    parser.addoption("--slice", type=int, help=f"of the long tests, this tenth alone: 0 to {SLICES - 1}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Share tests out to workers, and pick a slice of the long ones.

    A file's tests stay with one worker, since they share what was set up; a federation of real processes is a group of
    its own. What may run only once at a time on a machine has marked its group.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            alone = item.nodeid if "federation" in item.fixturenames else item.path.name
            item.add_marker(pytest.mark.xdist_group("chromium" if "chromium" in item.fixturenames else alone))
    chosen = config.getoption("--slice")
    if chosen is not None:
        if not 0 <= chosen < SLICES:
            raise pytest.UsageError(f"--slice {chosen}: there are 0 to {SLICES - 1}")
        long = sorted(item.nodeid for item in items if item.get_closest_marker("long"))
        there = set(long[chosen::SLICES])
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in there])
        items[:] = [item for item in items if item.nodeid in there]
    elif not config.pluginmanager.hasplugin("randomly"):
        items.sort(key=lambda item: "federation" not in item.fixturenames)  # the longest first


@pytest.fixture(autouse=True)
def _the_same_numbers_in_any_order():
    """What a test draws from torch does not depend on the tests before it."""
    torch.manual_seed(0)


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
def coordinate(tmp_path):
    """A coordinator in a run folder; digits shared by 6 clients unless a dataset is given."""

    def make(experiment, name="run", dataset=None, model=None, **heard):
        dataset = dataset or load_data(experiment.data, experiment.seed)
        if model is None:
            x, classes = dataset.calibration.x, len(dataset.classes)
            model = build(experiment.model, dataset.shape, classes, experiment.seed, x)
        (tmp_path / name).mkdir(exist_ok=True)
        return Coordinator(experiment, dataset, model, RunFolder(tmp_path / name), **heard)

    return make


@pytest.fixture
def interrupted():
    """Run a coordinator until Ctrl-C comes, right after a round."""

    def run(coordinator, number: int) -> None:
        def stop(line):
            if line.round == number:
                raise KeyboardInterrupt

        coordinator.on_round = stop
        coordinator.run()

    return run


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
def edgekit():
    """`commandline.py`: the command line in this process."""
    return _module(Path(__file__).parent / "commandline.py").edgekit


@pytest.fixture(scope="session")
def fails():
    """Check that a command was refused as people expect: an exit code, and one line on stderr that tells the cause."""

    def check(done, code, message):
        assert done.returncode == code, done.stdout + done.stderr
        assert re.search(message, done.stderr), done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr

    return check


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, new_listener):
    """A finished run of the built-in example, small: an MLP on digits in all its forms. Copy it to change it."""
    from edgekit.pipeline import job

    out = tmp_path_factory.mktemp("trained") / "run"
    quick = ["data.clients=5", "federation.rounds=6", "privacy.unit=none", "model.name=mlp", "model.norm=none"]
    job.run(experiments.load(None, [*quick, "model.arguments={}", 'export.presets=["float32"]']), out, new_listener())
    return out


@pytest.fixture(scope="session")
def fleet():
    """benchmarks/fleet.py: federations of real processes."""
    return _module(BENCHMARKS / "fleet.py")


@pytest.fixture(scope="session")
def scripted_phone():
    """benchmarks/scripted_phone.py: phones without a browser."""
    return _module(BENCHMARKS / "scripted_phone.py")


def _module(path):
    name = path.stem
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
