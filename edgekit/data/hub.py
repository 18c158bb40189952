"""`hf:` a data set of the `datasets` library: a folder on this machine, or a name it can fetch."""

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.data.federated import ArraySource
from edgekit.data.files import array_source
from edgekit.data.settings import Hub, Images
from edgekit.errors import DataError, MissingExtraError


def read(place: str, settings: Hub, images: Images) -> tuple[ArraySource, ArraySource | None]:
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
        return of_table(found, f"hf:{place}", settings, images), None
    for split in filter(None, (settings.train_split, settings.test_split)):
        if split not in found:
            raise DataError(f"hf:{place} has no split {split!r}; it has {', '.join(found)}")
    test = of_table(found[settings.test_split], f"hf:{place}", settings, images) if settings.test_split else None
    return of_table(found[settings.train_split], f"hf:{place}", settings, images), test


def of_table(table: Any, where: str, settings: Hub, images: Images) -> ArraySource:
    """Return a source of one split.

    Raises:
        DataError: a column does not exist, or holds what cannot be read.
    """
    features = [settings.features] if isinstance(settings.features, str) else settings.features
    for column in filter(None, (*features, settings.label, settings.group)):
        if column not in table.column_names:
            raise DataError(f"{where} has no column {column!r}; it has {', '.join(table.column_names)}")
    table = table.with_format("numpy")
    groups = np.asarray(table[settings.group][:]) if settings.group else None
    classes = getattr(table.features[settings.label], "names", None)
    labels = np.asarray(table[settings.label][:])
    x = _examples(table, features, images, where)
    return array_source(x, labels, where, groups=groups, classes=classes)


def _examples(table: Any, columns: list[str], images: Images, where: str) -> Any:
    """Return one column's examples, or several columns of numbers beside each other."""
    if len(columns) > 1:
        each = [np.asarray(table[column][:]) for column in columns]
        for column, values in zip(columns, each, strict=True):
            if values.ndim != 1 or values.dtype.kind not in "uifb":
                raise DataError(f"{where}: the column {column!r} holds no single numbers, as several columns must")
        return np.stack([values.astype(np.float32) for values in each], 1)
    values = table[columns[0]][:]
    try:
        whole = np.asarray(values)
    except ValueError:  # pictures of several sizes
        whole = np.empty(0, object)
    if whole.dtype != object:
        return whole
    try:
        return np.stack([_picture(np.asarray(one), images) for one in values])
    except (TypeError, ValueError, OSError) as error:
        raise DataError(f"{where}: the column {columns[0]!r} holds examples of several shapes: {error}") from None


def _picture(pixels: Any, images: Images) -> Any:
    """Bring a picture to the size that the experiment names."""
    from PIL import Image

    if pixels.dtype != np.uint8:
        raise ValueError(f"pictures of several sizes must be of bytes, not {pixels.dtype}")
    plain = Image.fromarray(pixels).convert("L" if images.grayscale else "RGB")
    return np.asarray(plain.resize((images.width, images.height), Image.Resampling.BILINEAR))
