"""The fast way to search: all candidates share their weights, and begin with what one federated training made of them.

It is trained once, before the first candidate, and its rounds are kept: a search that is stopped goes on with it.
"""

import itertools
import random
from collections.abc import Callable
from typing import Any

from edgekit import arrays
from edgekit import experiment as experiments
from edgekit.algorithms.supernet import part_of
from edgekit.clients.torch_trainer import load_weights, trained_weights
from edgekit.compression.phases import Phase
from edgekit.errors import EdgekitError, RunFolderError
from edgekit.experiment import Experiment
from edgekit.pipeline.search.folder import ANEW, BASE, Search
from edgekit.pipeline.subjects import build_network, load_dataset
from edgekit.runfolder import RunFolder
from edgekit.server.loop import checkpoint
from edgekit.server.loop.metrics import RoundMetrics
from edgekit.server.loop.sync import Coordinator

FILE, FOLDER = "supernet.safetensors", "supernet"
MOST = 256
"""Networks that share; of more so many are drawn."""


def train(search: Search, on_round: Callable[[RoundMetrics], None], say: Callable[[str], None]) -> None:
    """Train a search's supernet, if it has one that is not trained yet.

    Raises:
        EdgekitError: it cannot be trained.
    """
    if not search.supernet or (search.path / FILE).exists():
        return
    base = experiments.load(search.path / BASE, [])
    model = base.model.model_dump()
    networks = [_differs(experiments.changed(base, settings), model) for settings in _settings(search)]
    made = {**base.model_dump(), "name": f"{base.name}-supernet"}
    rounds = {"rounds": search.supernet, "evaluate_every": search.supernet, "keep": "last", "average_last": 0.0}
    made["federation"] |= {"algorithm": "supernet", "arguments": {"networks": networks}, **rounds}
    experiment = experiments.of(made)
    dataset = load_dataset(experiment)
    network = build_network(experiment, dataset, dataset.calibration.x)
    place = search.path / FOLDER
    folder = RunFolder.open(place) if (place / "experiment.toml").exists() else RunFolder.create(place)
    experiments.save(experiment, folder.experiment)
    phase = Phase(until=search.supernet, span=search.supernet)
    coordinator = Coordinator(experiment, dataset, network, folder, on_round, say, phase=phase)
    outcome = coordinator.run()
    if outcome.interrupted:
        raise KeyboardInterrupt
    found = checkpoint.latest(folder.checkpoint)
    assert found is not None
    arrays.save(search.path / FILE, dict(found.state.bundles["weights"]))


def taught(search: Search, model: Any) -> float:
    """Give a candidate its part of the supernet; return what share of its weights that is.

    Raises:
        RunFolderError: the supernet's file is damaged.
    """
    if not search.supernet:
        return 0.0
    try:
        shared, _ = arrays.load(search.path / FILE)
    except EdgekitError as error:
        raise RunFolderError(f"{search.path / FILE} is damaged ({error}): {ANEW}") from None
    own = trained_weights(model)
    part = part_of(shared, {name: array.shape for name, array in own.items()})
    load_weights(model, part)
    return sum(array.size for array in part.values()) / max(1, sum(array.size for array in own.values()))


def _settings(search: Search) -> list[list[str]]:
    """Return the candidates that share, as settings; of many, so many as are drawn."""
    every = list(itertools.islice(itertools.product(*search.space.values()), 100_000))
    if len(every) > MOST:
        every = sorted(random.Random(search.seed).sample(every, MOST))
    return [[f"{key}={value}" for key, value in zip(search.space, values, strict=True)] for values in every]


def _differs(experiment: Experiment, model: dict[str, Any]) -> dict[str, Any]:
    """Return what differs in a candidate's [model] section."""
    return {key: value for key, value in experiment.model.model_dump().items() if value != model[key]}
