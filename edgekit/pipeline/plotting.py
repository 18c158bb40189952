"""Pictures of a run's spiking network, as files."""

from pathlib import Path

import numpy as np

from edgekit.errors import RunFolderError, UsageError
from edgekit.neuromorphic.emulator import Emulator
from edgekit.pipeline.spiking import sample
from edgekit.pipeline.spiking_again import open_run, stored_network
from edgekit.report import spiking_pictures, standalone, style
from edgekit.runfolder import write_whole


def plot(path: Path, example: int | None, out: Path | None) -> list[Path]:
    """Draw a run's spiking network at work; each picture is an .svg file that suits light and dark.

    Args:
        path: the run folder.
        example: number of a test example; None takes the first that the network gets right.
        out: the folder; None is `spiking/plots` of the run.

    Returns:
        The files.

    Raises:
        RunFolderError: the run has no spiking network.
        UsageError: there is no such example.
    """
    folder, experiment, _, dataset = open_run(path)
    network = stored_network(folder)
    result = folder.read_result()
    if not result.get("spiking"):
        raise RunFolderError(f"{path} says nothing of its spiking network: make it anew with edgekit spike run {path}")
    ready, test = Emulator(network), dataset.test
    if example is None:
        few = slice(0, 100)
        answers = ready.run(network.encode(test.x[few], experiment.seed)).scores.argmax(1)
        example = int(np.flatnonzero(answers == test.y[few])[:1].sum())
    if example >= len(test):
        raise UsageError(f"--example {example}: the test set has {len(test)}, numbered from 0")
    x = test.x[example : example + 1]
    shown = sample(ready, network.encode(x, experiment.seed)[0], x[0], dataset.classes[test.y[example]])
    written = []
    for name, picture in spiking_pictures(result, dataset.classes, shown).items():
        file = (out or folder.spiking / "plots") / f"{name}.svg"
        write_whole(file, standalone(picture, style()))
        written.append(file)
    return written
