"""What a person does at the phone to give a task its examples."""

from typing import Any, Literal

from edgekit.clients.node.agreement import words
from edgekit.clients.node.task_facts import TaskFacts

Activity = Literal["draw", "speak", "move"]
SMALLEST, LARGEST = 8, 64
"""Sides of pictures that can be drawn with a finger."""


def activity_of(facts: TaskFacts) -> Activity | None:
    """Return what examples of a task are made by; None if a phone cannot make them."""
    kind = facts.data.source.partition(":")[0]
    if kind == "gestures":
        return "move"
    if kind == "audio":
        return "speak"
    shape = facts.shape
    if len(shape) == 3 and shape[0] == 1 and shape[1] == shape[2] and SMALLEST <= shape[1] <= LARGEST:
        return "draw"
    return None


def told(facts: TaskFacts) -> dict[str, Any]:
    """Return what the page needs to know of a task."""
    return {
        "run": facts.run,
        "activity": activity_of(facts),
        "source": facts.data.source.partition(":")[0],
        "audio": facts.data.audio.model_dump(),
        "shape": list(facts.shape),
        "classes": facts.classes,
        "privacy": words(facts),
        "planned": None if facts.planned is None else facts.planned.model_dump(),
        "counts": facts.counts,
    }
