"""Data that a program has in memory: arrays, tables of pandas, polars or arrow, data sets of other libraries."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.arrays import Array
from edgekit.data import hub, tables
from edgekit.data.columns import Raw
from edgekit.data.federated import ArraySource, FederatedDataset, Source
from edgekit.data.files import array_source
from edgekit.data.settings import Data
from edgekit.errors import DataError, MissingExtraError

KINDS = (
    "(x, y), (x, y, groups), a table (pandas, polars, pyarrow), a torch Dataset, a scikit-learn Bunch, a Hugging Face "
    "dataset or a FederatedDataset"
)


def loaded(given: Any, where: str, settings: Data) -> FederatedDataset | tuple[Source, Source | None]:
    """Return an object as a source, or as the data set that it is.

    Args:
        given: one of `KINDS`.
        where: for messages.
        settings: the experiment's [data] section: `table` and `hub` name columns.

    Raises:
        DataError: it is something else, or does not hold what it should.
    """
    if isinstance(given, FederatedDataset):
        return given
    try:
        return _source(given, where, settings), None
    except (DataError, MissingExtraError):
        raise
    except Exception as error:  # whatever somebody's object raises
        raise DataError(f"{where} cannot be read: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _source(given: Any, where: str, settings: Data) -> Source:
    package = type(given).__module__.partition(".")[0]
    if package == "datasets" and hasattr(given, "column_names") and hasattr(given, "with_format"):
        return hub.of_table(given, where, settings.hub, settings.images)
    if (table := as_arrow(given)) is not None:
        return tables.of_table(table, settings.table, where)
    if isinstance(given, tuple | list) and len(given) in (2, 3) and all(_is_array(part) for part in given):
        x, y, *groups = (array(part) for part in given)
        return array_source(x, y, where, groups=groups[0] if groups else None)
    if isinstance(given, Mapping):
        return _of_mapping(given, where, settings)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__") and not isinstance(given, str | tuple | list):
        return _of_items(given, where)
    raise DataError(f"{where} is {type(given).__name__}: give {KINDS}")


def as_arrow(given: Any) -> Any:
    """Return a table as arrow's, None if it is none.

    Raises:
        MissingExtraError: pyarrow is not installed.
    """
    package = type(given).__module__.partition(".")[0]
    if package not in ("pandas", "polars", "pyarrow") or not (hasattr(given, "columns") or package == "polars"):
        return None
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtraError("pyarrow", "tables") from None
    if package == "pandas":
        names = [str(name) for name in given.columns]
        if twice := [name for name in names if names.count(name) > 1]:
            raise DataError(f"the table has two columns {twice[0]!r}")
        return pa.table({str(name): _as_column(given[name]) for name in given})
    if package == "polars":
        return (given.collect() if hasattr(given, "collect") else given).to_arrow()
    return given if isinstance(given, pa.Table) else pa.Table.from_batches([given])


def _as_column(values: Any) -> Any:
    """Return a column of pandas as arrow's; what mixes numbers and texts is texts."""
    import pyarrow as pa

    try:
        return pa.Array.from_pandas(values)
    except (pa.ArrowException, TypeError, ValueError):
        return pa.array([None if one is None or one != one else str(one) for one in values], pa.string())


def _is_array(part: Any) -> bool:
    return hasattr(part, "__array__") or isinstance(part, list | tuple)


def array(part: Any) -> Array:
    """Return an array or tensor as numpy's."""
    if hasattr(part, "detach"):  # a tensor, perhaps on another device
        part = part.detach().cpu()
    return np.asarray(part)


def _of_mapping(given: Mapping[str, Any], where: str, settings: Data) -> Source:
    """Read what scikit-learn calls a bunch, or arrays by name, as an .npz holds them."""
    if "data" in given and "target" in given:
        names = given.get("target_names")
        x = given["images"] if "images" in given else given["data"]
        if type(x).__module__.partition(".")[0] == "pandas":
            frame = x.assign(target=given["target"])
            table = settings.table.model_copy(update={"label": "target"})
            return _source(frame, where, settings.model_copy(update={"table": table}))
        x, y = array(x), array(given["target"])
        if "images" not in given and x.ndim == 2:
            return _of_columns(x, y, names, given.get("feature_names"), where, settings)
        scale = float(x.max()) if "images" in given and x.dtype.kind == "f" and x.max() > 1 else None
        classes = None if names is None or y.dtype.kind == "f" else [str(name) for name in names]
        return array_source(x, y, where, classes=classes, scale=scale)
    if "x" in given and "y" in given:
        groups = None if given.get("groups") is None else array(given["groups"])
        return array_source(array(given["x"]), array(given["y"]), where, groups=groups)
    raise DataError(f"{where} holds {', '.join(map(str, given)) or 'nothing'}; it needs x and y, or data and target")


def _of_columns(x: Array, y: Array, classes: Any, headings: Any, where: str, settings: Data) -> tables.TableSource:
    """Read a bunch's numbers as a table: they are brought to one scale."""
    names = [str(name) for name in headings] if headings is not None else [f"x{place}" for place in range(x.shape[1])]
    if len(names) != x.shape[1] or len(x) != len(y) or y.ndim != 1:
        raise DataError(f"{where}: data of shape {x.shape}, target of {y.shape}, {len(names)} feature_names")
    raw = {name: Raw("number", np.asarray(x[:, place], np.float64)) for place, name in enumerate(names)}
    if classes is not None and y.dtype.kind in "ui" and y.min() >= 0 and y.max() < len(classes):
        raw["target"] = Raw("category", y.astype(np.int32), tuple(str(name) for name in classes))
    else:
        raw["target"] = Raw("number", np.asarray(y, np.float64))
    table = settings.table.model_copy(update={"label": "target"})
    return tables.source(raw, table, where, None)


def _of_items(given: Any, where: str) -> ArraySource:
    """Read a map-style data set, as torch's: its items are (x, y)."""
    first = given[0]
    if not (isinstance(first, tuple | list) and len(first) in (2, 3)):
        raise DataError(f"{where}: its items are {type(first).__name__}; (x, y) or (x, y, group) are needed")
    items = [given[place] for place in range(len(given))]
    x, y, *groups = ([array(item[part]) for item in items] for part in range(len(first)))
    if shapes := {one.shape for one in x} - {x[0].shape}:
        raise DataError(f"{where}: its examples have several shapes, {x[0].shape} and {min(shapes)}: resize them")
    names = getattr(given, "classes", None)
    labels = np.stack(y)
    known = isinstance(names, list | tuple) and labels.dtype.kind in "ui" and all(isinstance(n, str) for n in names)
    whose = np.stack(groups[0]) if groups else None
    return array_source(
        np.stack(x), labels, where, groups=whose, classes=[str(name) for name in names or []] if known else None
    )
