"""Checkpoints: everything a run needs to go on with the same bits, one file a round, without pickle."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit import arrays
from edgekit.algorithms.base import AVERAGE, BEST, DEVICES, HISTORY, OF_TRANSFORMS, State
from edgekit.arrays import Weights
from edgekit.asks import BUFFERS, WEIGHTS, packed, unpacked
from edgekit.errors import EdgekitError, RunFolderError, TrainingError

KEPT = 2
"""The newest checkpoints that stay; an older one is there in case the newest is damaged."""
GOOD = "good.safetensors"
"""Of real devices' best model, on the server's own examples: what to go back to where all later ones are bad."""


WORST = -1e30
"""Of scores; JSON has no infinity."""


@dataclass(frozen=True)
class Checkpoint:
    """The loop's state after a round.

    Attributes:
        round: the last finished round.
        state: the method's.
        average: running mean of the global weights, {} before averaging starts.
        averaged: how many rounds are in the mean.
        method: the name of the federated method; "" where that was not written down.
        transforms: what the server remembers of each, () before the first round.
        buffers: running statistics of the network.
        ledger: head of the ledger of spent privacy; "" without.
        best: the global model that was best on the server's own examples, {} where none is kept.
        best_score: there.
        phase: number of the phase in which it was trained (see `edgekit.compression.phases`).
        devices: simulated devices' clock and batteries, {} without.
        history: what a selector knows of clients, {} of one that looks at nothing.
    """

    round: int
    state: State
    average: Weights = field(default_factory=dict)
    averaged: int = 0
    method: str = ""
    transforms: Sequence[State] = ()
    buffers: Weights = field(default_factory=dict)
    ledger: str = ""
    best: Weights = field(default_factory=dict)
    best_score: float = WORST
    phase: int = 0
    devices: Weights = field(default_factory=dict)
    history: Weights = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint, *, good: bool = False) -> None:
    """Write a checkpoint whole, then remove those beyond the newest two; a good one is kept longer."""
    of_transforms: Mapping[str, Weights] = {
        f"{_of_transform(place)}{name}": held
        for place, one in enumerate(checkpoint.transforms)
        for name, held in one.bundles.items()
    }
    own = {
        AVERAGE: checkpoint.average,
        BUFFERS: checkpoint.buffers,
        BEST: checkpoint.best,
        DEVICES: checkpoint.devices,
        HISTORY: checkpoint.history,
    }
    flat = packed({**checkpoint.state.bundles, **of_transforms, **own})
    description = {
        "round": checkpoint.round,
        "averaged": checkpoint.averaged,
        "method": checkpoint.method,
        "facts": dict(checkpoint.state.facts),
        "empty": [name for name, held in {**checkpoint.state.bundles, **of_transforms}.items() if not held],
        "transforms": [dict(one.facts) for one in checkpoint.transforms],
        "ledger": checkpoint.ledger,
        "best_score": checkpoint.best_score,
        "phase": checkpoint.phase,
    }
    arrays.save(folder / f"round-{checkpoint.round:06d}.safetensors", flat, description)
    if good:
        arrays.save(folder / GOOD, flat, description)
    for old in sorted(folder.glob("round-*.safetensors"))[:-KEPT]:
        with contextlib.suppress(OSError):
            old.unlink()


def latest(folder: Path, say: Callable[[str], None] = lambda line: None) -> Checkpoint | None:
    """Return the newest checkpoint that can be read; None if there is none.

    Args:
        folder: of the checkpoints.
        say: called with a line for people where a newer one is damaged.

    Raises:
        RunFolderError: there are checkpoints, but none can be read.
    """
    problem = None
    kept = [folder / GOOD] if (folder / GOOD).exists() else []
    for path in [*sorted(folder.glob("round-*.safetensors"), reverse=True), *kept]:
        try:
            flat, description = arrays.load(path)
            groups = unpacked(flat)
            average, buffers = groups.pop(AVERAGE, {}), groups.pop(BUFFERS, {})
            best, devices, history = (groups.pop(name, {}) for name in (BEST, DEVICES, HISTORY))
            groups |= {str(name): {} for name in description.get("empty", ())}
            if "facts" not in description:  # as they were when all methods were strategies of Flower's
                description["facts"] = {"strategy": description["strategy"]}
            transforms = []
            for place, facts in enumerate(description.get("transforms", ())):
                own = _of_transform(place)
                names = [name for name in groups if name.startswith(own)]
                transforms.append(State({name.removeprefix(own): groups.pop(name) for name in names}, dict(facts)))
            if problem is not None:
                say(f"{problem}; going on from the checkpoint of round {int(description['round'])}")
            return Checkpoint(
                int(description["round"]),
                State(groups, dict(description["facts"])),
                average,
                int(description["averaged"]),
                str(description.get("method", "")),
                transforms,
                buffers,
                str(description.get("ledger", "")),
                best,
                float(description.get("best_score", description.get("best_accuracy", WORST))),
                int(description.get("phase", 0)),
                devices,
                history,
            )
        except (EdgekitError, KeyError, TypeError, ValueError, AttributeError) as error:
            problem = error
    if problem is not None:
        raise RunFolderError(f"no checkpoint in {folder} can be read: {problem}")
    return None


def with_buffers_apart(found: Checkpoint, first: Checkpoint) -> Checkpoint:
    """Return a checkpoint as it is kept today: statistics, frozen weights and second names were among the weights once.

    Args:
        found: the checkpoint.
        first: one of the same network.

    Raises:
        TrainingError: the method remembers something of what is no weight any more.
    """
    weights, buffers, trained = found.state.bundles[WEIGHTS], first.buffers, first.state.bundles[WEIGHTS]
    if found.buffers or not (set(trained) | set(buffers)) <= set(weights) or set(weights) == set(trained):
        return found
    apart = set(weights) - set(trained)
    others = [held for bundle, held in found.state.bundles.items() if bundle != WEIGHTS]
    facts = json.dumps(dict(found.state.facts))
    if any(f'"{name}"' in facts or any(name in held for held in others) for name in apart):
        raise TrainingError(
            f"the run was begun when strategies saw {min(apart)!r} too, which is no trained weight, and remembers what "
            "it made of it: start a new run"
        )
    bundles = {**found.state.bundles, WEIGHTS: {name: weights[name] for name in trained}}
    return replace(found, state=State(bundles, found.state.facts), buffers={name: weights[name] for name in buffers})


def _of_transform(place: int) -> str:
    return f"{OF_TRANSFORMS}{place}/"
