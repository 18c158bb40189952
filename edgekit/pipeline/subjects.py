"""What a command works on: a finished run's network, or a module of the user's, and examples for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekit import algorithms, arrays, objectives, plugins
from edgekit.clients.torch_trainer import load_weights
from edgekit.compression.record import for_training, rebuilt
from edgekit.data import FederatedDataset
from edgekit.data.federated import Floats
from edgekit.errors import EdgekitError, ModelError, RunFolderError, UsageError
from edgekit.experiment import Experiment
from edgekit.export.tflite import check_calibration
from edgekit.models.freezing import train_only
from edgekit.models.registry import maker
from edgekit.models.weights_file import take
from edgekit.runfolder import RunFolder

COMPRESSION = "compression"
"""Key of what was done to a network, in a weights file's description."""


def load_dataset(experiment: Experiment) -> FederatedDataset:
    """Return an experiment's dataset; where whole clients are protected, calibration examples are whole groups too."""
    whole_groups = experiment.privacy.unit == "client"
    return algorithms.kind(experiment.split).dataset(
        experiment.data,
        experiment.split,
        experiment.seed,
        whole_groups=whole_groups,
        private=experiment.privacy.on,
        objective=objectives.make(experiment.objective),
    )


def build_network(
    experiment: Experiment,
    dataset: FederatedDataset,
    calibration: Floats | None = None,
    on_notice: Callable[[str], None] = lambda line: None,
) -> nn.Module:
    """Return an experiment's network, not trained yet.

    Args:
        experiment: the experiment.
        dataset: its data.
        calibration: examples to scale the initial values by.
        on_notice: called with lines for people.

    Raises:
        EdgekitError: it cannot be built.
    """
    network, model = algorithms.kind(experiment.split).network, experiment.model
    held, told = _told(Path(model.weights)) if model.weights else (None, [])
    if held is None or not told:
        return network(model, experiment.split, dataset, experiment.seed, calibration, on_notice)
    plain = model.model_copy(update={"weights": "", "new": [], "only": []})
    made = rebuilt(network(plain, experiment.split, dataset, experiment.seed), dataset.shape, for_training(told))
    for line in take(made, held, model.new):
        on_notice(line)
    train_only(made, model.only)
    return made


def _told(path: Path) -> tuple[Path | None, list[Any]]:
    """Return the weights file that `model.weights` names, if it is one of ours, and what was done to its network."""
    file = path / RunFolder(path).model.name if path.is_dir() else path
    if file.suffix != ".safetensors" or not file.is_file():
        return None, []
    try:
        _, told = arrays.load(file)
    except EdgekitError:  # of another program, or damaged: who takes it says so
        return None, []
    record = told.get(COMPRESSION) if isinstance(told, dict) else None
    return file, record if isinstance(record, list) else []


def load_run(folder: RunFolder, experiment: Experiment) -> tuple[nn.Module, FederatedDataset]:
    """Return a finished run's network with its trained weights, and its dataset.

    Raises:
        RunFolderError: it has no trained network, or one of another experiment.
    """
    folder.trained()  # before data is loaded
    dataset = load_dataset(experiment)
    return load_network(folder, experiment, dataset), dataset


def load_network(folder: RunFolder, experiment: Experiment, dataset: FederatedDataset) -> nn.Module:
    """Return a finished run's network with its trained weights.

    Args:
        folder: the run.
        experiment: the run's.
        dataset: the run's, or one of its shape, classes and objective.

    Raises:
        RunFolderError: it has no trained network, or one of another experiment.
    """
    held = folder.trained()
    begun = experiment.model.model_copy(update={"weights": "", "new": []})  # all of it is in the run
    model = build_network(experiment.model_copy(update={"model": begun}), dataset)
    weights, told = arrays.load(held)
    if record := (told or {}).get(COMPRESSION):
        for_training(record)  # sees that it is of a finished run
        model = rebuilt(model, dataset.shape, record)
    if problem := arrays.problem_with(weights, _state(model)):
        raise RunFolderError(f"{folder.model} is not of the experiment's network: {problem}")
    load_weights(model, weights)
    return model.eval()


def input_facts(dataset: FederatedDataset) -> dict[str, Any]:
    """Return what a network takes and its scores mean, for result.json: see `edgekit.data.unlabelled.Inputs`."""
    return {
        "shape": list(dataset.shape),
        "classes": list(dataset.classes),
        "normalisation": dict(dataset.normalisation),
        "objective": dataset.objective.chosen.model_dump(),
    }


def load_module(model_path: str, arguments: dict[str, Any], weights: Path | None, example: torch.Tensor) -> nn.Module:
    """Return a user's own torch module, ready to run.

    Args:
        model_path: `package.module:Class`.
        arguments: of the class.
        weights: its state, .safetensors or torch's .pt; None keeps what the class starts with.
        example: inputs that it must take, (batch, ...).

    Raises:
        EdgekitError: it cannot be built, its weights do not fit, or it does not give scores (batch, classes).
    """
    try:
        made = maker(plugins.load(model_path, "--model"), f"--model {model_path}")(**arguments)
    except EdgekitError:
        raise
    except Exception as error:
        raise ModelError(f"{model_path} cannot be built: {' '.join(str(error).split())}") from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"{model_path} gave {type(made).__name__}, not a torch.nn.Module")
    model = made.eval()
    if weights is not None:
        take(model, weights)
    try:
        with torch.no_grad():
            scores = model(example)
    except Exception as error:
        shape = tuple(example.shape[1:])
        raise ModelError(f"{model_path} cannot take inputs of {shape}: {' '.join(str(error).split())}") from error
    if not isinstance(scores, torch.Tensor) or scores.dim() != 2:
        raise ModelError(f"{model_path} must give scores (batch, classes) for a batch of inputs")
    return model


def read_examples(option: str, path: Path, shape: tuple[int, ...] | None) -> tuple[Any, Any]:
    """Read examples: x (examples, *shape) and, if there, their labels.

    Args:
        option: that named the file, for messages.
        path: .npz with `x` and perhaps `y`, or .npy of `x`.
        shape: of one example; None takes any.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        x, y = (loaded, None) if isinstance(loaded, np.ndarray) else (loaded["x"], loaded.get("y"))
    except Exception as error:  # numpy and zipfile raise many kinds
        raise UsageError(
            f"{option} {path}: give .npz with x and perhaps y, or .npy of x ({arrays.why_unreadable(error)})"
        ) from None
    if x.ndim < 2 or len(x) == 0 or (shape is not None and x.shape[1:] != shape):
        wanted = "..." if shape is None else ", ".join(map(str, shape))
        raise UsageError(f"{option} {path} holds x of shape {x.shape}, expected (examples, {wanted})")
    if x.dtype.kind not in "uifb" or not np.isfinite(x).all():
        raise UsageError(f"{option} {path}: x must be finite numbers, it is {x.dtype}")
    if y is not None:
        if y.shape != x.shape[:1] or not np.issubdtype(y.dtype, np.integer):
            raise UsageError(f"{option} {path}: y must be {len(x)} class numbers, it is {y.dtype} of {y.shape}")
        if y.min() < 0:
            raise UsageError(f"{option} {path}: y must be class numbers from 0, the smallest is {y.min()}")
        check_calibration(y)
    return np.ascontiguousarray(x, np.float32), y


def _state(model: nn.Module) -> arrays.Weights:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}
