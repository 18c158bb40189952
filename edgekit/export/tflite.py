"""From a trained network to verified .tflite files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from edgekit.data import FederatedDataset
from edgekit.data.federated import Floats
from edgekit.errors import ExportError
from edgekit.export.convert import OUTPUT, SIGNATURE, device_shape, input_name, to_float32
from edgekit.export.metadata import add_metadata
from edgekit.export.quantise import to_int8
from edgekit.export.verify import run_in_litert, runtime_name
from edgekit.runfolder import write_whole

Preset = Literal["float32", "int8"]

LARGEST_FLOAT32_ERROR = 1e-3
"""Largest difference of a score to torch's, relative to the largest score: rounding gives 1e-6, a bug far more."""


@dataclass(frozen=True)
class Exported:
    """A file that passed its check.

    Attributes:
        path: the file.
        bytes: its size.
        accuracy: on the test set, in LiteRT.
        max_abs_error: largest difference of a score to torch's.
        runtimes: accuracy by runtime.
    """

    path: Path
    bytes: int
    accuracy: float
    max_abs_error: float
    runtimes: dict[str, float]


def export(
    model: nn.Module,
    dataset: FederatedDataset,
    presets: Sequence[Preset],
    folder: Path,
    card: dict[str, Any],
    tolerance: float,
) -> dict[str, Exported]:
    """Write `folder/PRESET.tflite` for each preset, each compared with torch on the whole test set first.

    Args:
        model: the trained network.
        dataset: its test set checks the files; its calibration set, which no client owns, sets int8's ranges.
        presets: number formats.
        folder: where the files go.
        card: facts for the metadata.
        tolerance: accuracy (a fraction) that int8 may lose against torch.

    Raises:
        ExportError: a file cannot be made, or fails its check; a file that fails is not written.
    """
    test = as_device(dataset.test.x)
    with torch.no_grad():
        parts = torch.split(torch.from_numpy(dataset.test.x), 500)
        reference = np.concatenate([model.eval()(part).numpy() for part in parts])
    float32 = to_float32(model, dataset.shape)
    done: dict[str, Exported] = {}
    for preset in presets:
        content = float32
        if preset == "int8":
            content = to_int8(float32, input_name(dataset.shape), as_device(dataset.calibration.x))
        content = add_metadata(content, {**_facts(dataset, preset), **card})
        scores = run_in_litert(content, test)
        accuracy = _check(preset, scores, reference, dataset, tolerance)
        path = folder / f"{preset}.tflite"
        write_whole(path, content)
        error = float(np.abs(scores - reference).max())
        done[preset] = Exported(path, len(content), accuracy, error, {runtime_name(): accuracy})
    return done


def as_device(x: Floats) -> Floats:
    """Bring examples into the file's layout: images channels-last."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x


def _facts(dataset: FederatedDataset, preset: str) -> dict[str, Any]:
    shape = device_shape(dataset.shape)
    return {
        "preset": preset,
        "signature": SIGNATURE,
        "input": {
            "name": input_name(dataset.shape),
            "shape": [1, *shape],
            "layout": "NHWC" if len(shape) == 3 else "NC",
            "dtype": "float32",
            "normalisation": dataset.normalisation,
        },
        "output": {"name": OUTPUT, "labels": dataset.classes},
    }


def _check(preset: str, scores: Floats, reference: Floats, dataset: FederatedDataset, tolerance: float) -> float:
    """Return the file's accuracy.

    Raises:
        ExportError: the scores are not torch's (float32), or lose too much accuracy (int8).
    """
    if scores.shape != reference.shape or not np.isfinite(scores).all():
        raise ExportError(f"{preset}.tflite gives unusable scores of shape {scores.shape} in LiteRT")
    error = np.abs(scores - reference).max() / max(1.0, np.abs(reference).max())
    if preset == "float32" and error > LARGEST_FLOAT32_ERROR:
        raise ExportError(f"float32.tflite differs from torch by {error:.2g} of the largest score in LiteRT")
    labels = dataset.test.y
    accuracy = float((scores.argmax(1) == labels).mean())
    expected = float((reference.argmax(1) == labels).mean())
    # One example is not evidence: on a small test set it may be more than the tolerance.
    if accuracy < expected - max(tolerance, 1.5 / len(labels)):
        raise ExportError(
            f"{preset}.tflite has accuracy {accuracy:.4f} in LiteRT, the network {expected:.4f}: "
            f"that is more than export.tolerance = {tolerance:g} lost"
        )
    return round(accuracy, 6)
