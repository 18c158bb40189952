"""`edgekit split attack`: what an honest-but-curious split server learns, without defences and with each."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit.algorithms.split import attack
from edgekit.algorithms.split.server import choose_cut, in_parts
from edgekit.data import Examples, FederatedDataset
from edgekit.data.batches import LocalTask
from edgekit.data.federated import Floats
from edgekit.errors import DataError, EdgekitError, UsageError
from edgekit.experiment import Experiment
from edgekit.pipeline.subjects import build_network, load_dataset
from edgekit.randomness import generator
from edgekit.report import rebuilt_picture, standalone, style
from edgekit.runfolder import RunFolder, write_whole
from edgekit.server.loop.evaluation import evaluate
from edgekit.server.loop.sync import Coordinator

VICTIMS = 64
LEAST_OWN, OWN = 10, 2000
"""Test examples from which the server learns to rebuild others."""
SHOWN = 10
LOOSE_EPSILON = 100.0
"""Of the second row with noise: as little of it as an experiment may ask for."""
DEFAULT_NO_PEEK = 1.0


def attack_split(
    experiment: Experiment, out: Path, say: Callable[[str], None], on_stage: Callable[[str], None]
) -> dict[str, Any]:
    """Train with each defence, attack one client's next round, and write `attack.json` and `rebuilt.svg`.

    Args:
        experiment: with a cut.
        out: folder for both, new or empty.
        say: called with a line for people.
        on_stage: called with a defence's name before it is trained.

    Raises:
        UsageError: the experiment has no cut, or the folder holds something.
        EdgekitError: it cannot be trained so.
    """
    if not experiment.split.cut:
        raise UsageError("there is nothing to attack: say where the network is cut, as in split.cut=auto")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty: give another --out")
    torch.set_num_threads(1)
    dataset = load_dataset(experiment)
    if len(dataset.test) < LEAST_OWN:
        raise DataError(
            f"the server learns from its test examples how to rebuild others, and has {len(dataset.test)}: it takes "
            f"{LEAST_OWN} at least"
        )
    if experiment.split.cut == "auto":
        plain = build_network(experiment, dataset)
        chosen = choose_cut(experiment.split, experiment.training.plain(), plain, dataset, say)
        experiment = experiment.model_copy(update={"split": chosen})
    victims = _victims(dataset)
    rows: list[dict[str, Any]] = []
    pictures: dict[str, Floats] = {}
    for name, defended in _defences(experiment, say):
        on_stage(name)
        try:
            row, rebuilt, x = _attacked(name, defended, dataset, victims)
        except EdgekitError as error:
            if not rows:
                raise
            say(f"no row for {name}: {error}")
            continue
        pictures["original"] = x[:SHOWN]
        pictures[name] = rebuilt[:SHOWN]
        rows.append(row)
    found = {
        "cut": experiment.split.cut, "labels": experiment.split.labels, "rounds": experiment.federation.rounds,
        "victims": len(victims), "chance": float(np.bincount(victims.y).max() / len(victims)), "defences": rows,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    RunFolder(out).write_json(out / "attack.json", found)
    if len(dataset.shape) == 3:
        write_whole(out / "rebuilt.svg", standalone(rebuilt_picture(pictures), style()))
    return found


def _defences(experiment: Experiment, say: Callable[[str], None]) -> list[tuple[str, Experiment]]:
    """Return the experiment without a defence, and with each by itself."""

    def changed(no_peek: float = 0.0, **privacy: Any) -> Experiment:
        return experiment.model_copy(
            update={
                "split": experiment.split.model_copy(update={"no_peek": no_peek}),
                "privacy": experiment.privacy.model_copy(update={"unit": "none", **privacy}),
            }
        )

    no_peek = experiment.split.no_peek or DEFAULT_NO_PEEK
    made = [("none", changed()), (f"NoPeek, weight {no_peek:g}", changed(no_peek))]
    if experiment.split.labels == "server":
        say("no row with noise: the labels are the server's, so examples cannot be protected against it")
        return made
    for epsilon in dict.fromkeys((LOOSE_EPSILON, experiment.privacy.epsilon)):
        made.append((f"noise, epsilon {epsilon:g}", changed(unit="example", noise="client", epsilon=epsilon)))
    return made


def _attacked(
    name: str, experiment: Experiment, dataset: FederatedDataset, victims: Examples
) -> tuple[dict[str, Any], Floats, Floats]:
    """Train, attack, and return the figures, the rebuilt examples, and the examples themselves."""
    model = build_network(experiment, dataset, dataset.calibration.x)
    with tempfile.TemporaryDirectory() as place:
        coordinator = Coordinator(experiment, dataset, model, RunFolder.create(Path(place) / "run"))
        weights = coordinator.run().weights
        settings = coordinator.local_settings
    _, accuracy = evaluate(model, weights, dataset.test)
    task = LocalTask(victims, generator(experiment.seed, "attack", 0), generator(experiment.seed, "attack", 1))
    plan, server = in_parts(experiment.split, model, dataset)
    heard = attack.overhear(plan, server, weights, task, settings)
    own = generator(experiment.seed, "own examples").permutation(len(dataset.test))[:OWN]
    rebuilt = attack.rebuild(plan, weights, dataset.test.x[own], heard.activation, settings, experiment.seed)
    labels: float | None = None
    if heard.gradient is not None:
        guessed = attack.infer_labels(plan, weights, heard, len(dataset.classes))
        labels = float((guessed == heard.y).mean())
    row = {
        "defence": name,
        "accuracy": accuracy,
        "rebuilt": attack.explained(heard.x, rebuilt),
        "recognised": attack.recognised(heard.x, rebuilt),
        "labels": labels,
    }
    return row, rebuilt, heard.x


def _victims(dataset: FederatedDataset) -> Examples:
    """Return the examples of so many clients as are needed, as if of one."""
    held: list[Examples] = []
    for client in range(dataset.clients):
        held.append(dataset.client(client))
        if sum(map(len, held)) >= VICTIMS:
            break
    return Examples(
        np.concatenate([part.x for part in held])[:VICTIMS], np.concatenate([part.y for part in held])[:VICTIMS]
    )


def table(found: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    """Return the figures as rows of text, the heading first."""

    def percent(value: float | None) -> str:
        return "given" if value is None else f"{100 * value:.0f} %"

    heading = ("defence", "accuracy", "rebuilt", "recognised", "labels")
    return [
        heading,
        *(
            (row["defence"], f"{row['accuracy']:.3f}", percent(row["rebuilt"]), percent(row["recognised"]),
             percent(row["labels"]))
            for row in found["defences"]
        ),
    ]  # fmt: skip
