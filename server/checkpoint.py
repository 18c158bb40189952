"""Checkpoints: everything a run needs to go on with the same bits, one file a round, without pickle."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit import arrays
from edgekit.arrays import Weights
from edgekit.errors import EdgekitError, RunFolderError

KEPT = 2
"""The newest checkpoints that stay; an older one is there in case the newest is damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """The coordinator's state after a round.

    Attributes:
        round: the last finished round.
        weights: global weights.
        average: running mean of the global weights, {} before averaging starts.
        averaged: how many rounds are in the mean.
        strategy_arrays: the strategy's arrays.
        strategy: the strategy's other state.
    """

    round: int
    weights: Weights
    average: Weights = field(default_factory=dict)
    averaged: int = 0
    strategy_arrays: Weights = field(default_factory=dict)
    strategy: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole, then remove those beyond the newest two."""
    groups = {"weights": checkpoint.weights, "average": checkpoint.average, "strategy": checkpoint.strategy_arrays}
    flat = {f"{group}:{name}": array for group, held in groups.items() for name, array in held.items()}
    description = {"round": checkpoint.round, "averaged": checkpoint.averaged, "strategy": checkpoint.strategy}
    arrays.save(folder / f"round-{checkpoint.round:06d}.safetensors", flat, description)
    for old in sorted(folder.glob("round-*.safetensors"))[:-KEPT]:
        with contextlib.suppress(OSError):
            old.unlink()


def latest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that can be read; None if there is none.

    Raises:
        RunFolderError: there are checkpoints, but none can be read.
    """
    problem = None
    for path in sorted(folder.glob("round-*.safetensors"), reverse=True):
        try:
            flat, description = arrays.load(path)
            groups: dict[str, Weights] = {"weights": {}, "average": {}, "strategy": {}}
            for name, array in flat.items():
                group, _, rest = name.partition(":")
                groups[group][rest] = array
            return Checkpoint(
                description["round"],
                groups["weights"],
                groups["average"],
                description["averaged"],
                groups["strategy"],
                description["strategy"],
            )
        except (EdgekitError, KeyError, TypeError, ValueError) as error:
            problem = error
    if problem is not None:
        raise RunFolderError(f"no checkpoint in {folder} can be read: {problem}")
    return None
