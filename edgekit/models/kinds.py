"""Kinds of examples that networks are made for, and a usual shape of each."""

SHAPES: dict[str, tuple[int, ...]] = {
    "image": (1, 28, 28),
    "audio": (1, 32, 31),
    "sequence": (6, 64),
    "graph": (40, 44),
    "table": (16,),
    "events": (2, 34, 34),
}
"""Shape of one example: grey images, log-mel pictures of a second, 64 frames of 6 numbers, graphs of 40 nodes with four
features, rows of 16 columns, counts of events of both signs."""


def usual_shape(network: object) -> tuple[int, ...]:
    """Return the shape of examples that a network of the zoo is shown with; images where it says nothing."""
    return SHAPES[getattr(network, "inputs", ("image",))[0]]
