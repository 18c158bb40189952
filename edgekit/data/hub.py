"""`hf:` a data set of the `datasets` library: a folder on this machine, or a name it can fetch."""

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.federated import ArraySource
from edgekit.data.files import array_source
from edgekit.data.settings import Hub
from edgekit.errors import DataError, MissingExtraError


def read(place: str, settings: Hub) -> tuple[ArraySource, ArraySource | None]:
    """Load with `datasets.load_from_disk` (a saved folder) or `datasets.load_dataset`.

    Raises:
        MissingExtraError: the `datasets` library is not installed.
        DataError: the data set, a split or a column does not exist.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "hub") from None
    try:
        saved = Path(place).is_dir() and any(Path(place).glob("*.json"))
        found = datasets.load_from_disk(place) if saved else datasets.load_dataset(place)
    except Exception as error:  # the library raises many kinds
        raise DataError(f"hf:{place} cannot be loaded: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        return _source(found, place, settings), None
    for split in filter(None, (settings.train_split, settings.test_split)):
        if split not in found:
            raise DataError(f"hf:{place} has no split {split!r}; it has {', '.join(found)}")
    test = _source(found[settings.test_split], place, settings) if settings.test_split else None
    return _source(found[settings.train_split], place, settings), test


def _source(table: Any, place: str, settings: Hub) -> ArraySource:
    for column in filter(None, (settings.features, settings.label, settings.group)):
        if column not in table.column_names:
            raise DataError(f"hf:{place} has no column {column!r}; it has {', '.join(table.column_names)}")
    table = table.with_format("numpy")
    groups = np.asarray(table[settings.group][:]) if settings.group else None
    classes = getattr(table.features[settings.label], "names", None)
    features, labels = np.asarray(table[settings.features][:]), np.asarray(table[settings.label][:])
    return array_source(features, labels, f"hf:{place}", groups=groups, classes=classes)
