"""What an experiment can name: listed, described and missed alike, whoever adds it."""

from importlib.metadata import EntryPoint, EntryPoints

import numpy as np
import pytest

from edgekit import registry
from edgekit.errors import EdgekitError, ExperimentError
from edgekit.registry import ALGORITHMS, MODELS, SELECTORS, SOURCES, STRATEGIES, Entry, Registry

ALL = (MODELS, SOURCES, ALGORITHMS, STRATEGIES, SELECTORS)


@pytest.mark.parametrize("known", ALL, ids=lambda known: known.key)
def test_what_is_listed_is_there_and_described(known):
    assert len(known) > 1
    for name, entry in known.items():
        assert entry.summary, name
        assert callable(known.load(name.replace("FILE", "x").replace("FOLDER", "x").replace("NAME", "x"))), name


@pytest.mark.parametrize("known", ALL, ids=lambda known: known.key)
def test_a_name_nearby_is_suggested(known):
    name = next(iter(known))
    with pytest.raises(ExperimentError, match=rf"{known.key} '{name}x' is unknown; did you mean '{name}'\?"):
        known.entry(f"{name}x")
    with pytest.raises(ExperimentError, match=f"known are {name}, "):
        known.entry("q")


def test_a_kind_takes_a_place_and_an_import_path_anything():
    assert SOURCES.entry("npz:data").path == "edgekit.data.readers:npz"
    assert SOURCES.entry("mine.data:load") == Entry("mine.data:load")
    with pytest.raises(ExperimentError, match="did you mean 'npz:"):
        SOURCES.entry("npz:")


@pytest.fixture
def packages(monkeypatch):
    """Entry points of installed packages."""

    def add(*points):
        made = EntryPoints([EntryPoint(name, value, "group") for name, value in points])
        monkeypatch.setattr(registry, "entry_points", lambda group: made)

    return add


def test_installed_packages_add_names(packages):
    packages(("theirs", "numpy:load"))
    known = Registry("some.key", {"ours": Entry("numpy:save", "ours")}, "group")
    assert list(known) == ["ours", "theirs"]
    assert known.load("theirs") is np.load
    assert "of the package numpy" in known["theirs"].summary


def test_two_things_of_one_name_are_an_error_that_names_both(packages):
    packages(("ours", "numpy:load"))
    known = Registry("some.key", {"ours": Entry("numpy:save", "ours")}, "group")
    assert known.load("ours") is np.save  # a run that needs no other name goes on
    with pytest.raises(EdgekitError, match="'ours' has two meanings: numpy:save, and numpy:load of the package numpy"):
        list(known)
