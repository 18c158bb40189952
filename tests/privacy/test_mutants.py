"""Tests of the tests: sabotages of privacy must be noticed (tests/privacy/mutants.py)."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("mutants", Path(__file__).with_name("mutants.py"))
mutants = importlib.util.module_from_spec(_spec)
sys.modules["mutants"] = mutants
_spec.loader.exec_module(mutants)


@pytest.mark.long
@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_a_sabotage_is_noticed(mutant):
    if mutant.page and shutil.which("chromium") is None:
        pytest.skip("Chromium is not there: make test-devices installs it")
    assert mutants.survives(mutant) == ""


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_each_sabotage_still_has_its_place(mutant):
    package = Path(mutants.edgekit.__file__).parent
    assert (package / mutant.file).read_text().count(mutant.old) == 1
