"""Flower's strategies by class name, and their state for checkpoints."""

import difflib
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from edgekit import plugins
from edgekit.arrays import Array, Weights
from edgekit.clients.app import to_record
from edgekit.errors import ExperimentError
from edgekit.experiment import Federation, Privacy

NAMES = [
    "Bulyan",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedMedian",
    "FedProx",
    "FedTrimmedAvg",
    "FedYogi",
    "Krum",
    "MultiKrum",
    "QFedAvg",
]
OF_THE_MEAN = {"FedAvg", "FedProx", "FedAvgM", "FedAdam", "FedYogi", "FedAdagrad"}
"""Strategies that use nothing but the mean update: with noise by the server they see only the noised mean."""
_OURS = {
    "fraction_train": "federation.cohort says how many clients take part",
    "fraction_evaluate": "accuracy is measured on the server's test set",
    "min_train_nodes": "federation.cohort says how many clients take part",
    "min_evaluate_nodes": "accuracy is measured on the server's test set",
    "min_available_nodes": "data.clients says how many clients there are",
    "weighted_by_key": "updates weigh by their clients' examples, or alike under privacy",
    "arrayrecord_key": "edgekit's clients know the name",
    "configrecord_key": "edgekit's clients know the name",
}


def build(settings: Federation, privacy: Privacy, *, split: bool = False) -> Strategy:
    """Make the strategy that the experiment names.

    Args:
        settings: the [federation] section; `arguments` go to the strategy's constructor.
        privacy: the [privacy] section, which some strategies would void.
        split: whether the network is cut between devices and server.

    Raises:
        ExperimentError: no such strategy, arguments it does not take, or one that does not go with this privacy.
    """
    name = settings.strategy
    if name.startswith("DifferentialPrivacy"):
        raise ExperimentError(
            f"federation.strategy {name}: privacy has a section of its own; set privacy.unit = 'client' and "
            "privacy.noise, which count the sampling too"
        )
    if privacy.on and name not in OF_THE_MEAN and privacy.noise == "server":
        raise ExperimentError(
            f"federation.strategy {name} looks at single clients' updates, which noise by the server leaves bare: use "
            f"one of {', '.join(sorted(OF_THE_MEAN))}, or privacy.noise = 'client'"
        )
    if privacy.on and name == "QFedAvg":
        raise ExperimentError("federation.strategy QFedAvg needs the clients' losses, which private clients keep")
    if privacy.unit == "example" and privacy.noise == "server" and name == "FedProx" and not split:
        raise ExperimentError(
            "federation.strategy FedProx has no effect here: with unit example and noise by the server a round is a "
            "single gradient step, taken at the global weights"
        )
    for argument in settings.arguments:
        if argument in _OURS:
            raise ExperimentError(f"federation.arguments.{argument} is set by edgekit: {_OURS[argument]}")
    arguments = {
        "fraction_train": 1.0,
        "fraction_evaluate": 0.0,
        "min_train_nodes": 1,
        "min_evaluate_nodes": 0,
        "min_available_nodes": 1,
        **settings.arguments,
    }
    try:
        strategy = _constructor(name)(**arguments)
    except TypeError as error:
        reason = str(error).removeprefix(f"{name}.__init__() ")
        raise ExperimentError(f"federation.arguments do not fit {name}: {reason}") from None
    except (ValueError, AttributeError) as error:
        raise ExperimentError(f"federation.arguments do not fit {name}: {error}") from None
    if not isinstance(strategy, Strategy):
        raise ExperimentError(f"federation.strategy {name!r} is not a flwr.serverapp.strategy.Strategy")
    return strategy


def _constructor(name: str) -> Callable[..., Any]:
    if name in NAMES:
        made: Callable[..., Any] = getattr(flower, name)
        return made
    if plugins.is_import_path(name):
        loaded: Callable[..., Any] = plugins.load(name, "federation.strategy")
        return loaded
    near = difflib.get_close_matches(name, NAMES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(NAMES)}, or package.module:Class"
    raise ExperimentError(f"federation.strategy {name!r} is unknown; {hint}")


def state(strategy: Strategy) -> tuple[Weights, dict[str, Any], list[str]]:
    """Return what a strategy remembers between rounds: arrays, JSON, and the names of what can be neither.

    Flower has no checkpoints. A strategy's memory is its attributes: numbers, arrays, and lists and dicts of them.
    Functions are settings that the constructor makes again.
    """
    arrays: Weights = {}
    description = {}
    skipped = []
    for name, value in vars(strategy).items():
        encoded = _encode(value, name, arrays)
        if encoded is not None:
            description[name] = encoded
        elif not callable(value):
            skipped.append(name)
    return arrays, description, skipped


def restore(strategy: Strategy, arrays: Weights, description: dict[str, Any]) -> None:
    """Give a strategy back what `state` returned."""
    for name, encoded in description.items():
        setattr(strategy, name, _decode(encoded, arrays))


def _encode(value: Any, path: str, arrays: Weights) -> dict[str, Any] | None:
    """Describe a value as {kind: …}, putting its arrays aside under their path; None for what is not state."""
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, np.ndarray | np.generic):
        arrays[path] = np.asarray(value)
        return {"array": path, "scalar": isinstance(value, np.generic)}
    if isinstance(value, ArrayRecord):
        inner = {name: array.numpy() for name, array in value.items()}
        return {"record": _encode(inner, path, arrays)}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        items = {key: _encode(item, f"{path}/{key}", arrays) for key, item in value.items()}
        return None if None in items.values() else {"dict": items}
    if isinstance(value, list | tuple):
        parts = [_encode(item, f"{path}/{place}", arrays) for place, item in enumerate(value)]
        return None if None in parts else {"list": parts}
    return None


def _decode(encoded: dict[str, Any], arrays: Weights) -> Any:
    if "value" in encoded:
        return encoded["value"]
    if "array" in encoded:
        array: Array = arrays[encoded["array"]]
        return array[()] if encoded["scalar"] else array
    if "record" in encoded:
        return to_record(_decode(encoded["record"], arrays))
    if "dict" in encoded:
        return {key: _decode(item, arrays) for key, item in encoded["dict"].items()}
    return [_decode(item, arrays) for item in encoded["list"]]
