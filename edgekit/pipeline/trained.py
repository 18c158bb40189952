"""A trained network to use, wherever it lies: in a run folder, a .tflite, or Loihi's integers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit import experiment as experiments
from edgekit.arrays import Array
from edgekit.data.federated import Examples, FederatedDataset, Floats
from edgekit.data.settings import SOUND, Data
from edgekit.data.unlabelled import Inputs
from edgekit.errors import DataError, ExportError, RunFolderError, UsageError
from edgekit.experiment import Experiment
from edgekit.objectives import Objective, make
from edgekit.runfolder import RunFolder
from edgekit.section import Chosen

if TYPE_CHECKING:
    from torch import nn

WHOLE = Chosen(name="cross-entropy")
"""What a file that says nothing is trained for."""
AT_ONCE = 2000
"""Examples that are given to a network together."""


@dataclass(frozen=True)
class Trained:
    """A network ready to use.

    Attributes:
        scores: what it gives for examples as of `inputs`, (examples, outputs).
        inputs: what it takes.
        objective: what it was trained for.
        decided: what belongs to its use, such as a threshold.
        data: the [data] section of its run, or defaults.
        how: in words: what computes it.
        latency: median microseconds of an example by itself, as far as that was measured; filled while it computes.
        unit: what its scores are: `score`, of which softmax makes chances, or `voltage`, whose order counts alone.
    """

    scores: Callable[[Floats], Array]
    inputs: Inputs
    objective: Objective
    decided: Mapping[str, float]
    data: Data
    how: str
    latency: list[float] = field(default_factory=list)
    unit: str = "score"


def open_trained(path: Path) -> Trained:
    """Open a run folder, a .tflite or a loihi.npz.

    Args:
        path: of it.

    Raises:
        UsageError: there is no such thing.
        EdgekitError: it is not finished, broken, or not for answers.
    """
    if path.is_dir():
        return _run(RunFolder.open(path))
    if not path.exists():
        raise UsageError(f"{path} does not exist: give a run folder, a .tflite or a loihi.npz")
    if path.suffix == ".tflite":
        return _tflite(path)
    if path.suffix == ".npz":
        return _loihi(path)
    raise UsageError(f"{path}: give a run folder, a .tflite or a loihi.npz")


def facts_of(folder: RunFolder) -> tuple[Inputs, Objective, dict[str, float], Experiment]:
    """Return what a finished run's network takes and gives, and its experiment.

    Raises:
        RunFolderError: it is not finished, or of an edgekit that did not write this down.
    """
    result, experiment = folder.read_result(), experiments.load(folder.experiment)
    where = str(folder.result)
    if "input" not in result:  # a run of edgekit 0.1
        from edgekit.pipeline.subjects import input_facts, load_dataset

        result["input"] = input_facts(load_dataset(experiment))
    record = dict(result["input"]) if isinstance(result["input"], dict) else {}
    chosen = record.pop("objective", None)
    return (
        Inputs.read(record, where),
        _objective(chosen, where),
        _decided(result.get("decision"), where),
        experiment,
    )


def _objective(chosen: Any, where: str) -> Objective:
    try:
        return make(WHOLE if chosen is None else Chosen.model_validate(chosen))
    except ValueError:
        raise RunFolderError(f"{where} does not say what the network was trained for") from None


def _decided(found: Any, where: str) -> dict[str, float]:
    held = {} if found is None else found
    if not isinstance(held, dict) or not all(isinstance(one, int | float) for one in held.values()):
        raise RunFolderError(f"{where}: decision is not a table of numbers")
    return held


def run_network(folder: RunFolder) -> "tuple[nn.Module, Inputs, Objective, dict[str, float], Experiment]":
    """Return a finished run's network, ready to run, and what belongs to it; its data is not needed.

    Raises:
        RunFolderError: it is not finished, or of another network.
    """
    from edgekit.pipeline.subjects import load_network

    inputs, objective, decided, experiment = facts_of(folder)
    shaped = FederatedDataset.of_shape(inputs.shape, inputs.classes, objective)
    return load_network(folder, experiment, shaped), inputs, objective, decided, experiment


def _run(folder: RunFolder) -> Trained:
    import torch

    from edgekit.server.loop.evaluation import outputs_of

    model, inputs, objective, decided, experiment = run_network(folder)
    torch.set_num_threads(1)

    def scores(x: Floats) -> Array:
        return outputs_of(model, Examples(x, np.zeros(len(x), np.int64)))

    return Trained(scores, inputs, objective, decided, experiment.data, f"{type(model).__name__} in torch")


def _tflite(path: Path) -> Trained:
    from edgekit.export.metadata import describe
    from edgekit.export.runtimes import label
    from edgekit.export.tflite import as_device
    from edgekit.export.verify import run_examples

    content = path.read_bytes()
    described = describe(content)
    told, latency = described["metadata"] or {}, []
    kind = told.get("kind")
    if kind is not None and kind != SOUND:
        raise ExportError(f"{path} is a file of {kind}: predict takes one that answers at once, as float32.tflite")
    first = next(iter(described["signatures"].values()))
    if len(first["inputs"]) != 1 or len(first["outputs"]) != 1:
        raise ExportError(f"{path} has {len(first['inputs'])} inputs and {len(first['outputs'])} outputs: one of each")
    shape = next(iter(first["inputs"].values()))["shape"][1:]
    names, normalisation = told.get("output", {}).get("labels"), told.get("input", {}).get("normalisation")
    ours = told.get("input", {}).get("layout") == "NHWC"
    if ours and len(shape) == 3:
        shape = [shape[2], *shape[:2]]
    if names is None:
        many = next(iter(first["outputs"].values()))["shape"][-1]
        names = [str(number) for number in range(max(1, many))]
    record = {"shape": shape, "classes": names, "normalisation": normalisation or {}}
    inputs = Inputs.read(record, str(path))
    objective = _objective(told.get("objective"), str(path))
    decided = _decided(told.get("decision"), str(path))

    def scores(x: Floats) -> Array:
        ran = run_examples(content, as_device(x) if ours else x)
        latency.append(ran.latency.median)
        return ran.scores

    return Trained(scores, inputs, objective, decided, Data(), label("ai-edge-litert"), latency)


def _loihi(path: Path) -> Trained:
    from edgekit.neuromorphic import loihi
    from edgekit.neuromorphic.emulator.run import Emulator

    network = loihi.load(path)
    folder = path.absolute().parent.parent
    if (folder / "result.json").is_file() and (folder / "experiment.toml").is_file():
        inputs, objective, decided, experiment = facts_of(RunFolder.open(folder))
        data = experiment.data
    else:
        leading = [network.steps] if network.coding == "frames" else []
        record = {"shape": [*leading, *network.input_shape], "classes": list(network.classes), "normalisation": {}}
        inputs, objective, decided, data = Inputs.read(record, str(path)), make(WHOLE), {}, Data()
    if len(inputs.classes) != len(network.classes):
        raise DataError(f"{path} answers with {len(network.classes)} classes, its run with {len(inputs.classes)}")
    emulator = Emulator(network)

    def scores(x: Floats) -> Array:
        voltages: Array = emulator.run(network.encode(x)).scores
        return voltages

    how = f"Loihi's integers in the emulator, {network.steps} steps"
    return Trained(scores, inputs, objective, decided, data, how, unit="voltage")
