"""How private steps of a device's and the server's parts are noised. Numpy alone."""

import numpy as np

from edgekit.algorithms.split.hiding import Noise
from edgekit.data.batches import LocalTask
from edgekit.errors import TrainingError
from edgekit.local_settings import LocalSettings


def noise_of_device(settings: LocalSettings, parts: int, task: LocalTask) -> Noise | None:
    """Return the noise of each of a device's parts, None if the round is not private.

    Args:
        settings: the round's instructions.
        parts: that the device has.
        task: the client's data and random numbers.
    """
    if settings.work == "local-dp":
        clip, deviation = settings.clip / parts**0.5, 2 * settings.noise_multiplier * settings.clip
        return Noise(clip, deviation, 0.0, task.noise_rng)
    if settings.work == "dp-sgd":
        return noise_of_parts(settings, parts + 1, len(task.examples), task.noise_rng)
    return None


def noise_of_parts(settings: LocalSettings, parts: int, examples: int, rng: np.random.Generator) -> Noise:
    """Return the noise of one of a network's parts in `dp-sgd`.

    Each part's gradient is clipped by itself, so that all together are no longer than `settings.clip`; with noise of
    the same deviation on each they are one Gaussian mechanism (McMahan et al. 2018, section 3.1: flat clipping of
    layers).

    Args:
        settings: the round's instructions.
        parts: of the whole network, the server's too.
        examples: of the client.
        rng: draws the noise.
    """
    deviation = settings.noise_multiplier * settings.clip
    return Noise(settings.clip / parts**0.5, deviation, settings.sample_rate * examples, rng)


def check_work(settings: LocalSettings, has_tail: bool) -> None:
    """See that split learning does this work.

    Raises:
        TrainingError: it does not.
    """
    if settings.work == "clipped-sum" or settings.update_clip:
        raise TrainingError("split learning protects single examples, in each step, and nothing else")
    if settings.work == "local-dp" and not has_tail:
        raise TrainingError("labels would be sent as they are: keep them on the device, which then has a last part")
