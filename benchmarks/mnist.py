"""What benchmarks on MNIST share: a tenth of its images, and a whole run of an experiment. Needs EDGEKIT_DATA."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import experiment as experiments
from edgekit.pipeline.subjects import build_network, load_dataset
from edgekit.runfolder import RunFolder, read_lines
from edgekit.server.loop.sync import Coordinator

EXAMPLES, TESTED = 6000, 2000


def whole() -> Path:
    """Return the file of all images."""
    if "EDGEKIT_DATA" not in os.environ:
        sys.exit("EDGEKIT_DATA is not set: the folder with mnist.npz")
    return Path(os.environ["EDGEKIT_DATA"]) / "mnist.npz"


def tenth(place: str) -> Path:
    """Write a tenth of the images into a folder; return the file."""
    held, made = np.load(whole()), Path(place) / "mnist.npz"
    few = {"x_train": EXAMPLES, "y_train": EXAMPLES, "x_test": TESTED, "y_test": TESTED}
    np.savez(made, **{name: held[name][:count] for name, count in few.items()})
    return made


def run(keys: Sequence[str]) -> list[dict[str, Any]]:
    """Train an experiment; return the metrics of its rounds."""
    experiment = experiments.load(None, keys)
    dataset = load_dataset(experiment)
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder.create(Path(place) / "run")
        Coordinator(experiment, dataset, build_network(experiment, dataset, dataset.calibration.x), folder).run()
        return list(read_lines(folder.metrics))
