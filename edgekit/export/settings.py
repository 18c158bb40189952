"""[export]: the files for phones and boards."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from edgekit.errors import ExperimentError
from edgekit.registry import PRESETS
from edgekit.section import Positive, Section


def _known(preset: str) -> str:
    try:
        PRESETS.entry(preset)
    except ExperimentError as error:
        raise ValueError(str(error).removeprefix(f"{PRESETS.key} {preset!r} ")) from None
    return preset


Preset = Annotated[str, AfterValidator(_known)]
"""A number format's name, in the registry."""
Runtime = Literal["ai-edge-litert", "tflite-runtime", "tflite-micro"]


class Export(Section):
    """The files for phones and boards."""

    presets: list[Preset] = ["float32", "int8"]
    """Number formats of the .tflite files: `float32`, `float16`, `int8-weights`, `int8-dynamic`, `int8`, `int8-mixed`,
    `int8-full`, `int16`, `int4` ([tflite.md](tflite.md)), those of installed packages, or `package.module:name`."""
    percentile: Annotated[float, Field(gt=50, le=100)] = 100.0
    """Share of an activation's values, in percent, that integer ranges hold; what is rarer saturates."""
    equalise: bool = False
    """Whether channels are brought to like ranges before they become integers (cross-layer equalisation)."""
    tolerance: Positive = 0.01
    """How much accuracy a file may lose against the network before it counts as broken (a fraction)."""
    runtimes: list[Runtime] = Field(default=["ai-edge-litert"], min_length=1)
    """The runtimes that the files are claimed to run in; each file is checked in each of them."""
    front_end: bool = False
    """Whether to write `sound.tflite` too, of networks of recordings: it takes samples, and makes the features."""
    training: bool = False
    """Whether to write the training graph too, which devices train with."""
    training_batch: Annotated[int, Field(ge=1, le=1024)] = 16
    """Examples a step of it."""
    licence: str = ""
    """Of the model, for the files' cards."""
