"""`machine-sounds`: what fans sound like, simulated, for anomaly detection: eight machines, most clips normal.

A machine hums at six pitches, each of which swells and fades with every turn; from pitch to pitch the swell comes a
sixth of a turn later. Where a bearing is loose the swells come at any time. Loudness, pace and balance of the pitches
differ from clip to clip, so the mean spectrum tells nothing: what is wrong lies in the order of things. These are
models of sounds, not recordings (of real ones: Koizumi et al. 2019, ToyADMOS; Purohit et al. 2019, MIMII).
"""

import numpy as np

from edgekit.data.audio import features_of, log_mel
from edgekit.data.federated import ArraySource, Floats
from edgekit.data.settings import Audio
from edgekit.randomness import generator

FEATURES = Audio(sample_rate=8000, mel_bands=16, window_ms=64.0, hop_ms=32.0, seconds=1.024)
PITCHES = (1.0, 2.6, 4.8, 8.0, 12.0, 17.0)
MACHINES, NORMAL, ODD = 8, 140, 25
"""Clips of each machine that are normal, and that are not."""


def simulate(machine: int, normal: bool, rng: np.random.Generator) -> Floats:
    """Return one clip's log-mel features, (1, 16, 31)."""
    rate, many = FEATURES.sample_rate, len(PITCHES)
    t = np.arange(round(rate * FEATURES.seconds)) / rate
    pitch = 180 + 5 * machine + rng.uniform(-3, 3)
    turn = 2 * np.pi * rng.uniform(2.5, 3.5) * t + rng.uniform(0, 2 * np.pi)
    late = 2 * np.pi * np.arange(many) / many if normal else rng.uniform(0, 2 * np.pi, many)
    loud = rng.uniform(0.7, 1.3) * rng.uniform(0.7, 1.3, many) / (1 + 0.15 * np.arange(many))
    swell = 0.55 + 0.45 * np.sin(turn + late[:, None])
    tones = np.sin(2 * np.pi * pitch * np.array(PITCHES)[:, None] * t + rng.uniform(0, 2 * np.pi, many)[:, None])
    samples = 0.05 * (loud[:, None] * swell * tones).sum(0) + 0.004 * rng.standard_normal(len(t))
    return log_mel(samples.astype(np.float32), FEATURES)


def read(seed: int = 0) -> ArraySource:
    """Return the source: classes `normal` and `odd`, a group a machine."""
    kinds = [(machine, place < NORMAL) for machine in range(MACHINES) for place in range(NORMAL + ODD)]
    x = np.stack(
        [simulate(machine, normal, generator(seed, "machine sounds", i)) for i, (machine, normal) in enumerate(kinds)]
    )
    return ArraySource(
        x,
        np.array([0 if normal else 1 for _, normal in kinds], np.int64),
        ["normal", "odd"],
        f"simulated machines, {len(kinds)} clips of a second, {MACHINES * ODD} of them not normal",
        np.array([f"machine {machine}" for machine, _ in kinds]),
        features_of(FEATURES),
    )
