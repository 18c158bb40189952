"""The examples in the docstrings of the Python API run; what they print is of the run that they are written for."""

import doctest
import shutil

import numpy as np
import pytest

import edgekit
from edgekit import api, opened
from edgekit.privacy import planning


def _examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in (api, opened, planning):
        yield from (found for found in finder.find(module) if found.examples)


@pytest.mark.long
@pytest.mark.parametrize("found", _examples(), ids=lambda found: found.name)
def test_an_example_runs(found, trained_run, digits, tmp_path, monkeypatch):
    shutil.copytree(trained_run, tmp_path / "runs/digits-001")
    monkeypatch.chdir(tmp_path)
    known = {"edgekit": edgekit, "run": edgekit.open("runs/digits-001"), "x": np.asarray(digits.test.x)}
    for example in found.examples:
        exec(compile(example.source, found.name, "single"), known)
