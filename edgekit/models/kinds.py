"""Kinds of examples that networks are made for, and a usual shape of each."""

import inspect
from typing import Any

SHAPES: dict[str, tuple[int, ...]] = {
    "image": (1, 28, 28),
    "audio": (1, 32, 31),
    "sequence": (6, 64),
    "graph": (40, 44),
    "table": (16,),
    "tokens": (32,),
    "two inputs": (800,),
}
"""Shape of one example: grey images, log-mel pictures of a second, 64 frames of 6 numbers, graphs of 40 nodes with four
features, rows of 16 columns, 32 tokens, a grey image and 16 numbers in one row."""


def inputs_of(network: object) -> tuple[str, ...]:
    """Return the kinds that a network is made for, the first of all its own; images where it says nothing."""
    found: tuple[str, ...] = getattr(network, "inputs", ("image",))
    return found


def usual_shape(network: object) -> tuple[int, ...]:
    """Return the shape of examples that a network of the zoo is shown with."""
    return SHAPES[inputs_of(network)[0]]


def usual_arguments(network: object) -> dict[str, Any]:
    """Return the arguments that a network of the zoo is shown with on its usual shape."""
    found: dict[str, Any] = getattr(network, "usual", {})
    return found


def aim_of(network: object) -> str:
    """Return the objective that a network is made for."""
    found: str = getattr(network, "aim", "cross-entropy")
    return found


def searched_of(network: object) -> dict[str, tuple[str, ...]]:
    """Return what a search varies of a network, by key of an experiment, as texts: its own `searched`, or the width."""
    found: dict[str, tuple[str, ...]] = getattr(network, "searched", {})
    if found or not callable(network):
        return dict(found)
    known = inspect.signature(network).parameters
    found = {"model.width": ("0.25", "0.35", "0.5", "0.75", "1.0", "1.5")} if "width" in known else {}
    return {**found, **({"model.norm": ("none", "group", "weight-standardised")} if "norm" in known else {})}


LEARNS = {"norm": "group", "learning_rate": 0.05, "momentum": 0.9, "schedule": "cosine", "warm_up": 3}
"""What most networks learn with, without privacy: keys of [model] and [training]."""


def learns_with(network: object) -> dict[str, object]:
    """Return what a network of the zoo learns with: its own `learns` goes before what most do."""
    return {**LEARNS, **getattr(network, "learns", {})}
