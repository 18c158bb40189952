"""A network of log-mel features as a .tflite that takes sound itself: the features are computed inside."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekit.arrays import Array
from edgekit.data.audio import log_mel, mel_filters
from edgekit.data.settings import LOG_MEL, SOUND, Audio, audio_of
from edgekit.errors import ExportError
from edgekit.export import runtimes
from edgekit.export.convert import to_float32
from edgekit.export.metadata import add_metadata
from edgekit.export.tflite import own_scores
from edgekit.export.verify import run_examples
from edgekit.runfolder import write_whole

FILE = "sound.tflite"
LARGEST_FEATURE_ERROR = 1e-4
"""Of a feature, which lies from 0 to 1.5."""
TRIED = 16
"""Sounds that a file is tried with."""


class LogMel(nn.Module):
    """`edgekit.data.audio.log_mel` in torch: the discrete Fourier transform is a convolution with a stride.

    Args:
        settings: how features are made.

    Attributes:
        samples: of an example.
    """

    filters: Tensor
    waves: Tensor

    def __init__(self, settings: Audio) -> None:
        super().__init__()
        window = round(settings.sample_rate * settings.window_ms / 1000)
        self.hop = round(settings.sample_rate * settings.hop_ms / 1000)
        self.samples = max(round(settings.sample_rate * settings.seconds), window)
        turn = 2 * np.pi * np.outer(np.arange(window // 2 + 1), np.arange(window)) / window
        waves = np.concatenate([np.cos(turn), -np.sin(turn)]) * np.hanning(window) / (window / 4)
        self.register_buffer("waves", torch.from_numpy(waves[:, None].astype(np.float32)))
        filters = mel_filters(settings.mel_bands, window, settings.sample_rate)
        self.register_buffer("filters", torch.from_numpy(filters.astype(np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        """Map samples from -1 to 1, (batch, samples), to features (batch, 1, mel bands, frames)."""
        parts = nn.functional.conv1d(x.unsqueeze(1), self.waves, stride=self.hop)
        real, imaginary = parts.chunk(2, 1)
        energy = (real * real + imaginary * imaginary).transpose(1, 2) @ self.filters.T
        decibels = torch.log(energy.clamp(min=1e-8)) * (10 / np.log(10))
        features: Tensor = (decibels / 80 + 1).clamp(0, 1.5).transpose(1, 2).unsqueeze(1)
        return features


def settings_of(normalisation: dict[str, Any]) -> Audio:
    """Return how a dataset's features are made.

    Raises:
        ExportError: they are none of sound.
    """
    if normalisation.get("features") != LOG_MEL:
        raise ExportError("export.front_end is for networks of recordings (data.source audio:FOLDER): set it to false")
    return audio_of(normalisation, Audio())


def tried(settings: Audio, samples: int) -> Array:
    """Return sounds to try a file with, (TRIED, samples): tones over noise, from loud to silent."""
    rng = np.random.default_rng(0)
    time = np.arange(samples) / settings.sample_rate
    found = []
    for place in range(TRIED):
        tone = np.sin(2 * np.pi * rng.uniform(50, settings.sample_rate / 2.2) * time)
        found.append(10.0 ** (-place / 4) * (0.6 * tone + 0.2 * rng.standard_normal(samples)))
    sounds: Array = np.clip(np.stack(found), -1, 1).astype(np.float32)
    return sounds


def write_sound(
    model: nn.Module, normalisation: dict[str, Any], classes: list[str], folder: Path, card: dict[str, Any],
    claimed: list[str],
) -> dict[str, Any]:  # fmt: skip
    """Write `folder/sound.tflite`, held against features made by numpy and the network's scores for them.

    Args:
        model: the trained network, of log-mel features.
        normalisation: how they were made.
        classes: names of the scores.
        folder: where the file goes.
        card: facts for the metadata.
        claimed: runtimes that it shall run in.

    Returns:
        `path`, `bytes`, the `samples` that it takes, the largest errors of a feature and, relative to the largest, of a
        score, and the median `latency_us` in each runtime.

    Raises:
        ExportError: it cannot be converted, or gives other features or scores.
    """
    runtimes.check(claimed)
    settings = settings_of(normalisation)
    front = LogMel(settings).eval()
    sounds = tried(settings, front.samples)
    features = np.stack([log_mel(sound, settings) for sound in sounds])
    with torch.no_grad():
        wrong = float(np.abs(front(torch.from_numpy(sounds)).numpy() - features).max())
    if not wrong <= LARGEST_FEATURE_ERROR:
        raise ExportError(f"features made inside {FILE} differ by {wrong:.2g}")
    content = to_float32(nn.Sequential(front, model), (front.samples,))
    expected = own_scores(model, features)
    largest, worst, latency = max(1.0, float(np.abs(expected).max())), 0.0, {}
    for runtime in claimed:
        ran = run_examples(content, sounds, runtime)
        error = float(np.abs(ran.scores - expected).max()) / largest
        if not error <= 10 * LARGEST_FEATURE_ERROR:
            raise ExportError(f"in {runtime} {FILE} differs from the network by {error:.2g} of the largest score")
        worst = max(worst, error)
        latency[runtimes.label(runtime)] = ran.latency.median
    facts = {
        "kind": SOUND,
        "input": {
            "shape": [1, front.samples],
            "dtype": "float32",
            "layout": "NC",
            "normalisation": {**normalisation, "features": SOUND},
        },
        "output": {"labels": classes},
    }
    write_whole(folder / FILE, add_metadata(content, {**facts, **card}))
    return {
        "path": str(Path(folder.name) / FILE),
        "bytes": (folder / FILE).stat().st_size,
        "samples": front.samples,
        "max_feature_error": float(f"{wrong:.3g}"),
        "max_error": float(f"{worst:.3g}"),
        "latency_us": latency,
    }
