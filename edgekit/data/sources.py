"""From the experiment's `data.source` to a federated dataset."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit import plugins
from edgekit.arrays import Array
from edgekit.data import objects, partition, partitioners, tables, vertical
from edgekit.data.federated import Examples, FederatedDataset, Integers, Source, from_source
from edgekit.data.readers import Loaded
from edgekit.data.settings import ENDINGS, PICTURES, TABLES, Data
from edgekit.data.vertical import VerticalDataset
from edgekit.errors import DataError, ExperimentError
from edgekit.objectives import Objective
from edgekit.objectives.cross_entropy import PLAIN
from edgekit.randomness import generator
from edgekit.registry import SOURCES


def load(
    settings: Data,
    seed: int,
    *,
    whole_groups: bool = False,
    private: bool = False,
    objective: Objective = PLAIN,
) -> FederatedDataset:
    """Load a data set and share it among the clients.

    Args:
        settings: the experiment's [data] section; `source` is `digits`, `moving-digits`, `gestures`, `npz:FILE`,
            `idx:FOLDER`, `csv:FILE`, `parquet:FILE`, `images:FOLDER`, `audio:FOLDER`, `events:FOLDER`, `hf:NAME` or
            `package.module:name`.
        seed: the experiment's seed; the same seed gives the same clients.
        whole_groups: with the natural partition, hold out whole owners for test and calibration, so that no client
            has data in them.
        private: whether nothing may be learnt of clients' examples but by noised training: how a table's columns become
            numbers comes from the server's own then.
        objective: what a label is.

    Raises:
        ExperimentError: no such source.
        DataError: files are missing or corrupt, cannot be shared as asked, or have no labels of the objective's.
    """
    loaded = read_source(settings)
    if isinstance(loaded, FederatedDataset):
        dataset = loaded
    else:
        source, test_source = loaded
        dataset = share(source, test_source, settings, seed, whole_groups, objective, private)
    fitted = objective.fitted(dataset.calibration.y, dataset.classes)
    dataset = replace(dataset, held_back=settings.client_test_fraction, seed=seed, objective=fitted)
    dataset.check(dataset.test, "the test set")
    dataset.check(dataset.calibration, "the calibration set")
    return dataset


def load_vertical(settings: Data, parties: int, coverage: float, seed: int) -> VerticalDataset:
    """Load data whose features lie with several parties.

    Args:
        settings: the experiment's [data] section; `source` is `parties:FOLDER`, `labels:FOLDER`, or any other, whose
            (training) examples are divided.
        parties: how many.
        coverage: share of the people whom each simulated party knows; the tables of a folder are as they are.
        seed: the experiment's.

    Raises:
        ExperimentError, DataError: as of `load`.
    """
    kind, _, place = settings.source.partition(":")
    if kind in (vertical.WHOLE, vertical.SHOWN):
        return vertical.read_folder(Path(place), parties, settings, seed, shown=kind == vertical.SHOWN)
    loaded = read_source(settings)
    if isinstance(loaded, FederatedDataset):
        raise DataError(f"{settings.source} is shared among clients already: divide examples of one source, or tables")
    source = tables.learnt_on(loaded[0], np.arange(len(loaded[0].labels)))
    return vertical.divide(source, parties, coverage, settings, seed)


def load_own(
    settings: Data, classes: list[str], objective: Objective = PLAIN
) -> tuple[Examples, NDArray[np.str_] | None]:
    """Load what one device owns, with the labels of a federation it takes part in, and who owns each example there.

    Args:
        settings: a [data] section whose `source` is the device's own; nothing is held out or shared.
        classes: the federation's, in its order; the device may have examples of a few of them only.
        objective: what a label is.

    Raises:
        DataError: there is no such data, or it has a class that the federation has not.
    """
    return own_of(read_source(settings), settings.source, classes, objective)


def own_of(
    loaded: FederatedDataset | Loaded,
    where: str,
    classes: list[str],
    objective: Objective = PLAIN,
    *,
    by_place: bool = False,
) -> tuple[Examples, NDArray[np.str_] | None]:
    """Return what was loaded with a federation's labels, and who owns each example; errors as of `load_own`.

    Args:
        loaded: a source.
        where: for messages.
        classes: the federation's.
        objective: what a label is.
        by_place: whether whole numbers, none of which names a class, may be places among the classes.
    """
    if isinstance(loaded, FederatedDataset):
        raise DataError(f"{where} is a whole federation's data: name this device's own, or a client of it")
    source, _ = loaded
    if isinstance(source, tables.TableSource) and not source.columns:
        raise DataError(f"{where} is a table, and the federation does not say how columns become numbers")
    labels, names = _labelled(source, where, objective)
    if labels.ndim == 2:
        return Examples(source.load(np.arange(len(labels))), labels), source.groups
    present = [names[label] for label in np.unique(labels)]
    places_of = _as_places(source, present, classes) if by_place else None
    if places_of is not None:
        return Examples(source.load(np.arange(len(labels))), places_of), source.groups
    if unknown := [name for name in present if name not in classes]:
        raise DataError(f"{where} has the class {unknown[0]!r}; the network knows {', '.join(classes[:20])}")
    places = np.array([classes.index(name) if name in classes else -1 for name in names], np.int64)
    return Examples(source.load(np.arange(len(labels))), places[labels]), source.groups


def _as_places(source: Source, present: list[str], classes: list[str]) -> Integers | None:
    """Return labels that are whole numbers as places among classes of other names, None where they are none."""
    values = getattr(source, "values", None)
    if values is None or values.shape[1] != 1 or set(present) & set(classes):
        return None
    if (values != np.rint(values)).any() or values.min() < 0 or values.max() >= len(classes):
        return None
    found: Integers = values[:, 0].astype(np.int64)
    return found


def _labelled(source: Source, where: str, objective: Objective) -> tuple[Array, list[str]]:
    """Return a source's labels as an objective takes them, and the names of classes or numbers.

    Raises:
        DataError: it has none of this sort.
    """
    values = getattr(source, "values", None)
    if objective.labels in ("flags", "values"):
        if values is None:
            raise DataError(
                f"{where}: the objective {objective.name} takes numbers as labels, (examples, numbers) or (examples,); "
                "these are names: leave [objective] out to learn classes"
            )
        many, what = values.shape[1], "value" if objective.labels == "values" else "label"
        return values, [what] if many == 1 else [f"{what} {i}" for i in range(many)]
    if source.classes:
        return source.labels, source.classes
    assert values is not None
    if objective.labels == "class" and values.shape[1] > 1:
        return values, [str(i) for i in range(values.shape[1])]  # soft labels
    raise DataError(
        f"{where}: labels must be whole numbers from 0, or names; these are {values.dtype}: numbers are learnt with "
        'objective.name = "regression"'
    )


def source_for(given: str) -> str:
    """Return the source that reads a file or folder by what it is; the name of a source stays as it is.

    Raises:
        DataError: nothing reads it.
    """
    path = Path(given)
    if path.is_file() and path.suffix in ENDINGS:
        return f"{ENDINGS[path.suffix]}:{given}"
    if path.is_dir():
        counts = Counter(one.suffix.lower() for one in path.rglob("*") if one.is_file())
        totals = {
            kind: sum(counts[ending] for ending in endings)
            for kind, endings in (("images", PICTURES), ("audio", (".wav",)), ("csv", TABLES))
        }
        kind = max(totals, key=lambda one: totals[one])
        if not totals[kind]:
            raise DataError(f"{given} holds no pictures, .wav files or tables")
        return f"{kind}:{given}"
    if path.exists() and given not in SOURCES:
        raise DataError(f"{given}: give a .csv, .parquet or .npz, or a folder with one subfolder a class")
    return Data(source=given).source


def read_source(settings: Data) -> FederatedDataset | Loaded:
    """Return a source's examples, not shared out yet, or the data set that it is.

    Raises:
        ExperimentError: there is none of this name.
        DataError: it cannot be read.
    """
    entry = SOURCES.entry(settings.source)
    if entry.path == settings.source:
        return _from_object(settings.source, settings)
    read: Callable[[str, Data], Loaded] = SOURCES.load(settings.source)
    return read(settings.source.partition(":")[2], settings)


def share(
    source: Source,
    test_source: Source | None,
    settings: Data,
    seed: int,
    whole_groups: bool = False,
    objective: Objective = PLAIN,
    private: bool = False,
) -> FederatedDataset:
    """Hold out the test and calibration sets, and give the rest to the clients.

    Args:
        source: all examples, or those to train with.
        test_source: those to measure with; None holds some out.
        settings: how clients share them.
        seed: of that.
        whole_groups: as of `load`.
        objective: what a label is.
        private: as of `load`.

    Raises:
        DataError: as of `load`.
    """
    labels, classes = _labelled(source, settings.source, objective)
    if len(np.unique(labels, axis=0)) < 2:
        what = "have one class" if labels.ndim == 1 else "have the same label"
        raise DataError(f"{settings.source}: all examples {what}; training needs at least two")
    if problem := objective.problem_with(labels, len(classes)):
        raise DataError(f"{settings.source} {problem}")
    kinds = partition.kinds_of(labels)
    everything = np.arange(len(labels))
    rest, test = everything, everything[:0]
    groups = source.groups if whole_groups and settings.partition == "natural" else None
    times = _times(source, settings)

    def hold_out(share: float | int, purpose: str) -> tuple[Integers, Integers]:
        rng = generator(seed, purpose)
        if groups is not None:
            kept, held = partition.hold_out_groups(groups[rest], share, rng)
        else:
            kept, held = partition.hold_out(kinds[rest], share, rng)
        return rest[kept], rest[held]

    if test_source is None and times is not None:
        rest, test = partition.newest(times, settings.test_fraction)
    elif test_source is None:
        rest, test = hold_out(settings.test_fraction, "test")
    rest, calibration = hold_out(min(settings.calibration_examples, len(rest) // 10), "calibration")
    if len(calibration) == 0 or (test_source is None and len(test) == 0):
        raise DataError(f"{settings.source}: {len(labels)} examples are too few to hold out a test set")
    shared = _owners(source, kinds[rest], rest, settings, seed)
    owners = [rest[owner] for owner in shared]
    source = tables.learnt_on(source, calibration if private else rest)
    dataset = from_source(source, labels, classes, owners, test, calibration)
    if test_source is None:
        return dataset
    tested, _ = _labelled(test_source, settings.source, objective)
    held_out = Examples(test_source.load(np.arange(len(tested))), tested)
    return FederatedDataset(**{**dataset.__dict__, "test": held_out})


def _times(source: Source, settings: Data) -> Array | None:
    """Return what orders examples, where clients share them by time.

    Raises:
        DataError: nothing does.
    """
    if settings.partition != "time":
        return None
    times: Array | None = getattr(source, "times", None)
    if times is None:
        raise DataError(
            f"data.partition is 'time', but {settings.source} has no times: it takes a table and data.table.time, the "
            "column that orders rows"
        )
    return times


def _owners(source: Source, labels: Integers, rest: Integers, settings: Data, seed: int) -> list[Integers]:
    rng = generator(seed, "partition")
    if settings.partition == "flower":
        groups = None if source.groups is None else source.groups[rest]
        return partitioners.owners(labels, groups, settings.clients, settings.partitioner, seed)
    if settings.partition == "iid":
        return partition.iid(len(rest), settings.clients, rng)
    if settings.partition == "dirichlet":
        return partition.dirichlet(labels, settings.clients, settings.alpha, rng)
    if settings.partition == "shards":
        return partition.shards(labels, settings.clients, settings.labels_per_client, rng)
    if (times := _times(source, settings)) is not None:
        return partition.by_time(times[rest], settings.clients)
    if source.groups is None:
        raise DataError(
            f"data.partition is 'natural', but {settings.source} names no owner of its examples: "
            "give `groups` (npz), data.table.group (tables), a `group` in the pattern (audio), or use iid, dirichlet "
            "or shards"
        )
    return partition.natural(source.groups[rest])


def _from_object(path: str, settings: Data) -> FederatedDataset | Loaded:
    """Take data of the user's own: what a function gives, a data set's class or instance, a table."""
    found = plugins.load(path, "data.source")
    where = path
    if plugins.is_own_function(found) or plugins.is_own_class(found):
        where = f"{path}()"
        try:
            found = found()
        except Exception as error:
            raise DataError(f"{where} raised {type(error).__name__}: {error}") from error
    elif callable(found) and not hasattr(found, "__getitem__"):
        raise ExperimentError(f"data.source {path!r} is {type(found).__name__}, not a function of yours")
    return objects.loaded(found, where, settings)
