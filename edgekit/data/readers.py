"""What reads each kind of `data.source`: a function a kind, by the names of the registry."""

from pathlib import Path

import numpy as np

from edgekit.data import gestures, tables
from edgekit.data.federated import FederatedDataset, Source
from edgekit.data.settings import Data
from edgekit.errors import DataError
from edgekit.registry import SOURCES

Loaded = tuple[Source, Source | None]
"""Training source, and a test source of its own where the data set has one."""


def digits(place: str, settings: Data) -> Loaded:
    """Scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels (Alpaydin & Kaynak 1998), scaled to 0..1."""
    from sklearn.datasets import load_digits

    from edgekit.data.federated import ArraySource

    images, labels = load_digits(return_X_y=True)
    x = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    names = [str(digit) for digit in range(10)]
    text = "handwritten digits, 1797 images of 8 x 8 pixels"
    scale = {"mean": 0.0, "std": 16.0}
    return ArraySource(x, labels.astype(np.int64), names, text, normalisation=scale), None


def moving_digits(place: str, settings: Data) -> Loaded:
    """Events of handwritten digits that move."""
    from edgekit.data import moving_digits

    return moving_digits.read(settings.events), None


def npz(place: str, settings: Data) -> Loaded:
    """Read arrays of a file."""
    from edgekit.data import files

    return files.read_npz(Path(place))


def table(place: str, settings: Data) -> Loaded:
    """Read a table's file, or a folder of them."""
    return tables.read(place, settings.table), None


def idx(place: str, settings: Data) -> Loaded:
    """Read MNIST's files."""
    from edgekit.data import files

    return files.read_idx(Path(place))


def pictures(place: str, settings: Data) -> Loaded:
    """Read a folder of pictures a class."""
    from edgekit.data import images

    return images.read_folder(Path(place), settings.images), None


def recordings(place: str, settings: Data) -> Loaded:
    """Read recordings as log-mel features."""
    from edgekit.data import audio

    return audio.read_folder(Path(place), settings.audio), None


def event_files(place: str, settings: Data) -> Loaded:
    """Read files of event cameras."""
    from edgekit.data import events

    return events.read_folder(Path(place), settings.events), None


def superpixel_graphs(place: str, settings: Data) -> Loaded:
    """Turn images of another source into graphs."""
    from edgekit.data import superpixels

    if SOURCES.entry(place).path == SOURCES.entry(settings.source).path:
        raise DataError(f"{settings.source}: superpixels are of images; name the images' source, as superpixels:digits")
    from edgekit.data.sources import read_source

    inner = read_source(settings.model_copy(update={"source": place}))
    if isinstance(inner, FederatedDataset):
        raise DataError(f"{place} is shared among clients already: superpixels are made of one source's images")
    train, test = (
        None if one is None else superpixels.as_graphs(one, settings.superpixels, settings.source) for one in inner
    )
    assert train is not None
    return train, test


def hub_dataset(place: str, settings: Data) -> Loaded:
    """Read a data set of the `datasets` library."""
    from edgekit.data import hub

    return hub.read(place, settings.hub, settings.images)


def hand_gestures(place: str, settings: Data) -> Loaded:
    """Accelerations of hand movements."""
    return gestures.read(), None


def machine_sounds(place: str, settings: Data) -> Loaded:
    """Sounds of machines, some of them not normal."""
    from edgekit.data import machine_sounds

    return machine_sounds.read(), None


def presence(place: str, settings: Data) -> Loaded:
    """Pictures in which there is a digit, or not."""
    from edgekit.data import presence

    return presence.read(), None
