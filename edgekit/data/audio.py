"""`audio:` recordings (wav) as log-mel features, read only when a client is sampled."""

import math
import re
import wave
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.data.federated import Floats, Integers
from edgekit.data.images import class_folders
from edgekit.data.settings import LOG_MEL, Audio
from edgekit.errors import DataError, ExperimentError


@dataclass(frozen=True)
class AudioFolder:
    """Wav files with a class each; `load` reads them as they are asked for."""

    files: list[Path]
    labels: Integers
    classes: list[str]
    settings: Audio
    description: str
    groups: NDArray[np.str_] | None = None

    @property
    def normalisation(self) -> dict[str, Any]:
        """Say how features are made: devices must make them alike."""
        return features_of(self.settings)

    def load(self, indices: Integers) -> Floats:
        """Return log-mel features, (examples, 1, mel bands, frames).

        Raises:
            DataError: a file is not a wav of the expected sample rate; the message names it.
        """
        return np.stack([log_mel(read_wav(self.files[i], self.settings.sample_rate), self.settings) for i in indices])


def features_of(settings: Audio) -> dict[str, Any]:
    """Return a source's `normalisation`: all that `audio_of` needs to make the same features of other sounds."""
    return {"mean": 0.0, "std": 1.0, "features": LOG_MEL, **settings.model_dump(exclude={"pattern"})}


def read_folder(folder: Path, settings: Audio) -> AudioFolder:
    """List recordings: one subfolder a class, or by `settings.pattern` on the file names.

    The pattern is a regular expression with the group `label` and optionally `group`, as in
    `(?P<label>\\d)_(?P<group>\\w+)_\\d+\\.wav`.

    Raises:
        ExperimentError: the pattern is not a regular expression, or lacks the group `label`.
        DataError: no recordings.
    """
    if not settings.pattern:
        files, labels, classes = class_folders(folder, {".wav"})
        return AudioFolder(files, labels, classes, settings, f"{folder}, {len(files)} recordings")
    try:
        pattern = re.compile(settings.pattern)
    except re.error as error:
        raise ExperimentError(f"data.audio.pattern is not a regular expression: {error}") from None
    if "label" not in pattern.groupindex:
        raise ExperimentError("data.audio.pattern needs a group named label, as in (?P<label>\\d)_.*\\.wav")
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    matches = [(file, match) for file in sorted(folder.rglob("*.wav")) if (match := pattern.fullmatch(file.name))]
    if not matches:
        raise DataError(f"{folder}: no .wav file name matches data.audio.pattern {settings.pattern!r}")
    names, labels = np.unique([match["label"] for _, match in matches], return_inverse=True)
    groups = np.array([match["group"] for _, match in matches]) if "group" in pattern.groupindex else None
    text = f"{folder}, {len(matches)} recordings"
    return AudioFolder(
        [file for file, _ in matches], labels.astype(np.int64), [str(name) for name in names], settings, text, groups
    )


def read_wav(path: Path, sample_rate: int) -> Floats:
    """Return a recording's samples in -1..1, its channels averaged; of another rate it is resampled.

    Raises:
        DataError: not a PCM wav file, or one of another rate where scipy is not installed.
    """
    try:
        with wave.open(str(path)) as file:
            rate, channels, size = file.getframerate(), file.getnchannels(), file.getsampwidth()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise DataError(f"{path} is not a readable wav file: {error or 'it is cut short'}") from None
    if size not in (1, 2, 4):
        raise DataError(f"{path} has {8 * size}-bit samples; 8, 16 or 32 bits are read")
    data = data[: len(data) // (size * channels) * (size * channels)]
    samples = np.frombuffer(data, {1: "<u1", 2: "<i2", 4: "<i4"}[size]).astype(np.float32)
    samples = samples / np.float32(128) - 1 if size == 1 else samples / np.float32(2.0 ** (8 * size - 1))
    mono: Floats = samples.reshape(-1, channels).mean(1)
    return mono if rate == sample_rate else _resampled(mono, rate, sample_rate, path)


def _resampled(samples: Floats, rate: int, wanted: int, path: Path) -> Floats:
    """Bring a recording to another rate, by scipy's polyphase filter, which lets nothing alias."""
    try:
        from scipy.signal import resample_poly
    except ImportError:
        raise DataError(
            f"{path} has {rate} samples a second, data.audio.sample_rate is {wanted}: pip install scipy lets it be "
            "resampled; or, if all files have this rate, set data.audio.sample_rate to it"
        ) from None
    if not 1000 <= rate <= 1_000_000:
        raise DataError(f"{path} says that it has {rate} samples a second, which no recording has")
    common = math.gcd(rate, wanted)
    found: Floats = resample_poly(samples, wanted // common, rate // common).astype(np.float32)
    return found


@cache
def mel_filters(bands: int, window: int, sample_rate: int) -> Floats:
    """Return triangular filters with peaks evenly spaced on the mel scale, (bands, window // 2 + 1).

    mel(f) = 2595 log10(1 + f / 700) (O'Shaughnessy 1987); neighbouring triangles overlap by half.
    """
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    edges = np.floor((window + 1) * edges / sample_rate)
    bins = np.arange(window // 2 + 1)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = np.where((bins >= low) & (bins < peak), (bins - low) / np.maximum(peak - low, 1), 0)
    falling = np.where((bins >= peak) & (bins < high), (high - bins) / np.maximum(high - peak, 1), 0)
    return (rising + falling).astype(np.float32)


def log_mel(samples: Floats, settings: Audio) -> Floats:
    """Return log-mel features of one recording, (1, mel bands, frames), scaled to about 0..1.

    The recording is cut or padded with silence to `settings.seconds`. A frame is a Hann window's power spectrum
    through the mel filters; its logarithm is mapped from -80..0 dB below full scale to 0..1.
    """
    window = round(settings.sample_rate * settings.window_ms / 1000)
    hop = round(settings.sample_rate * settings.hop_ms / 1000)
    if window < 2 or hop < 1:
        raise ExperimentError("data.audio: window_ms and hop_ms must hold at least two samples and one")
    length = max(round(settings.sample_rate * settings.seconds), window)
    samples = np.pad(samples[:length], (0, max(0, length - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window))) ** 2 / (window / 4) ** 2
    energy = power @ mel_filters(settings.mel_bands, window, settings.sample_rate).T
    decibels = 10 * np.log10(np.maximum(energy, 1e-8))
    return np.clip(decibels / 80 + 1, 0, 1.5).T[None].astype(np.float32)
